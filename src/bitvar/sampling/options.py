"""The settings of one call, checked. Knows no model: what is left out, the model fills in."""

import secrets
from typing import TypeAlias

from pydantic import ConfigDict, Field, field_validator
from torch import Tensor

from bitvar.config import Config
from bitvar.errors import UsageError, explain

PerScale: TypeAlias = float | tuple[float, ...]


class GenerationOptions(Config):
    """Settings of one call; what is None comes from the model.

    Attributes:
        height, width: wanted pixels, both or neither; the nearest size the model knows is used.
        guidance_scale: 1 is off; one value or one a scale.
        temperature: 0 is greedy; one value or one a scale.
        top_k: 1 is greedy; 0 or more than 1 keeps both values of a bit.
        top_p: a bit is certain once its likelier value reaches this; 0 is off.
        negative_prompt: what guidance steers away from: one, or one a prompt. Refused where guidance is off.
        num_images_per_prompt: pictures of each prompt.
        seed: of the first picture, the next ones count up; or one a picture. None draws one.
        given_bits: for the first scales, `(d, h_k, w_k)` booleans in tokenizer cells, used instead of drawn ones.
    """

    # `SamplingParams` names a value that is not finite better than pydantic does.
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=True)

    height: int | None = Field(default=None, gt=0)
    width: int | None = Field(default=None, gt=0)
    guidance_scale: PerScale | None = None
    temperature: PerScale | None = None
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)
    negative_prompt: str | tuple[str, ...] | None = None
    num_images_per_prompt: int = Field(default=1, ge=1)
    seed: int | tuple[int, ...] | None = None
    given_bits: tuple[Tensor, ...] = ()

    @field_validator("seed")
    @classmethod
    def _seed_in_range(cls, seed: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        for value in (seed,) if isinstance(seed, int) else seed or ():
            if not 0 <= value < 2**63:
                raise ValueError(f"a seed lies between 0 and 2^63 - 1, got {value}")
        return seed

    def seeds(self, count: int) -> list[int]:
        """One a picture, of `count`; drawn where none was given.

        Raises:
            UsageError: when there are more or fewer seeds than pictures.
        """
        seed = secrets.randbelow(2**32) if self.seed is None else self.seed
        if isinstance(seed, int):
            return [(seed + i) % 2**63 for i in range(count)]
        if len(seed) != count:
            raise UsageError(
                explain(f"{len(seed)} seeds for {count} pictures.", "each needs one", f"give one seed, or {count}")
            )
        return list(seed)

    def negatives(self, num_prompts: int) -> list[str] | None:
        """One a picture, or None.

        Raises:
            UsageError: when there are more or fewer negative prompts than prompts.
        """
        if self.negative_prompt is None:
            return None
        each = (self.negative_prompt,) * num_prompts if isinstance(self.negative_prompt, str) else self.negative_prompt
        if len(each) != num_prompts:
            raise UsageError(
                explain(
                    f"{len(each)} negative prompts for {num_prompts} prompts.",
                    "they go in pairs",
                    "give one, or one a prompt",
                )
            )
        return [text for text in each for _ in range(self.num_images_per_prompt)]
