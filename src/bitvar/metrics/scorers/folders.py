"""Where scoring networks come from: a local folder or a hub id, loaded by transformers without running its code."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.errors import UsageError, WeightsError
from bitvar.files import open_plain
from bitvar.weights.hub import resolve_model

T = TypeVar("T")


@dataclass(frozen=True)
class ScorerFolder:
    """A network's files.

    Attributes:
        name: Name that was given: a folder or a hub id.
        path: Folder on disk.
    """

    name: str
    path: Path

    @classmethod
    def find(cls, name: str, *, revision: str | None = None) -> "ScorerFolder":
        """Find a folder on disk, or fetch a snapshot from the hub.

        Raises:
            UsageError: for a name that resolves to nothing.
            WeightsError: if the hub can't be reached.
        """
        return cls(name, resolve_model(name, revision, what="scorer"))

    @property
    def sha256(self) -> str:
        """Digest of all files of the folder, by name."""
        total = hashlib.sha256()
        for path in sorted(
            entry for entry in self.path.iterdir() if entry.is_file() and not entry.name.startswith(".")
        ):
            total.update(f"{path.name} {file_digest(path)}\n".encode())
        return total.hexdigest()

    def load(self, kind: Callable[..., T], **options: Any) -> T:
        """Load a part with its `from_pretrained`.

        Raises:
            WeightsError: if the folder doesn't hold it.
        """
        try:
            return kind(self.path, local_files_only=True, trust_remote_code=False, **options)
        except Exception as error:  # the library raises errors of many classes
            why = " ".join(str(error).split())[:200]
            raise WeightsError(f"Can't load a scorer from {self.name}.", why, "check the folder") from None


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, piece by piece.

    Raises:
        UsageError: for a file that can't be read.
    """
    try:
        with open_plain(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"Can't read {path}.", error.strerror or str(error), "check the path") from None


def digest_of_all(digests: Sequence[str]) -> str:
    """Compute one digest of several."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def normalized(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Float[Tensor, "3 H W"]:
    """Convert an RGB image to a tensor, minus `mean` and divided by `std`, both on a scale of 0 to 1."""
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    planes = pixels.reshape(image.height, image.width, 3).permute(2, 0, 1).float() / 255
    return (planes - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
