"""What a transformer run reads, made once by the frozen tokenizer and text encoder, and kept beside the run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from bitvar.checkpoints.files import digest, load_tensors, merged_digest, write_tensors
from bitvar.data.captions import cut_all, cut_text
from bitvar.data.samples import Sample, load_images, read_samples
from bitvar.files import atomic_path
from bitvar.text import TextEncoder
from bitvar.tokenizer import InfinityTokenizer
from bitvar.tokenizer.pixels import to_signed
from bitvar.training.transformer_task import CaptionFeatures, FeatureSet

Report = Callable[[str], None]


@dataclass(frozen=True)
class FeaturesKey:
    """What the features of a set depend on beside the set: the two encoders, by digest."""

    tokenizer: str
    text_encoder: str


def features_key(tokenizer_sha256: str, text_encoder: TextEncoder, folder: Path) -> FeaturesKey:
    """The key of two encoders; `folder` is the text one's."""
    weights = merged_digest({path.name: digest(path) for path in folder.glob("*.safetensors")})
    return FeaturesKey(tokenizer_sha256, f"{weights} {text_encoder.hidden_states}")


def prepare(
    data: Path,
    split: str,
    *,
    tokenizer: InfinityTokenizer,
    text_encoder: TextEncoder,
    cache: Path,
    key: FeaturesKey,
    report: Report,
    max_text_tokens: int | None = None,
) -> FeatureSet:
    """The feature set of one split, from `cache` as far as that was made with the same `key`.

    A cache of another tokenizer still has the captions, which take the longest.

    Args:
        data: a captioned set.
        split: of the set.
        tokenizer, text_encoder: frozen.
        cache: a safetensors file.
        key: from `features_key`.
        report: receives progress.
        max_text_tokens: what the model reads of a text; longer captions are cut to it. All of it if None.
    """
    samples = read_samples(data, split=split, report=report)
    captions = sorted({caption for sample in samples for caption in sample.captions})
    index = {caption: i for i, caption in enumerate(captions)}
    choices = [[index[caption] for caption in sample.captions] for sample in samples]
    source = [digest(data / "samples.jsonl"), split]
    keys = {
        "pictures": json.dumps([key.tokenizer, *source]),
        "captions": json.dumps([key.text_encoder, *source, max_text_tokens]),
    }
    found, tensors = _cached(cache, keys)
    if "pictures" not in found:
        report(f"encoding {len(samples)} pictures of split {split!r}")
        tensors["features"] = _encode_images(samples, tokenizer)
    if "captions" not in found:
        report(f"encoding {len(captions)} captions of split {split!r}")
        read = captions
        if max_text_tokens is not None:
            read, cut = cut_all(captions, text_encoder.num_tokens, max_text_tokens)
            if cut:
                report(cut_text(cut, len(captions), max_text_tokens))
        tensors |= _encode_captions(read, text_encoder)
    if len(found) < len(keys):
        with atomic_path(cache) as temporary:
            write_tensors(tensors, temporary, metadata=keys)
    return FeatureSet(tensors["features"], CaptionFeatures(tensors["tokens"], tensors["offsets"]), choices)


def _cached(cache: Path, keys: dict[str, str]) -> tuple[set[str], dict[str, Tensor]]:
    """Which parts of the cache are those of the keys, and the cache's tensors if any is."""
    if not cache.is_file():
        return set(), {}
    with safe_open(cache, "pt") as file:
        metadata = file.metadata() or {}
    found = {part for part, key in keys.items() if metadata.get(part) == key}
    return found, load_tensors(cache) if found else {}


@torch.inference_mode()
def _encode_images(samples: Sequence[Sample], tokenizer: InfinityTokenizer) -> Tensor:
    chunks = [samples[start : start + 128] for start in range(0, len(samples), 128)]
    rows = [tokenizer.features(to_signed(load_images(chunk).to(tokenizer.device))).half().cpu() for chunk in chunks]
    return torch.cat(rows).contiguous()  # a tokenizer laid out channels-last gives features laid out so


def _encode_captions(captions: Sequence[str], text_encoder: TextEncoder) -> dict[str, Tensor]:
    by_length = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    rows: list[Tensor] = [torch.empty(0)] * len(captions)
    for start in range(0, len(by_length), 128):
        chunk = by_length[start : start + 128]
        condition = text_encoder.encode([captions[i] for i in chunk]).to(torch.device("cpu"))
        for i, features, mask in zip(chunk, condition.features, condition.mask, strict=True):
            rows[i] = features[mask].half()
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return {"tokens": torch.cat(rows), "offsets": offsets}
