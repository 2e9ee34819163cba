"""What a transformer run reads, made once by the frozen tokenizer and text encoder, and kept beside the run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitvar.checkpoints.files import digest, load_tensors, merged_digest
from bitvar.data.samples import Sample, load_images, read_samples
from bitvar.files import atomic_path
from bitvar.text import TextEncoder
from bitvar.tokenizer import InfinityTokenizer
from bitvar.tokenizer.pixels import to_signed
from bitvar.training.transformer_task import CaptionFeatures, FeatureSet

Report = Callable[[str], None]


def features_key(tokenizer_sha256: str, text_encoder: TextEncoder, folder: Path) -> str:
    """What the features of a set depend on beside the set: the two encoders, by digest; `folder` is the text one's."""
    weights = merged_digest({path.name: digest(path) for path in folder.glob("*.safetensors")})
    return f"{tokenizer_sha256} {weights} {text_encoder.hidden_states}"


def prepare(
    data: Path,
    split: str,
    *,
    tokenizer: InfinityTokenizer,
    text_encoder: TextEncoder,
    cache: Path,
    key: str,
    report: Report,
) -> FeatureSet:
    """The feature set of one split, from `cache` if that was made with the same `key`.

    Args:
        data: a captioned set.
        split: of the set.
        tokenizer, text_encoder: frozen.
        cache: a safetensors file.
        key: from `features_key`.
        report: receives progress.
    """
    samples = read_samples(data, split=split)
    captions = sorted({caption for sample in samples for caption in sample.captions})
    index = {caption: i for i, caption in enumerate(captions)}
    choices = [[index[caption] for caption in sample.captions] for sample in samples]
    key = json.dumps([key, digest(data / "samples.jsonl"), split])
    tensors = _cached(cache, key)
    if tensors is None:
        report(f"encoding {len(samples)} pictures and {len(captions)} captions of split {split!r}")
        tensors = {"features": _encode_images(samples, tokenizer), **_encode_captions(captions, text_encoder)}
        with atomic_path(cache) as temporary:
            save_file(tensors, temporary, metadata={"key": key})
    return FeatureSet(tensors["features"], CaptionFeatures(tensors["tokens"], tensors["offsets"]), choices)


def _cached(cache: Path, key: str) -> dict[str, Tensor] | None:
    if not cache.is_file():
        return None
    with safe_open(cache, "pt") as file:
        metadata = file.metadata() or {}
    return load_tensors(cache) if metadata.get("key") == key else None


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
