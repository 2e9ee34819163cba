"""Initial weights of a tokenizer run: another tokenizer's, adapted to a new number of channels if necessary."""

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
    """A stored tokenizer to start from.

    Attributes:
        config: Configuration of the tokenizer.
        tensors: Weights by name, in the dtypes of their file.
        identity: Identity of the tokenizer; None for a training checkpoint.
    """

    config: TokenizerConfig
    tensors: dict[str, Tensor]
    identity: TokenizerIdentity | None

    @classmethod
    def read(cls, source: Path) -> "TokenizerOrigin":
        """Read and verify a tokenizer folder, a model folder, or the averaged weights of a tokenizer checkpoint.

        Raises:
            WeightsError: If files are missing or altered, or the checkpoint holds no whole tokenizer.
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
            why = "it is a checkpoint of a transformer, or of a run that trains only one half of a tokenizer"
            raise WeightsError(f"{source} holds no whole tokenizer.", why, "export it first: bitvar export")
        return cls(TokenizerConfig.parse(values["model"], source=str(source)), own, None)

    def load_into(self, tokenizer: InfinityTokenizer) -> None:
        """Load the weights into a tokenizer of the same sizes. The number of image channels may differ.

        Raises:
            UsageError: If other sizes differ. The message names them.
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
    """Check that a run that trains one half of a tokenizer has the other half.

    Raises:
        UsageError: If there is no finished tokenizer to start from, or its number of channels differs.
    """
    if config.trained == "all":
        return
    what = f"A run that trains only the {config.trained} needs a tokenizer to --init from."
    if origin is None:
        raise UsageError(what, "the other half is not trained", "add --init, such as --init icons")
    if origin.identity is None:
        why = "a checkpoint has no identity to tell which tokenizer its bits belong to"
        raise UsageError(what, why, "export the checkpoint first: bitvar export")
    if origin.config.image_channels != config.model.image_channels:
        why = f"it has {origin.config.image_channels} channels, the recipe {config.model.image_channels}"
        raise UsageError(what, why, "train all of it to change the channels: --set trained=all")


def fit_channels(tensors: dict[str, Tensor], before: int, channels: int) -> dict[str, Tensor]:
    """Adapt a tokenizer's weights to images with another number of channels.

    From RGB to one or two channels, the input weights are averaged over red, green and blue, and so are the output
    weights, so that a grey image is reconstructed as before. To more than three channels, the first three keep the
    weights of red, green and blue; the others are ignored in the input and start as grey in the output.

    Args:
        tensors: Weights of the tokenizer, by name.
        before: Number of channels that the weights were trained for.
        channels: Number of channels of the images to train on.
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


# each channel occurs once per pixel of a patch (`TokenizerConfig.pixel_patch`) or of a cell


def _entering(weight: Tensor, before: int, channels: int) -> Tensor:
    """Adapt weights that read pixels, of shape `(outputs, image channels x pixels, kernel, kernel)`."""
    weight = weight.unflatten(1, (before, -1))
    if channels < 3 or before < 3:
        fitted = weight.mean(dim=1, keepdim=True).expand(-1, channels, *weight.shape[2:]) * (before / channels)
    else:
        more = weight.new_zeros(len(weight), max(0, channels - before), *weight.shape[2:])
        fitted = torch.cat([weight[:, : min(before, channels)], more], dim=1)
    return fitted.flatten(1, 2).contiguous()


def _leaving(rows: Tensor, before: int, channels: int) -> Tensor:
    """Adapt weights or biases that output pixels, of shape `(image channels x pixels, ...)`."""
    rows = rows.unflatten(0, (before, -1))
    if channels < 3 or before < 3:
        fitted = rows.mean(dim=0, keepdim=True).expand(channels, *rows.shape[1:])
    else:
        more = rows[:3].mean(dim=0, keepdim=True).expand(max(0, channels - before), *rows.shape[1:])
        fitted = torch.cat([rows[: min(before, channels)], more])
    return fitted.flatten(0, 1).contiguous()
