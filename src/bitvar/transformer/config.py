"""The transformer's configuration and the presets of the paper."""

from typing import Annotated, Final

from pydantic import Field, model_validator

from bitvar.config import CodeNorms, Config
from bitvar.errors import UsageError
from bitvar.official_schedules import official_schedules
from bitvar.scales import MAX_SCALES, MAX_SIDE, ScaleSchedule, code_norms_of

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Budget = Annotated[str, Field(max_length=16)]


class ScheduleConfig(Config):
    """A schedule that is specific to one model: see `ScaleSchedule`."""

    grids: tuple[tuple[Side, Side], ...] = Field(min_length=1, max_length=MAX_SCALES)
    reference: tuple[Side, Side]


class TransformerConfig(Config):
    """Configuration of the transformer.

    Attributes:
        depth: Number of blocks.
        width: Channels `c` of a token.
        num_heads: Heads of self- and cross-attention. `width / num_heads` must be a multiple of 4.
        bits: Bits `d` per token: the tokenizer's bits per cell, times 4 if `patch_size` is 2.
        patch_size: Tokenizer cells per token side, 1 or 2.
        code_norms: Norms of the tokenizer's codes.
        text_width: Channels of the text encoder's features.
        max_text_tokens: Maximum length of a prompt, and number of rows of the learned "no text" features.
        max_scales: Number of rows of the scale embedding.
        text_adapter_depth: Layers of the trainable text adapter; 0 for none, as in every official model.
        text_adapter_width: Channels of the adapter's output, which replaces `text_width`.
        budgets: Official pixel budgets that the model was trained on.
        schedules: Schedules of the model's own, beside those of `budgets`.
    """

    depth: int = Field(gt=0, le=256)
    width: int = Field(gt=0, le=1 << 16)
    num_heads: int = Field(gt=0, le=1 << 14)
    bits: int = Field(gt=0, le=512)
    patch_size: int = Field(default=1, ge=1, le=2)
    code_norms: CodeNorms = (1.0,)
    text_width: int = Field(default=2048, gt=0, le=1 << 16)
    max_text_tokens: int = Field(default=512, gt=0, le=1 << 16)
    max_scales: int = Field(default=15, gt=0, le=1 << 10)
    text_adapter_depth: int = Field(default=0, ge=0, le=256)
    text_adapter_width: int | None = Field(default=None, gt=0, le=1 << 16)
    budgets: tuple[Budget, ...] = Field(default=(), max_length=16)
    schedules: tuple[ScheduleConfig, ...] = Field(default=(), max_length=1024)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "TransformerConfig":
        if self.width % self.num_heads or self.head_dim % 4:
            raise ValueError(f"width {self.width} must be num_heads {self.num_heads} times a multiple of 4")
        if (self.text_adapter_depth > 0) != (self.text_adapter_width is not None):
            raise ValueError("text_adapter_depth and text_adapter_width go together")
        if self.condition_width % self.pool_heads or self.width % self.pool_heads:
            raise ValueError(f"width {self.width} must be a multiple of the {self.pool_heads} heads that pool the text")
        return self

    @model_validator(mode="after")
    def _scales_fit(self) -> "TransformerConfig":
        longest = max((len(schedule) for schedule in self.all_schedules()), default=0)
        if longest > self.max_scales:
            raise UsageError(
                "The scale embedding is too small.",
                f"the embedding (lvl_embed) has {self.max_scales} rows, but a schedule has {longest} scales",
                f"set model.max_scales={longest}",
            )
        return self

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def ffn_width(self) -> int:
        """Channels of the feed-forward: 4 c, rounded to a multiple of 256 as released (differs for 2080 and 3360)."""
        return max(1, round(4 * self.width / 256)) * 256

    @property
    def condition_width(self) -> int:
        """Channels of the text features that the transformer reads: the adapter's output, if there is an adapter."""
        return self.text_adapter_width or self.text_width

    @property
    def pool_heads(self) -> int:
        """Heads of the attention that pools the text: 128 text channels per head, or 64 in models wider than 4096."""
        return max(1, self.condition_width // (64 if self.width > 4096 else 128))

    @property
    def least_parameters(self) -> int:
        """Lower bound on the number of parameters: the blocks' projections, counted without building a model."""
        attention, feed_forward = 8 * self.width**2, 2 * self.width * self.ffn_width
        return self.depth * (attention + feed_forward) + self.max_text_tokens * self.text_width

    def all_code_norms(self) -> list[tuple[float, ...]]:
        """List the norms of every scale's codes, for each schedule of `all_schedules`."""
        return [code_norms_of(self.code_norms, len(schedule)) for schedule in self.all_schedules()]

    def all_schedules(self) -> list[ScaleSchedule]:
        """List every schedule that the model was trained on."""
        own = [ScaleSchedule(schedule.grids, schedule.reference) for schedule in self.schedules]
        return own + official_schedules(self.budgets)


def _preset(depth: int, width: int, num_heads: int, budget: str = "0.06M") -> TransformerConfig:
    return TransformerConfig(depth=depth, width=width, num_heads=num_heads, bits=32, budgets=(budget,))


PRESETS: Final[dict[str, TransformerConfig]] = {
    "125M": _preset(12, 768, 8),
    "361M": _preset(16, 1152, 12),
    "940M": _preset(24, 1536, 16),
    "2.2B": _preset(32, 2080, 20),
    "2B": _preset(32, 2048, 16, "1M"),
    "4.7B": _preset(40, 2688, 24),
    "8B": TransformerConfig(depth=40, width=3584, num_heads=28, bits=56, patch_size=2, budgets=("1M",)),
    "8.8B": _preset(48, 3360, 28),
    "20B": _preset(58, 4608, 36),
}
"""Sizes of the paper. "2B" and "8B" are those of the published models."""
