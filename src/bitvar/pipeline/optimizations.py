"""The optimizations that a pipeline can apply, by name, and the words that choose several of them."""

from collections.abc import Sequence
from typing import Any, Final

from bitvar.config import unknown
from bitvar.errors import UsageError
from bitvar.runtime.block_offload import BlockOffload
from bitvar.runtime.compiled_blocks import CompiledBlocks
from bitvar.runtime.folded_upsampling import FoldedUpsampling
from bitvar.runtime.fp8_linear import Fp8Linear
from bitvar.runtime.graphs import CudaGraphs
from bitvar.runtime.host_memory import total_bytes
from bitvar.runtime.int8_cache import Int8Cache
from bitvar.runtime.int8_linear import Int8Linear
from bitvar.runtime.int8_text import Int8Text
from bitvar.runtime.optimization import Optimization
from bitvar.runtime.packed_linear import PackedLinear
from bitvar.runtime.sequential_guidance import SequentialGuidance
from bitvar.runtime.split_guidance import SplitGuidance
from bitvar.runtime.tiled_decode import TiledDecode
from bitvar.runtime.weight_only import Int4Weights, Int8Weights
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.text import OffloadedTextEncoder, TextEncoder
from bitvar.tokenizer import InfinityTokenizer
from bitvar.transformer import InfinityTransformer

_KINDS: Final[tuple[type[Optimization], ...]] = (
    PackedLinear,
    FoldedUpsampling,
    Int8Linear,
    Fp8Linear,
    Int8Weights,
    Int4Weights,
    Int8Text,
    CompiledBlocks,
    CudaGraphs,
    Int8Cache,
    SequentialGuidance,
    SplitGuidance,
    TiledDecode,
    BlockOffload,
)

OPTIMIZATIONS: Final = {kind.name: kind for kind in _KINDS}
"""Every optimization, by name, in the order in which they are applied: a later one may replace part of an earlier."""

WORDS: Final = ("auto", "exact", "off")
"""Words that choose optimizations in place of names."""

_EXCLUSIVE: Final = {
    (CudaGraphs.name, BlockOffload.name): "a graph replays over weights that stay where they are",
    (CudaGraphs.name, Int8Cache.name): "graphs have a cache of their own",
    (Int8Weights.name, Int4Weights.name): "both are about the same weights",
    (Int8Weights.name, BlockOffload.name): "both keep the weights on the host",
    (Int4Weights.name, BlockOffload.name): "both keep the weights on the host",
    (SplitGuidance.name, SequentialGuidance.name): "both halve the rows",
    (SplitGuidance.name, BlockOffload.name): "the second card needs all weights",
}
"""Pairs of optimizations that can't be applied together, and why. A word such as "exact" leaves out the first one."""

_COPY_SHARE: Final = 4
"""A copy of weights larger than memory by this divisor takes room that the rest of a machine's programs may need."""


class Optimizations:
    """The optimizations applied to one model, and the decoder that computes its logits with them.

    The caller makes sure that no images are being generated while they change.

    Args:
        transformer: Transformer to change.
        tokenizer: Image tokenizer to change.
        text_encoder: Text encoder to change; None for a model without one.

    Attributes:
        decoder: Decoder to sample with.
    """

    def __init__(
        self, transformer: InfinityTransformer, tokenizer: InfinityTokenizer, text_encoder: TextEncoder | None
    ) -> None:
        self._transformer, self._tokenizer, self._text_encoder = transformer, tokenizer, text_encoder
        self._chosen: tuple[str, ...] = ("off",)
        self._applied: list[Optimization] = []
        self.decoder: ScaleDecoder[Any] = transformer

    @property
    def names(self) -> list[str]:
        """Names of the applied optimizations."""
        return [optimization.name for optimization in self._applied]

    @property
    def lossy(self) -> list[str]:
        """Names of those that change results by more than rounding, which a record must name."""
        return [optimization.name for optimization in self._applied if not optimization.exact]

    def require(self, device: str) -> None:
        """Refuse a device that an optimization chosen by its name doesn't work on. Words adapt to the device.

        Raises:
            UsageError: as `choose` raises it.
        """
        choose(self._chosen, device)

    def change(self, names: Sequence[str]) -> None:
        """Apply the optimizations that these names and words choose, in place of those applied so far.

        Raises:
            UsageError: as `choose` raises it. Nothing is changed.
        """
        kinds = self._kinds(names)
        for optimization in reversed(self._applied):
            optimization.undo()
        self._chosen = tuple(names)
        self._applied = [kind(self._transformer, self._tokenizer, self._text_encoder) for kind in kinds]
        for optimization in self._applied:
            optimization.apply()
        self._build_decoder()

    def refresh(self) -> None:
        """Take over weights that have changed. After a move to another kind of device, choose again for that device."""
        kinds = self._kinds(self._chosen)
        if kinds != [type(optimization) for optimization in self._applied]:
            self.change(self._chosen)
            return
        for optimization in self._applied:
            optimization.refresh()
        self._build_decoder()

    def _kinds(self, names: Sequence[str]) -> list[type[Optimization]]:
        if Int8Text.name in names and (self._text_encoder is None or _is_offloaded(self._text_encoder)):
            why = "it leaves the device between prompts" if self._text_encoder else "this model has none"
            raise UsageError("The text encoder can't be kept in 8 bits.", why, f"leave out {Int8Text.name}")
        weights = sum(parameter.nbytes for parameter in self._transformer.parameters())
        return choose(names, self._transformer.device.type, room=has_room_for_copy(weights, total_bytes()))

    def _build_decoder(self) -> None:
        self.decoder = self._transformer
        for optimization in self._applied:
            self.decoder = optimization.decoder(self.decoder)


