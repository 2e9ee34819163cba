"""What a tokenizer run begins from: another tokenizer's weights, fitted to other channels if need be."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bitvar.config import read_json
from bitvar.errors import UsageError, WeightsError
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.training.config import TokenizerTraining
from bitvar.training.engine.checkpoint import averaged_tensors, is_checkpoint
from bitvar.weights.digests import verify_folder
from bitvar.weights.identity import TokenizerIdentity
from bitvar.weights.model_folder import find_tokenizer
from bitvar.weights.tensors import read_tensors

_PREFIX = "tokenizer."


@dataclass(frozen=True)
class TokenizerOrigin:
    """A tokenizer as it is stored.

    Attributes:
        config: its sizes.
        tensors: its weights, in the dtypes of their file.
        identity: which one it is; none for a checkpoint of a run.
    """

    config: TokenizerConfig
    tensors: dict[str, Tensor]
    identity: TokenizerIdentity | None

    @classmethod
    def read(cls, source: Path) -> "TokenizerOrigin":
        """From a tokenizer folder, a model folder, or a checkpoint of a tokenizer run (its averages), all verified.

        Raises:
            WeightsError: if files are missing or altered, or the checkpoint holds no whole tokenizer.
        """
        verify_folder(source)
        try:
            if is_checkpoint(source):
                return cls._of_checkpoint(source)
            own = find_tokenizer(source)
            config = TokenizerConfig.load(own / "config.json")
            return cls(config, read_tensors(own), TokenizerIdentity.load(own / "identity.json"))
        except UsageError as error:
            raise WeightsError(str(error)) from None

    @classmethod
    def _of_checkpoint(cls, source: Path) -> "TokenizerOrigin":
        values = read_json(source / "config.json")
        tensors = averaged_tensors(source)
        own = {name.removeprefix(_PREFIX): t for name, t in tensors.items() if name.startswith(_PREFIX)}
        if values.get("kind") != "tokenizer" or values.get("trained") != "all":
            why = "it belongs to a transformer, or to a run that trained one half only"
            raise WeightsError(f"{source} holds no whole tokenizer.", why, "export it first: bitvar export")
        return cls(TokenizerConfig.parse(values["model"], source=str(source)), own, None)

    def load_into(self, tokenizer: InfinityTokenizer) -> None:
        """Give its weights to a tokenizer of the same sizes, which may have other channels.

        Raises:
            UsageError: if the sizes differ, naming which.
        """
        ours, theirs = tokenizer.config.model_dump(), self.config.model_dump()
        differing = [name for name in ours if name != "image_channels" and ours[name] != theirs[name]]
        if differing:
            why = ", ".join(f"{name} is {theirs[name]} there and {ours[name]} in the recipe" for name in differing)
            todo = "set the recipe's model to the sizes of --init"
            raise UsageError("The tokenizer of --init has other sizes.", why, todo)
        tensors = {name: tensor.float() for name, tensor in self.tensors.items()}
        tokenizer.load_state_dict(fit_channels(tensors, self.config.image_channels, tokenizer.config.image_channels))


def check_origin(config: TokenizerTraining, origin: TokenizerOrigin | None) -> None:
    """Refuse a run that lacks the half it doesn't train.

    Raises:
        UsageError: if it has no finished tokenizer to take that from, or one of other channels.
    """
    if config.trained == "all":
        return
    what = f"A run that trains the {config.trained} alone needs a tokenizer to --init from."
    if origin is None:
        raise UsageError(what, "its other half stays as it is", "add --init, such as --init icons")
    if origin.identity is None:
        why = "a checkpoint has no identity that its bits could be known by"
        raise UsageError(what, why, "export the checkpoint first: bitvar export")
    if origin.config.image_channels != config.model.image_channels:
        why = f"it has {origin.config.image_channels} channels, the recipe {config.model.image_channels}"
        raise UsageError(what, why, "train all of it for other channels")


def fit_channels(tensors: dict[str, Tensor], before: int, channels: int) -> dict[str, Tensor]:
    """Weights for images of other channels, whose first steps are as good as the old ones allow.

    From RGB to grey or to two channels, what enters is spread evenly over red, green and blue, and what leaves is their
    mean: a grey image passes as it did. With more than three, the first three are red, green and blue; the others are
    ignored at first, and leave as grey.

    Args:
        tensors: a tokenizer's, by name.
        before: channels of the images that they are for.
        channels: Channels of the images to train on.
    """
    if before == channels:
        return tensors
    fitted = dict(tensors)
    for name in sorted({"encoder.conv_in.weight", "encoder.skip.weight"} & tensors.keys()):
        fitted[name] = _entering(tensors[name], before, channels)
    for name in ("decoder.conv_out", "decoder.skip"):
        for kind in sorted({f"{name}.weight", f"{name}.bias"} & tensors.keys()):
            fitted[kind] = _leaving(tensors[kind], before, channels)
    return fitted


# every channel comes once for each pixel of a square (`TokenizerConfig.pixel_patch`), or of a cell


def _entering(weight: Tensor, before: int, channels: int) -> Tensor:
    """Weights that see pixels: `(outputs, channels of the image x pixels, kernel, kernel)`."""
    weight = weight.unflatten(1, (before, -1))
    if channels < 3 or before < 3:
        fitted = weight.mean(dim=1, keepdim=True).expand(-1, channels, *weight.shape[2:]) * (before / channels)
    else:
        more = weight.new_zeros(len(weight), max(0, channels - before), *weight.shape[2:])
        fitted = torch.cat([weight[:, : min(before, channels)], more], dim=1)
    return fitted.flatten(1, 2).contiguous()


def _leaving(rows: Tensor, before: int, channels: int) -> Tensor:
    """Weights or biases that give pixels: `(channels of the image x pixels, ...)`."""
    rows = rows.unflatten(0, (before, -1))
    if channels < 3 or before < 3:
        fitted = rows.mean(dim=0, keepdim=True).expand(channels, *rows.shape[1:])
    else:
        more = rows[:3].mean(dim=0, keepdim=True).expand(max(0, channels - before), *rows.shape[1:])
        fitted = torch.cat([rows[: min(before, channels)], more])
    return fitted.flatten(0, 1).contiguous()
