"""The static buffers that captured graphs of a transformer read and write, and the calls that take turns in them."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.nn.attention import attend
from bitvar.nn.kv_cache import KVCache, cache_size
from bitvar.runtime.graph_capture import CapturedGraph, GraphCapture
from bitvar.scales import ScaleSchedule
from bitvar.transformer.block import TextKV, TextMemory
from bitvar.transformer.model import DecodeState, EncodedCondition, InfinityTransformer

TEXT_LENGTHS: Final = (64, 128, 256, 512)
"""Lengths that texts are padded to, so that prompts of many lengths share graphs."""


@dataclass(frozen=True)
class GraphShape:
    """What determines the static shapes of a call.

    Attributes:
        schedule: Schedule being decoded.
        rows: Rows of its first segment.
        text_tokens: Length of the text, padding included.
    """

    schedule: ScaleSchedule
    rows: int
    text_tokens: int


class Call:
    """A call being decoded: its text, and a copy of its cache while another call uses the buffers.

    Args:
        shape: Its static shapes.
        condition: Encoded text of `shape.rows` rows, of the prompts' real length.
        text: Keys and values of the text for every block.
    """

    def __init__(self, shape: GraphShape, condition: EncodedCondition, text: tuple[TextKV, ...]) -> None:
        self.shape, self.condition, self.text = shape, condition, text
        self._decoded = 0
        self._copy: KVCache | None = None
        self._copied = 0

    def advance(self, k: int) -> None:
        """Note that scale `k` has been decoded. The last scale isn't cached."""
        self._decoded = max(self._decoded, min(self.shape.schedule.offsets[k + 1], self.shape.schedule.cached_tokens))

    def save(self, cache: KVCache) -> None:
        """Copy from `cache` what has been decoded since the last copy."""
        if self._copy is None:
            self._copy = KVCache(torch.empty_like(cache.buffer))
        fresh = slice(self._copied, self._decoded)
        self._copy.tokens(fresh).copy_(cache.tokens(fresh))
        self._copied = self._decoded

    def restore(self, cache: KVCache) -> None:
        """Copy what has been decoded into `cache`."""
        if self._copy is not None:
            before = slice(0, self._copied)
            cache.tokens(before).copy_(self._copy.tokens(before))


class CallMemory:
    """Memory for the cache and the input tokens of one call at a time. Buffers of several shapes may lie over it.

    Args:
        model: Transformer whose cache it takes.
        shape: Shapes of the largest call.
    """

    def __init__(self, model: InfinityTransformer, shape: GraphShape) -> None:
        cache, tokens = sizes_of(model, shape)
        self.cache, self.tokens = (torch.empty(n, dtype=model.dtype, device=model.device) for n in (cache, tokens))
        self._user: tuple[weakref.ref[Call], KVCache] | None = None

    def fits(self, model: InfinityTransformer, shape: GraphShape) -> bool:
        """Whether a call of these shapes has room."""
        cache, tokens = sizes_of(model, shape)
        return cache <= self.cache.numel() and tokens <= self.tokens.numel()

    def admit(self, call: Call, cache: KVCache) -> bool:
        """Give the memory to a call, laid out as `cache`, and return whether another one had it before."""
        if self._user is not None and self._user[0]() is call and self._user[1] is cache:
            return False
        self.vacate()
        call.restore(cache)
        self._user = weakref.ref(call), cache
        return True

    def vacate(self, cache: KVCache | None = None) -> None:
        """Take the memory from the call that has it, which keeps a copy. Given a `cache`, only from a call laid out so.

        A call that has ended, with its state gone, leaves nothing behind.
        """
        if self._user is None:
            return
        user, laid_out = self._user
        if cache is not None and cache is not laid_out:
            return
        if (call := user()) is not None:
            call.save(laid_out)
        self._user = None


def sizes_of(model: InfinityTransformer, shape: GraphShape) -> tuple[int, int]:
    """Numbers of values in the cache and in the largest input of a call."""
    cache = cache_size(model.cache_shape(shape.rows), shape.schedule.cached_tokens)
    return cache, shape.rows * max(shape.schedule.lengths) * model.config.width