def has_room_for_copy(weights: int, memory: float) -> bool:
    """Decide whether "auto" may copy weights of that many bytes into memory of that many bytes."""
    return weights <= memory / _COPY_SHARE


def choose(names: Sequence[str], device: str, *, room: bool = True) -> list[type[Optimization]]:
    """Choose optimizations for a device, in the order in which they are applied.

    Args:
        names: Names of optimizations, and words: "exact" chooses all exact ones that work here, but none that saves
            memory at the cost of time; "auto" does so on a CPU, except for copies of weights without `room`, and
            chooses none elsewhere; "off" chooses none and stands alone.
        device: Type of the device, such as "cpu".
        room: Whether there is memory for a copy of the weights.

    Raises:
        UsageError: for an unknown name, "off" beside others, two that exclude each other, or an optimization that
            doesn't work on this device or with this build of PyTorch.
    """
    chosen: set[str] = set()
    require_names(names)
    excluded = {one for one, other in _EXCLUSIVE if other in names}
    for name in names:
        if name == "exact" or (name == "auto" and device == "cpu"):
            free = [kind for kind in OPTIMIZATIONS.values() if kind.exact and not kind.only_by_name]
            fitting = [kind for kind in free if room or name == "exact" or not kind.copies_weights]
            chosen |= {kind.name for kind in fitting if kind.name not in excluded and _usable(kind, device)}
        elif name not in WORDS:
            chosen.add(_named(name, device).name)
    return [kind for name, kind in OPTIMIZATIONS.items() if name in chosen]


def require_names(names: Sequence[str]) -> None:
    """Refuse what no device could apply.

    Raises:
        UsageError: for an unknown name, "off" beside others, or two that exclude each other.
    """
    for name in names:
        if name not in (*WORDS, *OPTIMIZATIONS):
            raise UsageError(unknown(f"optimization {name!r}", name, [*WORDS, *OPTIMIZATIONS]))
        if name == "off" and len(names) > 1:
            raise UsageError("'off' was given with other optimizations.", fix="give 'off' alone, or leave it out")
    for (one, other), why in _EXCLUSIVE.items():
        if one in names and other in names:
            raise UsageError(f"{one!r} and {other!r} exclude each other.", why, "leave one out")


def _named(name: str, device: str) -> type[Optimization]:
    kind = OPTIMIZATIONS[name]
    if device not in kind.devices:
        why = f"it is made for {' and '.join(kind.devices)}"
        raise UsageError(f"The optimization {name!r} doesn't work on {device}.", why, "leave it out, or choose off")
    if not kind.available():
        why = "this build of PyTorch lacks the kernels that it needs"
        raise UsageError(f"The optimization {name!r} doesn't work here.", why, "leave it out, or choose off")
    return kind


def _usable(kind: type[Optimization], device: str) -> bool:
    return device in kind.devices and kind.available()


def _is_offloaded(encoder: TextEncoder) -> bool:
    return isinstance(encoder, OffloadedTextEncoder)
