"""The transformer: text and coarser scales in, logits of every bit of the next scale out.

`forward` sees all scales at once (training, likelihood); `start_decoding` and `decode_scale` see one at a time, with a
cache (sampling). Both are the same blocks. Knows nothing of tokenizers, sampling parameters, devices or precision.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.bits import to_cells, to_tokens
from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.nn.attention import BlockCausal, Pattern
from bitvar.nn.kv_cache import KVCache
from bitvar.nn.linear import Linear
from bitvar.nn.norms import layer_norm
from bitvar.nn.rope import rope_table
from bitvar.scales import Grid, ScaleSchedule
from bitvar.transformer.block import Block, TextKV, TextMemory
from bitvar.transformer.config import TransformerConfig
from bitvar.transformer.embed import TextEmbedding


@dataclass(frozen=True)
class EncodedCondition:
    """All that the text contributes, computed once.

    Attributes:
        pooled: `(b, c)`, `cond` in the paper: start token and source of every modulation.
        modulation: `(b, 6, c)`, shared by the blocks.
        head_scale, head_shift: `(b, 1, c)`, the head's own modulation.
        text: the cross-attention memory: the same for all blocks, or each block's keys and values of it.
    """

    pooled: Tensor
    modulation: Tensor
    head_scale: Tensor
    head_shift: Tensor
    text: tuple[TextKV | TextMemory, ...]

    def rows(self, count: int) -> "EncodedCondition":
        """The first `count` of the batch."""
        text = tuple(type(part)(*(tensor[:count] for tensor in part)) for part in self.text)
        return EncodedCondition(
            self.pooled[:count], self.modulation[:count], self.head_scale[:count], self.head_shift[:count], text
        )


@dataclass
class DecodeState:
    """What sampling carries from scale to scale."""

    condition: EncodedCondition
    schedule: ScaleSchedule
    rope: Float[Tensor, "l pairs 2"]
    cache: KVCache

    def keep_rows(self, count: int) -> None:
        """Go on with the first `count` of the batch: the guided half can be dropped once guidance is off."""
        self.condition = self.condition.rows(count)
        self.cache.keep_rows(count)


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

    def encode_condition(
        self, condition: TextCondition, *, dtype: torch.dtype | None = None, projected: bool = True
    ) -> EncodedCondition:
        """The text side, once a prompt.

        Args:
            condition: features `(b, t, text_width)`.
            projected: with every block's keys and values made already, which sampling needs again at each scale. Else
                each block makes its own when it runs, so that its weights need to be there only then.
            dtype: what everything after is computed in; the parameters' own unless training in mixed precision.

        Raises:
            UsageError: for a prompt longer than `max_text_tokens`.
        """
        tokens, limit = condition.features.shape[1], self.config.max_text_tokens
        if tokens > limit:
            raise UsageError(
                f"The prompt is {tokens} tokens long.", f"this model reads at most {limit}", "shorten the prompt"
            )
        pooled, features = self.text(condition, dtype or self.dtype)
        memory = TextMemory(features, condition.mask)
        active = F.silu(pooled)
        scale, shift = self.head_modulation(active)[:, None].chunk(2, dim=-1)
        return EncodedCondition(
            pooled=pooled,
            modulation=rearrange(self.shared_modulation(active), "b (s c) -> b s c", s=6),
            head_scale=scale,
            head_shift=shift,
            text=tuple(block.cross_attention.keys_values(*memory) if projected else memory for block in self._blocks()),
        )

    def start_tokens(self, condition: EncodedCondition) -> Float[Tensor, "b 1 c"]:
        """Scale 0: the pooled text and a learned start."""
        x = condition.pooled + self.start_token.to(condition.pooled.dtype)
        return (x + self.scale_embedding[0].to(x.dtype))[:, None]

    def embed(
        self, resized: Float[Tensor, "b _ h w"], k: int, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "b l c"]:
        """Scale `k` >= 1: the latent so far, at this scale's grid (`pyramid.next_input`)."""
        x = self.input_proj(to_tokens(resized, self.config.patch_size).to(dtype or self.dtype))
        return x + self.scale_embedding[k].to(x.dtype)

    def to_cells(self, tokens: Tensor, grid: Grid) -> Tensor:
        """`(b, l, d)` of one scale's tokens to `(b, d / patch^2, h patch, w patch)` tokenizer cells."""
        return to_cells(tokens, grid, self.config.patch_size)

    def rope(self, schedule: ScaleSchedule) -> Float[Tensor, "l pairs 2"]:
        """Rotary positions of every token of a schedule."""
        return rope_table(schedule.positions().to(self.device), self.config.head_dim)

    def forward(
        self,
        condition: TextCondition,
        inputs: list[Float[Tensor, "b _ _ _"]],
        schedule: ScaleSchedule,
        *,
        dtype: torch.dtype | None = None,
        pattern: Pattern | None = None,
    ) -> Float[Tensor, "b l d 2"]:
        """Logits of every bit of every scale, each scale seeing itself and the coarser ones.

        Args:
            condition: the text.
            inputs: for scales 1 and up, the latent so far at that scale's grid (`pyramid.next_input`).
            schedule: as many scales as inputs, and one more.
            dtype: what the blocks compute in; the parameters' own unless training in mixed precision.
            pattern: another way to compute `BlockCausal`, for this schedule.
        """
        encoded = self.encode_condition(condition, dtype=dtype, projected=False)
        embedded = [self.embed(resized, k, dtype) for k, resized in enumerate(inputs, start=1)]
        x = torch.cat([self.start_tokens(encoded), *embedded], dim=1)
        pattern = pattern or BlockCausal(schedule.offsets)
        rope = self.rope(schedule)
        for block, text in zip(self.blocks, encoded.text, strict=True):
            x = block(x, encoded.modulation, text, rope, pattern=pattern)
        return self._logits(x, encoded)

    def start_decoding(self, condition: TextCondition, schedule: ScaleSchedule) -> DecodeState:
        """Prepare sampling: the text's part, the rotary positions, and a cache of the exact size."""
        config, device = self.config, self.device
        cache = KVCache(
            (config.depth, condition.batch, config.num_heads, config.head_dim),
            capacity=schedule.offsets[-2],
            dtype=self.dtype,
            device=device,
        )
        return DecodeState(self.encode_condition(condition.to(device)), schedule, self.rope(schedule), cache)

    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: DecodeState) -> Float[Tensor, "b l d 2"]:
        """Logits of scale `k`, given its embedded tokens; every coarser scale must have been decoded before."""
        rope = state.rope[state.schedule.tokens(k)]
        x = tokens
        for index, (block, text) in enumerate(zip(self.blocks, state.condition.text, strict=True)):
            x = block(x, state.condition.modulation, text, rope, cache=(state.cache, index))
        state.cache.advance(tokens.shape[1])
        return self._logits(x, state.condition)

    def _blocks(self) -> Iterator[Block]:
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def _logits(self, x: Float[Tensor, "b l c"], condition: EncodedCondition) -> Float[Tensor, "b l d 2"]:
        hidden = layer_norm(x) * (1 + condition.head_scale.float()) + condition.head_shift.float()
        return rearrange(self.head(hidden), "b l (d v) -> b l d v", v=2)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """The released recipe's initialisation, in one place.

        Linear and embeddings: truncated normal, std sqrt(1 / 3c), biases 0. Then the head x 0.02; output projections
        x 1 / sqrt(2 depth); modulation: gammas x 5e-6, scales and shifts x 1e-3; head modulation x 1e-3.
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
