"""Cached features of a captioned set, computed once by the frozen tokenizer and text encoder."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bitvar.data.captions import cut_text
from bitvar.data.samples import Sample, load_images, read_samples, require_images
from bitvar.data.validation import Size
from bitvar.errors import WeightsError
from bitvar.files import atomic_path
from bitvar.finite import require_finite
from bitvar.imaging.pixels import to_signed
from bitvar.text import TextEncoder
from bitvar.tokenizer import ImageTokenizer
from bitvar.training.engine.identity import FileDigests, digest_of
from bitvar.training.transformer.long_captions import CaptionLimit
from bitvar.training.transformer.task import CaptionFeatures, FeatureSet
from bitvar.weights.digests import MANIFEST, digest, merged_digest
from bitvar.weights.tensors import load_tensors, write_tensors

Log = Callable[[str], None]

DIGESTS: Final = "digests.json"
"""File beside the features with digests of the image files, which are read again only if they were modified."""

_FORMAT: Final = 2
_PARTS: Final = {"images": ("features",), "captions": ("tokens", "offsets")}


@dataclass(frozen=True)
class FeaturesKey:
    """Digests of the two encoders, which the features depend on beside the data set."""

    tokenizer: str
    text_encoder: str


def features_key(tokenizer_sha256: str, text_encoder: TextEncoder, folder: Path) -> FeaturesKey:
    """Compute the key of a tokenizer and a text encoder.

    Args:
        tokenizer_sha256: Digest of the tokenizer's bits.
        text_encoder: Loaded text encoder.
        folder: Folder of the text encoder. Weights, vocabulary and configuration all enter the key.
    """
    named = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".txt", ".model"))
    files = merged_digest({path.name: digest(path) for path in named if path.name != MANIFEST})
    return FeaturesKey(tokenizer_sha256, f"{files} {text_encoder.hidden_states}")


def load_feature_set(
    data: Path,
    split: str,
    *,
    tokenizer: ImageTokenizer,
    text_encoder: TextEncoder,
    cache: Path,
    key: FeaturesKey,
    log: Log,
    size: Size | None = None,
    max_text_tokens: int | None = None,
) -> FeatureSet:
    """Load the features of one split from `cache`, and encode what the cache lacks.

    Cached features are reused if images, captions and encoders are the same. If only the tokenizer differs, the
    captions, which take the longest to encode, are still reused. A damaged cache is rebuilt.

    Args:
        data: Folder of the captioned set.
        split: Split of the set.
        tokenizer, text_encoder: Frozen encoders of images and captions.
        cache: Safetensors file to read and write.
        key: Key of the two encoders, from `features_key`.
        log: Function that receives progress messages.
        size: Width and height that every image must have. None requires only that all are equal.
        max_text_tokens: Maximum length of a caption; longer captions are cut. None sets no limit.

    Raises:
        UsageError: If an image is missing, broken, or of the wrong size.
        ComputationError: If an encoder's output is not finite.
    """
    samples = read_samples(data, split=split, log=log)
    captions = sorted({caption for sample in samples for caption in sample.captions})
    index = {caption: i for i, caption in enumerate(captions)}
    choices = [[index[caption] for caption in sample.captions] for sample in samples]
    images = FileDigests(cache.with_name(DIGESTS)).of([sample.path for sample in samples])
    encoder = digest_tensors(tokenizer.encoder.state_dict())
    keys = {
        "images": json.dumps(
            [_FORMAT, key.tokenizer, encoder, tokenizer.config.dump(), str(tokenizer.dtype), digest_of(images), size]
        ),
        "captions": json.dumps(
            [
                _FORMAT,
                key.text_encoder,
                _dtype(text_encoder.model),
                digest_of(map(json.dumps, captions)),
                max_text_tokens,
            ]
        ),
    }
    tensors = _cached(cache, keys, log)
    missing = [part for part, names in _PARTS.items() if not set(names) <= set(tensors)]
    if "images" in missing:
        require_images(samples, size)
        log(f"encoding {len(samples)} images of split {split!r}")
        tensors["features"] = _encode_images(samples, tokenizer)
    if "captions" in missing:
        log(f"encoding {len(captions)} captions of split {split!r}")
        limit = CaptionLimit(max_text_tokens, text_encoder.num_tokens)
        tensors |= _encode_captions(limit.fit(captions), text_encoder)
        if limit.cut and limit.limit is not None:
            log(cut_text(limit.cut, len(captions), limit.limit))
    if missing:
        sums = {f"{part}_sha256": _part_digest(tensors, part) for part in _PARTS}
        with atomic_path(cache) as temporary:
            write_tensors(tensors, temporary, metadata=keys | sums)
    return FeatureSet(tensors["features"], CaptionFeatures(tensors["tokens"], tensors["offsets"]), choices)


def load_feature_sets(
    data: Path,
    folder: Path,
    *,
    tokenizer: ImageTokenizer,
    text_encoder: TextEncoder,
    key: FeaturesKey,
    log: Log,
    max_text_tokens: int | None = None,
) -> tuple[FeatureSet, FeatureSet]:
    """Load the features of the splits "train" and "val" by `load_feature_set`, cached in a folder.

    With a run's own `max_text_tokens`, the folder's files and those of the run are the same.
    """
    train, validation = (
        load_feature_set(
            data,
            split,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            cache=folder / f"features-{split}.safetensors",
            key=key,
            log=log,
            max_text_tokens=max_text_tokens,
        )
        for split in ("train", "val")
    )
    return train, validation


def _dtype(module: nn.Module) -> str:
    return str(next(module.parameters()).dtype)


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Compute the sha256 of tensors: names, shapes, dtypes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _part_digest(tensors: Mapping[str, Tensor], part: str) -> str:
    return digest_tensors({name: tensors[name] for name in _PARTS[part]})


def _cached(cache: Path, keys: Mapping[str, str], log: Log) -> dict[str, Tensor]:
    """Load the parts of the cache whose key matches and whose digest shows no damage."""
    if not cache.is_file():
        return {}
    try:
        with safe_open(cache, "pt") as file:
            metadata = file.metadata() or {}
        found = [part for part, key in keys.items() if metadata.get(part) == key]
        tensors = load_tensors(cache) if found else {}
    except (OSError, SafetensorError, WeightsError) as error:
        log(f"{cache} is damaged ({str(error).splitlines()[0]}); encoding again")
        return {}
    kept: dict[str, Tensor] = {}
    for part in found:
        whole = set(_PARTS[part]) <= set(tensors)
        if whole and _part_digest(tensors, part) == metadata.get(f"{part}_sha256"):
            kept |= {name: tensors[name] for name in _PARTS[part]}
        else:
            log(f"{cache} is damaged (the {part} differ from their digest); encoding them again")
    return kept


@torch.inference_mode()
def _encode_images(samples: Sequence[Sample], tokenizer: ImageTokenizer) -> Tensor:
    rows = []
    for start in range(0, len(samples), 128):
        images = load_images(samples[start : start + 128], channels=tokenizer.config.image_channels)
        row = tokenizer.features(to_signed(images.to(tokenizer.device))).half().cpu()
        require_finite(row, f"the frozen tokenizer's features of images {start + 1} to {start + len(row)}")
        rows.append(row)
    return torch.cat(rows).contiguous()  # features of a channels-last tokenizer are channels-last


def _encode_captions(captions: Sequence[str], text_encoder: TextEncoder) -> dict[str, Tensor]:
    by_length = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    rows: list[Tensor] = [torch.empty(0)] * len(captions)
    for start in range(0, len(by_length), 128):
        chunk = by_length[start : start + 128]
        condition = text_encoder.encode([captions[i] for i in chunk]).to(torch.device("cpu"))
        for i, features, mask in zip(chunk, condition.features, condition.mask, strict=True):
            rows[i] = features[mask].half()
            require_finite(rows[i], f"the frozen text encoder's features of the caption {captions[i][:60]!r}")
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return {"tokens": torch.cat(rows), "offsets": offsets}
