"""A watermark in the bits: green lists, drawn from a secret key, towards which the sampler is biased.

After BitMark (Kerner et al., arXiv 2506.21209). For every bit of a scale and every value of the bits before it in the
same token (its context), a pseudorandom function of the key says which value is green. The sampler shifts the log-odds
of each bit by `delta` towards green, so an image that was drawn with the key has more green bits than the half that
chance gives. Here the function also reads the bit's position, so each list is used at most once in an image, and the
count of an image that knows nothing of the key is exactly binomial over all keys.

This module knows keys and lists, not logits or images, and needs no torch: `draw` applies the bias, and
`provenance.detection` counts.
"""

import hashlib
import secrets
import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool

from bitvar.errors import UsageError

SECRET_BYTES: Final = 32
MAX_DELTA: Final = 20.0
MAX_CONTEXT: Final = 8
MAX_FIRST_SCALE: Final = 63

_LISTS: Final = b"bitvar watermark 1: green lists"
_ID: Final = b"bitvar watermark 1: key id"


class GreenLists(NamedTuple):
    """The green value of each bit of a scale after each context, and the strength of the bias.

    Attributes:
        values: Array of shape `(l, d, 2^context)`. A context is a number whose lowest binary digit is the bit before;
            bits before the first of a token count as 0.
        delta: Shift of the log-odds towards green.
    """

    values: Bool[np.ndarray, "l d contexts"]
    delta: float


@dataclass(frozen=True)
class Watermark:
    """A secret key and how it marks images. The key appears in no text of this object.

    Attributes:
        secret: Secret of 32 bytes.
        delta: Shift of the guided logits' log-odds towards green; temperature, top-k and top-p act on the result.
        context: Number of preceding bits of the same token that a green list depends on. Each of them that re-encoding
            gets wrong hides a green bit.
        first_scale: Index of the first scale that is marked. Coarser scales have few bits, and each of them shows.
    """

    secret: bytes = field(repr=False)
    delta: float = 3.0
    context: int = 0
    first_scale: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) != SECRET_BYTES:
            why = f"it takes {SECRET_BYTES} bytes"  # never what was given
            raise UsageError("The secret of a watermark can't be used.", why, "make one with Watermark.new()")
        check_settings(delta=self.delta, context=self.context, first_scale=self.first_scale)

    @staticmethod
    def new(*, delta: float = delta, context: int = context, first_scale: int = first_scale) -> "Watermark":
        """Make a watermark with a new secret from the operating system."""
        return Watermark(secrets.token_bytes(SECRET_BYTES), delta, context, first_scale)

    @property
    def key_id(self) -> str:
        """Public name of the key: 16 hexadecimal digits that don't reveal the secret. Other settings, another name."""
        settings = struct.pack("<dqq", self.delta, self.context, self.first_scale)
        return hashlib.sha256(_ID + self.secret + settings).hexdigest()[:16]

    def green_lists(self, k: int, tokens: int, bits: int) -> GreenLists | None:
        """Make the green lists of a scale; None if the scale isn't marked.

        Args:
            k: Index of the scale.
            tokens: Number of tokens of the scale.
            bits: Number of bits per token.
        """
        if k < self.first_scale:
            return None
        count = tokens * bits << self.context
        name = _LISTS + self.secret + struct.pack("<qqqq", k, tokens, bits, self.context)
        stream = np.frombuffer(hashlib.shake_256(name).digest(-(-count // 8)), np.uint8)
        values = np.unpackbits(stream, count=count).astype(bool).reshape(tokens, bits, 1 << self.context)
        return GreenLists(values, float(self.delta))

    def green_bits(self, k: int, tokens: Bool[np.ndarray, "l d"]) -> Bool[np.ndarray, "l d"] | None:
        """Say which bits of a scale are green; None if the scale isn't marked.

        Args:
            k: Index of the scale.
            tokens: Bits of the scale, token by token (`bits.to_tokens`).
        """
        lists = self.green_lists(k, *tokens.shape)
        if lists is None:
            return None
        contexts = np.zeros(tokens.shape, np.int64)
        for back in range(1, min(self.context, tokens.shape[1] - 1) + 1):
            contexts[:, back:] |= tokens[:, :-back].astype(np.int64) << (back - 1)
        return tokens == np.take_along_axis(lists.values, contexts[..., None], axis=-1)[..., 0]


def check_settings(*, delta: object, context: object, first_scale: object) -> None:
    """Refuse settings of a watermark that are of the wrong kind or out of bounds.

    Raises:
        UsageError: naming the setting.
    """
    rules = (
        ("delta", delta, False, MAX_DELTA),
        ("context", context, True, MAX_CONTEXT),
        ("first_scale", first_scale, True, MAX_FIRST_SCALE),
    )
    for name, value, whole, high in rules:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
        if not 0 <= number <= high or (whole and not isinstance(value, int)):
            why = f"it must be a {'whole ' if whole else ''}number from 0 to {high:g}"
            raise UsageError(f"The {name} of a watermark can't be used.", why, "choose one in that range")
