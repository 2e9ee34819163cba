"""Identities of tokenizers, and the check that a transformer and a tokenizer belong together."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bitvar.config import Config
from bitvar.errors import UsageError, WeightsError
from bitvar.tokenizer import TokenizerConfig
from bitvar.transformer import TransformerConfig

Name = Annotated[str, Field(max_length=255)]
Digest = Annotated[str, Field(max_length=64)]


class TokenizerIdentity(Config):
    """The identity of a tokenizer.

    Attributes:
        name: Name for people.
        sha256: Digest of the tokenizer's tensors as they were first exported.
        encoder_of: `sha256` of the tokenizer that this one shares its encoder with, and so its bits. None for a
            tokenizer with an encoder of its own.
    """

    name: Name
    sha256: Digest
    encoder_of: Digest | None = None

    @property
    def bits_sha256(self) -> str:
        """A digest that is equal for tokenizers that make the same bits from the same image."""
        return self.encoder_of or self.sha256


def identify(name: str, tensors: Mapping[str, Tensor], code_norms: Sequence[float] = (1.0,)) -> TokenizerIdentity:
    """Identify a tokenizer by a digest over its tensors (name, shape, dtype, bytes) and any code norms other than 1."""
    sha256 = hashlib.sha256()
    if any(norm != 1 for norm in code_norms):
        sha256.update(f"{[float(norm) for norm in code_norms]}\n".encode())
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        sha256.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        sha256.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return TokenizerIdentity(name=name, sha256=sha256.hexdigest())


def check_pair(expected: TokenizerIdentity, given: TokenizerIdentity) -> None:
    """Refuse a tokenizer that the transformer was not trained with. The pair would load and generate bad images.

    Raises:
        WeightsError: naming both tokenizers, with their digests.
    """
    if expected.bits_sha256 != given.bits_sha256:
        raise WeightsError(
            f"The tokenizer {given.name!r} does not belong to this transformer.",
            f"it was trained with {expected.name!r} (sha256 {expected.bits_sha256}), this one is sha256"
            f" {given.bits_sha256}",
            f"put the tokenizer {expected.name!r} in image_tokenizer/",
        )


def check_bits(transformer: TransformerConfig, tokenizer: TokenizerConfig) -> None:
    """Refuse configurations that don't match: a transformer predicts and sums exactly its tokenizer's codes.

    Raises:
        UsageError: naming both values.
    """
    bits = tokenizer.bits * transformer.patch_size**2
    required: dict[str, object] = {"bits": bits, "code_norms": tokenizer.code_norms}
    for name, value in required.items():
        found = getattr(transformer, name)
        if found != value:
            raise UsageError(
                "This transformer does not fit this tokenizer.",
                f"its {name} is {_override(found)}; for that tokenizer it must be {_override(value)}",
                f"set model.{name}={_override(value)}",
            )


def _override(value: object) -> str:
    """Format a value as `--set` takes it."""
    return json.dumps(value, separators=(",", ":"))
