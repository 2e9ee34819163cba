"""Captioned pictures of a folder: `samples.jsonl` and the files it names."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from bitvar.data.pictures import FORMATS
from bitvar.errors import UsageError, explain


@dataclass(frozen=True)
class Sample:
    """One picture: its file, the captions that all describe it, and whatever labels the set has."""

    path: Path
    captions: tuple[str, ...]
    split: str
    labels: dict[str, Any]


def read_samples(folder: Path, *, split: str | None) -> list[Sample]:
    """The samples of one split, or all of them for None.

    Raises:
        UsageError: if the folder has no `samples.jsonl`, a line of it is broken, or the split is empty.
    """
    path = folder / "samples.jsonl"
    if not path.is_file():
        raise UsageError(
            explain(
                f"{folder} is no captioned set.", "it has no samples.jsonl", f"make one: bitvar data icons {folder}"
            )
        )
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            sample = Sample(folder / row["image_path"], tuple(row["captions"]), row["split"], row)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                explain(f"Line {number} of {path} is broken.", repr(error), "make the set again")
            ) from None
        if split is None or sample.split == split:
            samples.append(sample)
    if not samples:
        raise UsageError(explain(f"{folder} has no split {split!r}.", "no sample names it", "make the set again"))
    return samples


def load_images(samples: Sequence[Sample]) -> UInt8[Tensor, "n 3 H W"]:
    """Every picture of the samples, in memory; they must be of one size."""
    arrays = []
    for sample in samples:
        with Image.open(sample.path, formats=FORMATS) as image:
            arrays.append(np.asarray(image.convert("RGB")))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
