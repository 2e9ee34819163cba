"""The transformer: predicts the logits of every bit of the next scale from the text and the coarser scales.

`forward` computes all scales at once, for training and likelihood. `start_decoding` and `decode_scale` compute one
scale at a time with a cache, for sampling. Both run the same blocks. This module knows nothing about tokenizers,
sampling parameters, devices or precision.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.bits import to_tokens
from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.nn.attention import AttentionFn, BlockCausal
from bitvar.nn.kv_cache import DecodingCache, KVCache
from bitvar.nn.linear import Linear
from bitvar.nn.norms import layer_norm
from bitvar.nn.rope import rope_table
from bitvar.scales import ScaleSchedule
from bitvar.transformer.block import Block, TextKV, TextMemory
from bitvar.transformer.config import TransformerConfig
from bitvar.transformer.embed import TextEmbedding


@dataclass(frozen=True)
class EncodedCondition:
    """Everything the blocks and the head read from the text, computed once per prompt.

    Attributes:
        pooled: Tensor of shape `(b, c)`, `cond` in the paper, from which the start token and modulation are made.
        modulation: Tensor of shape `(b, 6, c)`, shared by the blocks.
        head_scale, head_shift: Tensors of shape `(b, 1, c)`, the head's own modulation.
        memory: Text features that every block projects to keys and values.
    """

    pooled: Tensor
    modulation: Tensor
    head_scale: Tensor
    head_shift: Tensor
    memory: TextMemory

    def first_rows(self, rows: int) -> "EncodedCondition":
        """Return the first `rows` rows of the batch."""
        return EncodedCondition(
            self.pooled[:rows],
            self.modulation[:rows],
            self.head_scale[:rows],
            self.head_shift[:rows],
            TextMemory(self.memory.features[:rows], self.memory.mask[:rows]),
        )


@dataclass(frozen=True)
class DecodeState:
    """State of one segment of sampling: consecutive scales that are decoded with the same rows.

    Only the contents of the cache change from scale to scale, so each (schedule, scale, rows) has static shapes.

    Attributes:
        condition: Encoded text of `b` rows.
        text: Keys and values of the text for every block.
        start: Input of scale 0, of shape `(b, 1, c)`.
        schedule: Schedule being decoded.
        rope: Rotary positions of every token of the schedule.
        cache: Keys and values of the scales decoded so far.
    """

    condition: EncodedCondition
    text: tuple[TextKV, ...]
    start: Float[Tensor, "b 1 c"]
    schedule: ScaleSchedule
    rope: Float[Tensor, "l pairs 2"]
    cache: DecodingCache

    @property
    def rows(self) -> int:
        return self.cache.rows

    def first_rows(self, rows: int) -> "DecodeState":
        """Begin the next segment with the first `rows` of the batch, as when guidance ends."""
        return DecodeState(
            self.condition.first_rows(rows),
            tuple(layer.first_rows(rows) for layer in self.text),
            self.start[:rows],
            self.schedule,
            self.rope,
            self.cache.narrow(rows=rows, capacity=self.cache.capacity),
        )


class InfinityTransformer(nn.Module):
    """The next-scale bitwise transformer (Han et al., arXiv 2412.04431)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.text = TextEmbedding(config)
        self.start_token = nn.Parameter(torch.empty(width))
        self.scale_embedding = nn.Parameter(torch.empty(config.max_scales, width))
        self.input_proj = Linear(config.bits, width)
        self.shared_modulation = Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_modulation = Linear(width, 2 * width)
        self.head = Linear(width, 2 * config.bits)

    @property
    def dtype(self) -> torch.dtype:
        return self.start_token.dtype

    @property
    def device(self) -> torch.device:
        return self.start_token.device

    def encode_condition(self, condition: TextCondition, *, dtype: torch.dtype | None = None) -> EncodedCondition:
        """Encode the text, once per prompt.

        Args:
            condition: Features of shape `(b, t, text_width)`.
            dtype: Data type of all later activations; None for the parameters'. Mixed precision sets it.

        Raises:
            UsageError: If a prompt is longer than `max_text_tokens`.
        """
        tokens, limit = condition.features.shape[1], self.config.max_text_tokens
        if tokens > limit:
            raise UsageError(
                f"The prompt is {tokens} tokens long.", f"this model reads at most {limit}", "shorten the prompt"
            )
        pooled, features = self.text(condition, dtype or self.dtype)
        active = F.silu(pooled)
        scale, shift = self.head_modulation(active)[:, None].chunk(2, dim=-1)
        return EncodedCondition(
            pooled=pooled,
            modulation=rearrange(self.shared_modulation(active), "b (s c) -> b s c", s=6),
            head_scale=scale,
            head_shift=shift,
            memory=TextMemory(features, condition.mask),
        )

    def start_tokens(self, condition: EncodedCondition) -> Float[Tensor, "b 1 c"]:
        """Embed scale 0 as the sum of the pooled text and a learned start token."""
        x = condition.pooled + self.start_token.to(condition.pooled.dtype)
        return (x + self.scale_embedding[0].to(x.dtype))[:, None]

    def embed(
        self, resized: Float[Tensor, "b _ h w"], k: int, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "b l c"]:
        """Embed scale `k` >= 1 from the latent so far, resized to its grid (`pyramid.next_input`)."""
        x = self.input_proj(to_tokens(resized, self.config.patch_size).to(dtype or self.dtype))
        return x + self.scale_embedding[k].to(x.dtype)

    def rope(self, schedule: ScaleSchedule) -> Float[Tensor, "l pairs 2"]:
        """Compute the rotary positions of every token of a schedule."""
        return rope_table(schedule.positions().to(self.device), self.config.head_dim)

    def forward(
        self,
        condition: TextCondition,
        inputs: list[Float[Tensor, "b _ _ _"]],
        schedule: ScaleSchedule,
        *,
        dtype: torch.dtype | None = None,
        attention: AttentionFn | None = None,
    ) -> Float[Tensor, "b l d 2"]:
        """Compute the logits of every bit of every scale. Each scale attends to itself and the coarser ones.

        Args:
            condition: Text features of `b` prompts.
            inputs: Latent so far at the grid of each scale from 1 on (`pyramid.next_input`).
            schedule: Schedule with one more scale than there are inputs.
            dtype: Data type of the blocks; None for the parameters'. Mixed precision training sets it.
            attention: Implementation of attention over this schedule; None for `BlockCausal`, in plain PyTorch.
        """
        encoded = self.encode_condition(condition, dtype=dtype)
        return self.forward_tokens(self.embed_scales(encoded, inputs), encoded, schedule, attention=attention)

    def embed_scales(
        self, condition: EncodedCondition, inputs: list[Float[Tensor, "b _ _ _"]]
    ) -> Float[Tensor, "b l c"]:
        """Embed all scales, in the dtype of the encoded text: the start token, and the latent so far of each other."""
        dtype = condition.pooled.dtype
        embedded = [self.embed(resized, k, dtype) for k, resized in enumerate(inputs, start=1)]
        return torch.cat([self.start_tokens(condition), *embedded], dim=1)

    def forward_tokens(
        self,
        tokens: Float[Tensor, "b l c"],
        condition: EncodedCondition,
        schedule: ScaleSchedule,
        *,
        attention: AttentionFn | None = None,
    ) -> Float[Tensor, "b l d 2"]:
        """Compute the logits of every bit of every scale from embedded tokens (`embed_scales`)."""
        attention = attention or BlockCausal(schedule.offsets)
        rope, x = self.rope(schedule), tokens
        for block in self.blocks:
            x = block(x, condition.modulation, condition.memory, rope, attention=attention)
        return self.logits(x, condition)

    def start_decoding(
        self, condition: TextCondition, schedule: ScaleSchedule, *, cache: DecodingCache | None = None
    ) -> DecodeState:
        """Prepare sampling: encode the text, compute the rotary positions and set up the cache.

        Args:
            condition: Text features of `b` prompts.
            schedule: Schedule to decode.
            cache: Cache with room for `b` rows and `schedule.cached_tokens` tokens. None allocates a new one.
        """
        encoded = self.encode_condition(condition.to(self.device))
        if cache is None:
            cache = self.allocate_cache(condition.batch, schedule)
        return DecodeState(
            condition=encoded,
            text=self.project_text(encoded),
            start=self.start_tokens(encoded),
            schedule=schedule,
            rope=self.rope(schedule),
            cache=cache.narrow(rows=condition.batch, capacity=schedule.cached_tokens),
        )

    def project_text(self, condition: EncodedCondition) -> tuple[TextKV, ...]:
        """Compute the keys and values of the text for every block."""
        return tuple(condition.memory.project(block.cross_attention) for block in self._blocks())

    def next_segment(self, state: DecodeState, rows: int) -> DecodeState:
        """Continue with the first `rows` rows only, keeping the scales they have decoded."""
        return state.first_rows(rows)

    def cache_shape(self, rows: int) -> tuple[int, int, int, int]:
        """Sizes `(blocks, b, n, e)` of the cache of `rows` rows, as `KVCache.allocate` takes them."""
        return self.config.depth, rows, self.config.num_heads, self.config.head_dim

    def allocate_cache(self, rows: int, schedule: ScaleSchedule) -> KVCache:
        """Allocate a cache of exactly the size that `rows` rows of a schedule need."""
        shape = self.cache_shape(rows)
        return KVCache.allocate(shape, capacity=schedule.cached_tokens, dtype=self.dtype, device=self.device)

    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: DecodeState) -> Float[Tensor, "b l d 2"]:
        """Compute the logits of scale `k`. All coarser scales must have been decoded into the same cache before.

        Args:
            tokens: Embedded input of the scale: `state.start` for scale 0, else `embed`.
            k: Index of the scale.
            state: State of the segment, with the same number of rows.
        """
        where = state.schedule.tokens(k)
        rope = state.rope[where]
        x = tokens
        for index, (block, text) in enumerate(zip(self.blocks, state.text, strict=True)):
            x = block(x, state.condition.modulation, text, rope, cache=state.cache.layer(index, where.start))
        return self.logits(x, state.condition)

    def _blocks(self) -> Iterator[Block]:
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def logits(self, x: Float[Tensor, "b l c"], condition: EncodedCondition) -> Float[Tensor, "b l d 2"]:
        """Compute the logits of every bit from the output of the last block."""
        hidden = layer_norm(x) * (1 + condition.head_scale.float()) + condition.head_shift.float()
        return rearrange(self.head(hidden), "b l (d v) -> b l d v", v=2)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise every weight by the released recipe.

        Linear layers and embeddings are drawn from a truncated normal with std sqrt(1 / 3c); biases are 0. The head is
        then multiplied by 0.02, output projections by 1 / sqrt(2 depth), gammas of the modulation by 5e-6, its scales
        and shifts by 1e-3, and the head modulation by 1e-3.
        """
        std = math.sqrt(1 / (3 * self.config.width))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif not name.endswith(("norm.weight", "logit_scale", ".modulation")):
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)
        self.head.weight.mul_(0.02)
        self.head_modulation.weight.mul_(1e-3)
        shared = rearrange(self.shared_modulation.weight, "(s c) i -> s c i", s=6)
        shared[:2].mul_(5e-6)
        shared[2:].mul_(1e-3)
        for block in self._blocks():
            nn.init.trunc_normal_(block.modulation, std=std, a=-2 * std, b=2 * std, generator=generator)
            block.modulation[:2].mul_(5e-6)
            block.modulation[2:].mul_(1e-3)
            for projection in (block.self_attention.proj, block.cross_attention.proj, block.fc2):
                projection.weight.div_(math.sqrt(2 * self.config.depth))