class GraphBuffers:
    """Buffers of one shape, and a graph for each scale and number of rows, captured when first needed.

    Args:
        model: Transformer to capture.
        shape: Static shapes of the calls.
        memory: Memory with room for a call of these shapes.
    """

    def __init__(self, model: InfinityTransformer, shape: GraphShape, memory: CallMemory) -> None:
        self._model, self._shape, self.memory = model, shape, memory
        self._text = _empty_text(model, shape)
        self._cache = KVCache.over(memory.cache, model.cache_shape(shape.rows), shape.schedule.cached_tokens)
        self._state = DecodeState(
            condition=_empty_condition(model, shape),
            text=self._text.layers(),
            start=memory.tokens.new_empty(shape.rows, 1, model.config.width),
            schedule=shape.schedule,
            rope=model.rope(shape.schedule),
            cache=self._cache,
        )
        self._graphs: dict[tuple[int, int], CapturedGraph] = {}

    def decode(
        self, tokens: Float[Tensor, "b l c"], k: int, call: Call, capture: GraphCapture
    ) -> Float[Tensor, "b l d 2"]:
        """Compute the logits of scale `k` for a call, in memory of their own."""
        if self.memory.admit(call, self._cache):
            self._load(call)
        inputs = self.memory.tokens[: tokens.numel()].view(tokens.shape)
        inputs.copy_(tokens)
        rows = len(tokens)
        if (k, rows) not in self._graphs:
            state = self._model.next_segment(self._state, rows)
            self._graphs[k, rows] = capture.capture(lambda: self._model.decode_scale(inputs, k, state))
        graph = self._graphs[k, rows]
        graph.replay()
        call.advance(k)
        return graph.output.clone()

    def release(self) -> None:
        """Give up the memory, as before these buffers are dropped."""
        self.memory.vacate(self._cache)

    def _load(self, call: Call) -> None:
        condition, given = self._state.condition, call.condition
        for static, values in (
            (condition.modulation, given.modulation),
            (condition.head_scale, given.head_scale),
            (condition.head_shift, given.head_shift),
        ):
            static.copy_(values)
        self._text.load(call.text)


@dataclass(frozen=True)
class _StaticText:
    """Keys and values of the text of every block.

    Attributes:
        values: Tensor of shape `(blocks, b, t, 2, n, e)`, laid out as the projection that makes them lays them out.
        mask: Tensor of shape `(b, t)`, True for real tokens and False for padding.
    """

    values: Float[Tensor, "blocks b t 2 n e"]
    mask: Bool[Tensor, "b t"]

    def layers(self) -> tuple[TextKV, ...]:
        return tuple(TextKV(kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2), self.mask) for kv in self.values)

    def load(self, text: Sequence[TextKV]) -> None:
        """Copy a text, and pad it with zeros: masked values count 0 times, which must not be 0 times NaN."""
        tokens = text[0].k.shape[2]
        for part, values in enumerate(([layer.k for layer in text], [layer.v for layer in text])):
            self.values[:, :, :tokens, part].copy_(torch.stack(values).transpose(2, 3))
        self.values[:, :, tokens:].zero_()
        self.mask[:, :tokens].copy_(text[0].mask)
        self.mask[:, tokens:].fill_(False)


def _empty_text(model: InfinityTransformer, shape: GraphShape) -> _StaticText:
    blocks, rows, heads, head_dim = model.cache_shape(shape.rows)
    values = torch.zeros(blocks, rows, shape.text_tokens, 2, heads, head_dim, dtype=model.dtype, device=model.device)
    return _StaticText(values, torch.zeros(rows, shape.text_tokens, dtype=torch.bool, device=model.device))


def _empty_condition(model: InfinityTransformer, shape: GraphShape) -> EncodedCondition:
    """Make buffers of what decoding reads: all but the pooled text and its features."""

    def empty(*sizes: int) -> Tensor:
        return torch.zeros(shape.rows, *sizes, dtype=model.dtype, device=model.device)

    c = model.config.width
    unread = TextMemory(empty(0, c), empty(0).bool())
    return EncodedCondition(empty(c), empty(6, c), empty(1, c), empty(1, c), unread)


def padded_length(text: TextKV, schedule: ScaleSchedule) -> int:
    """Choose the length to pad a text to: the next of `TEXT_LENGTHS`, or its own where padding would change bits.

    Masked tokens count exactly 0 times, but a kernel may sum more tokens in another order. So in fp32, where graphs
    promise the bits of the plain model, attention to this text is computed both ways at every scale. In half precision
    the order of a sum is within its rounding, and texts are always padded.

    Args:
        text: One block's keys and values of the text.
        schedule: Schedule being decoded.
    """
    tokens = text.k.shape[2]
    padded = next((length for length in TEXT_LENGTHS if length >= tokens), tokens)
    if padded == tokens or text.k.dtype != torch.float32 or _padding_keeps_bits(text, padded, schedule):
        return padded
    return tokens


def _padding_keeps_bits(text: TextKV, tokens: int, schedule: ScaleSchedule) -> bool:
    b, n, _, e = text.k.shape
    static = _StaticText(text.k.new_zeros(1, b, tokens, 2, n, e), text.mask.new_zeros(b, tokens))
    static.load([text])
    (padded,) = static.layers()
    same = []
    for length in sorted(set(schedule.lengths)):
        queries = torch.arange(b * n * length * e, device=text.k.device, dtype=text.k.dtype).sin()
        for rows in {b, -(-b // 2)}:  # with and without guidance
            q = queries[: rows * n * length * e].view(rows, n, length, e)
            one, other = (
                attend(q, kv.k, kv.v, scale=e**-0.5, mask=kv.mask[:, None, None])
                for kv in (text.first_rows(rows), padded.first_rows(rows))
            )
            same.append((one == other).all())
    return bool(torch.stack(same).all())
