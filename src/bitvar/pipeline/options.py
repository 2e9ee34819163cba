"""The settings of one call, checked. Knows no model: what is left out, the model fills in."""

import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypedDict

from pydantic import ConfigDict, Field, field_validator
from torch import Tensor

from bitvar import arguments
from bitvar.arguments import MAX_IMAGES
from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.sampling.noise import MAX_SEED

PerScale: TypeAlias = float | tuple[float, ...]

MAX_SIDE = 1_000_000
"""Pixels; only to keep absurd numbers out of the search for the nearest size."""


class GenerationKwargs(TypedDict, total=False):
    """The options of a call as keyword arguments, so that editors list them; `GenerationOptions` explains each."""

    height: int | None
    width: int | None
    guidance_scale: float | Sequence[float] | None
    temperature: float | Sequence[float] | None
    top_k: int | None
    top_p: float | None
    negative_prompt: str | Sequence[str | None] | None
    num_images_per_prompt: int
    seed: int | Sequence[int] | None
    given_bits: Sequence[Tensor]
    batch_invariant: bool


class GenerationOptions(Config):
    """Settings of one call; what is None comes from the model.

    Attributes:
        height, width: wanted pixels, both or neither; the nearest size the model knows is used.
        guidance_scale: 1 is off; one value or one a scale.
        temperature: 0 is greedy; one value or one a scale.
        top_k: 1 is greedy; 0 or more than 1 keeps both values of a bit.
        top_p: a bit is certain once its likelier value reaches this; 0 is off.
        negative_prompt: what guidance steers away from: one, or one a prompt. None and blank ones steer away from the
            learned "no text", as without. Refused where guidance is off.
        num_images_per_prompt: images of each prompt; a call makes at most 1,024 in all.
        seed: of the first image, the next ones count up; or one an image. From 0 to 2^63 - 1, and every bit of it
            counts. None draws one.
        given_bits: for the first scales, `(d, h_k, w_k)` booleans in tokenizer cells, used instead of drawn ones.
        batch_invariant: compute each image by itself, so that it is the same, byte for byte, in any batch and in any
            precision. False takes the batch in one pass, which is faster on GPUs: then the rounding of matrix products
            may depend on the batch, and a bit whose probability is close to its random number may fall the other way.
    """

    # `SamplingParams` names a value that is not finite better than pydantic does.
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=True)

    height: int | None = Field(default=None, gt=0, le=MAX_SIDE)
    width: int | None = Field(default=None, gt=0, le=MAX_SIDE)
    guidance_scale: PerScale | None = None
    temperature: PerScale | None = None
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    top_p: float | None = Field(default=None, ge=0, le=1)
    negative_prompt: str | tuple[str | None, ...] | None = None
    num_images_per_prompt: int = Field(default=1, ge=1, le=MAX_IMAGES)
    seed: int | tuple[int, ...] | None = None
    given_bits: tuple[Tensor, ...] = ()
    batch_invariant: bool = Field(default=True, strict=True)

    @field_validator("height", "width", "top_k", "num_images_per_prompt", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> int | None:
        return _unless_none(value, arguments.whole_number)

    @field_validator("top_p", mode="before")
    @classmethod
    def _real(cls, value: Any) -> float | None:
        return _unless_none(value, arguments.real_number)

    @field_validator("guidance_scale", "temperature", mode="before")
    @classmethod
    def _per_scale(cls, value: Any) -> PerScale | None:
        return _unless_none(value, arguments.per_scale)

    @field_validator("negative_prompt", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> str | tuple[str | None, ...] | None:
        if value is None or isinstance(value, str):
            return _unless_none(value, arguments.text)
        return tuple(_unless_none(entry, arguments.text) for entry in arguments.entries(value))

    @field_validator("seed", mode="before")
    @classmethod
    def _seed_in_range(cls, value: Any) -> int | tuple[int, ...] | None:
        seed = _unless_none(value, arguments.whole_numbers)
        for one in (seed,) if isinstance(seed, int) else seed or ():
            if not 0 <= one <= MAX_SEED:
                raise ValueError(f"a seed lies between 0 and 2^63 - 1, got {arguments.shown(one)}")
        return seed

    def copies(self, num_prompts: int) -> int:
        """How many images the call makes of each prompt.

        Raises:
            UsageError: when those of all prompts are too many for one call.
        """
        if num_prompts * self.num_images_per_prompt > MAX_IMAGES:
            raise UsageError(
                f"{num_prompts:,} prompts of {self.num_images_per_prompt:,} images each are too many for a call.",
                f"a call makes at most {MAX_IMAGES:,} images, since all are held in memory",
                "lower num_images_per_prompt, or call several times",
            )
        return self.num_images_per_prompt

    def seeds(self, count: int) -> list[int]:
        """One an image, of `count`; drawn where none was given.

        Raises:
            UsageError: when there are more or fewer seeds than images.
        """
        seed = secrets.randbelow(2**32) if self.seed is None else self.seed
        if isinstance(seed, int):
            return [(seed + i) % (MAX_SEED + 1) for i in range(count)]
        if len(seed) != count:
            raise UsageError(
                f"The list of seeds has {len(seed)}, and {count} are needed.",
                "each image takes one",
                f"give a list of {count}, or one number that the images count up from",
            )
        return list(seed)

    def negatives(self, num_prompts: int) -> list[str | None]:
        """One an image; None where there is none, or a blank one.

        Raises:
            UsageError: when there are more or fewer negative prompts than prompts.
        """
        given = self.negative_prompt
        each = given if isinstance(given, tuple) else (given,) * num_prompts
        if len(each) != num_prompts:
            raise UsageError(
                f"{len(each)} negative prompts for {num_prompts} prompts.",
                "they go in pairs",
                "give one, or one a prompt",
            )
        present = [text if text and text.strip() else None for text in each]
        return [text for text in present for _ in range(self.num_images_per_prompt)]


def _unless_none(value: Any, rule: Callable[[Any], Any]) -> Any:
    return None if value is None else rule(value)
