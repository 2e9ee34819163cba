"""Sampling with a prefix of source features: a `ScaleDecoder` around the plain transformer."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.instruction.prefix import PrefixedAttention, embed_source, prefixed_rope, resize_tokens
from bitvar.nn.kv_cache import KVCache, LayerCache, ScaleCache
from bitvar.runtime.decoder_around import DecoderAround
from bitvar.scales import ScaleSchedule
from bitvar.transformer import DecodeState, InfinityTransformer
from bitvar.weights.instruction import SourcePositions


@dataclass(frozen=True)
class SourceState:
    """State of one segment of sampling.

    Attributes:
        plain: State of the transformer. Its cache has room for the prefix before the scales; its rotary positions are
            those of the scales alone.
        prefix: Number of source tokens.
    """

    plain: DecodeState
    prefix: int

    @property
    def rows(self) -> int:
        return self.plain.rows

    @property
    def start(self) -> Tensor:
        return self.plain.start

    @property
    def _source_cache(self) -> LayerCache:
        """The first block's cache, whose prefix is the source as it is."""
        cache = self.plain.cache
        assert isinstance(cache, KVCache), "made by SourceDecoder"
        return cache.layer(0, 0)

    def layer(self, block: int, k: int) -> ScaleCache:
        """Return the cache of a block for scale `k`, with the prefix before it in every block but the first."""
        where = self.plain.schedule.tokens(k)
        if block > 0:
            return self.plain.cache.layer(block, self.prefix + where.start)
        whole = self._source_cache
        return LayerCache(whole.keys[:, :, self.prefix :], whole.values[:, :, self.prefix :], where.start)

    def first_block(self, k: int) -> PrefixedAttention:
        """Return the first block's attention for scale `k`: to the prefix resized to its grid, and to the cache."""
        schedule, whole = self.plain.schedule, self._source_cache
        parts = (whole.keys[:, :, : self.prefix], whole.values[:, :, : self.prefix])
        return PrefixedAttention(*(resize_tokens(part, schedule[-1], schedule[k]) for part in parts))


class SourceDecoder(DecoderAround[SourceState]):
    """Decoder of edited images. Implements `sampling/decoder.py:ScaleDecoder`.

    All rows see the source image: under guidance, those without the instruction too.

    Args:
        model: Transformer of an instruction editor.
        features: Features of the source images, of shape `(b, d, h, w)`. A segment's rows are these images in order, as
            often as they fit: one image serves any number of rows.
        positions: Rotary positions of the source tokens.
    """

    def __init__(
        self,
        model: InfinityTransformer,
        features: Float[Tensor, "b _ h w"],
        *,
        positions: SourcePositions = "aligned",
    ) -> None:
        super().__init__(model)
        self.model, self.features = model, features
        self.positions: SourcePositions = positions

    def start_decoding(self, condition: TextCondition, schedule: ScaleSchedule) -> SourceState:
        """Prepare a segment, and compute keys and values of the source tokens in every block."""
        model, rows = self.model, condition.batch
        repeats, rest = divmod(rows, len(self.features))
        if rest:
            why = f"{rows} rows are decoded for {len(self.features)} source images"
            raise UsageError("Every row needs a source image.", why, "give one image, or as many as there are prompts")
        encoded = model.encode_condition(condition.to(model.device))
        text, rope = model.project_text(encoded), prefixed_rope(model, schedule, self.positions)
        x = embed_source(model, self.features.to(model.device).repeat(repeats, 1, 1, 1), schedule)
        prefix = x.shape[1]
        capacity = prefix + schedule.cached_tokens
        cache = KVCache.allocate(model.cache_shape(rows), capacity=capacity, dtype=model.dtype, device=model.device)
        for index, block in enumerate(model.blocks):
            x = block(x, encoded.modulation, text[index], rope[:prefix], cache=cache.layer(index, 0))
        plain = DecodeState(encoded, text, model.start_tokens(encoded), schedule, rope[prefix:], cache)
        return SourceState(plain, prefix)

    def next_segment(self, state: SourceState, rows: int) -> SourceState:
        """Go on with the first `rows` rows only, keeping the prefix and what they have decoded."""
        return SourceState(state.plain.first_rows(rows), state.prefix)

    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: SourceState) -> Float[Tensor, "b l d 2"]:
        """Compute the logits of scale `k`, given the source and the coarser scales."""
        plain, x = state.plain, tokens
        rope = plain.rope[plain.schedule.tokens(k)]
        for index, (block, text) in enumerate(zip(self.model.blocks, plain.text, strict=True)):
            attention = None if index else state.first_block(k)
            cache = state.layer(index, k)
            x = block(x, plain.condition.modulation, text, rope, attention=attention, cache=cache)
        return self.model.logits(x, plain.condition)
