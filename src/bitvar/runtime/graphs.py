"""Decoding by captured graphs: a scale is replayed in one launch instead of thousands, with the same bits in fp32.

A graph is captured the first time that a schedule, a scale, a number of rows and a length of text come together. Graphs
of all calls share buffers, so calls take turns scale by scale: a call that another one displaces keeps a copy of its
cache, and has it copied back. A single call copies nothing.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.runtime.graph_buffers import Call, CallMemory, GraphBuffers, GraphShape, padded_length
from bitvar.runtime.graph_capture import CapturedGraph, GraphCapture, capture_on
from bitvar.runtime.optimization import Optimization
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.scales import ScaleSchedule
from bitvar.transformer.config import TransformerConfig
from bitvar.transformer.model import InfinityTransformer

MAX_SHAPES: Final = 8
"""Combinations of schedule, rows and text length that keep their graphs, and sizes of latents that keep theirs."""


@dataclass(frozen=True)
class GraphState:
    """A segment of a call: consecutive scales that are decoded with the same rows. Implements `DecoderState`.

    Attributes:
        call: Call that it belongs to.
        rows: Rows of this segment.
        start: Input of scale 0, of shape `(b, 1, c)`.
    """

    call: Call
    rows: int
    start: Float[Tensor, "b 1 c"]


class GraphDecoder:
    """Computes the logits of one scale after another by replaying graphs. Implements `sampling.decoder.ScaleDecoder`.

    Calls may run concurrently, in threads or in turn. When weights or modules change, a new decoder is needed: graphs
    read the memory of the old ones.

    Args:
        model: Transformer to capture.
        capture: How its computations are captured.
        max_shapes: Combinations of schedule, rows and text length that keep their graphs; the least recently used
            one is dropped.
    """

    def __init__(self, model: InfinityTransformer, capture: GraphCapture, *, max_shapes: int = MAX_SHAPES) -> None:
        self.model, self._capture, self._max_shapes = model, capture, max_shapes
        self._buffers: OrderedDict[GraphShape, GraphBuffers] = OrderedDict()

    @property
    def config(self) -> TransformerConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @torch.inference_mode()
    def start_decoding(self, condition: TextCondition, schedule: ScaleSchedule) -> GraphState:
        """Encode the text. Buffers are taken when the first scale is decoded."""
        encoded = self.model.encode_condition(condition.to(self.device))
        text = self.model.project_text(encoded)
        shape = GraphShape(schedule, condition.batch, padded_length(text[0], schedule))
        return GraphState(Call(shape, encoded, text), condition.batch, self.model.start_tokens(encoded))

    def next_segment(self, state: GraphState, rows: int) -> GraphState:
        """Continue with the first `rows` rows only, keeping the scales they have decoded."""
        return GraphState(state.call, rows, state.start[:rows])

    @torch.inference_mode()
    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: GraphState) -> Float[Tensor, "b l d 2"]:
        """Compute the logits of scale `k`, in memory of their own."""
        with self._capture.turn():
            return self._buffers_of(state.call.shape).decode(tokens, k, state.call, self._capture)

    def embed(self, resized: Float[Tensor, "b _ h w"], k: int) -> Float[Tensor, "b l c"]:
        """Embed the latent so far as the model does."""
        return self.model.embed(resized, k)

    def __getstate__(self) -> dict[str, Any]:
        """Give a copied pipeline no graphs: they hold addresses of this one's weights."""
        return self.__dict__ | {"_buffers": OrderedDict()}

    def _buffers_of(self, shape: GraphShape) -> GraphBuffers:
        if shape in self._buffers:
            self._buffers.move_to_end(shape)
            return self._buffers[shape]
        memories = {id(buffers.memory): buffers.memory for buffers in self._buffers.values()}
        while len(self._buffers) >= self._max_shapes:
            self._buffers.popitem(last=False)[1].release()
        roomy = [memory for memory in memories.values() if memory.fits(self.model, shape)]
        memory = min(roomy, key=lambda memory: memory.cache.numel(), default=None)
        self._buffers[shape] = GraphBuffers(self.model, shape, memory or CallMemory(self.model, shape))
        return self._buffers[shape]


class GraphedFunction:
    """A function of one tensor that is captured once for each shape, such as the decoder of images.

    Args:
        compute: Function without randomness, whose result depends on its argument and on weights only.
        capture: How it is captured.
        max_shapes: Shapes that keep their graphs; the least recently used one is dropped.
    """

    def __init__(
        self, compute: Callable[[Tensor], Tensor], capture: GraphCapture, *, max_shapes: int = MAX_SHAPES
    ) -> None:
        self._compute, self._capture, self._max_shapes = compute, capture, max_shapes
        self._graphs: OrderedDict[tuple[torch.Size, torch.dtype], tuple[Tensor, CapturedGraph]] = OrderedDict()

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the function. Where gradients are wanted, it runs as it is."""
        if torch.is_grad_enabled():
            return self._compute(x)
        with torch.inference_mode(), self._capture.turn():
            static, graph = self._graph_of(x)
            static.copy_(x)
            graph.replay()
            return graph.output.clone()

    def __getstate__(self) -> dict[str, Any]:
        """Give a copied pipeline no graphs: they hold addresses of this one's weights."""
        return self.__dict__ | {"_graphs": OrderedDict()}

    def _graph_of(self, x: Tensor) -> tuple[Tensor, CapturedGraph]:
        key = x.shape, x.dtype
        if key not in self._graphs:
            while len(self._graphs) >= self._max_shapes:
                self._graphs.popitem(last=False)
            static = torch.empty_like(x)
            static.copy_(x)
            self._graphs[key] = static, self._capture.capture(lambda: self._compute(static))
        self._graphs.move_to_end(key)
        return self._graphs[key]


class CudaGraphs(Optimization):
    """Replays the transformer's scales and the decoding of images as CUDA graphs.

    On a CPU, where users can't choose it, a recorder stands in for CUDA graphs.
    """

    name: ClassVar[str] = "graphs"
    exact: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    @staticmethod
    def available() -> bool:
        return torch.cuda.is_available()

    def apply(self) -> None:
        decoder = self.tokenizer.decoder
        self._plain_forward = vars(decoder).get("forward")  # another optimization's
        self._capture_anew()

    def refresh(self) -> None:
        """Drop all graphs. The model may also have moved to another device."""
        self._capture_anew()

    def undo(self) -> None:
        if self._plain_forward is None:
            del self.tokenizer.decoder.forward
        else:
            vars(self.tokenizer.decoder)["forward"] = self._plain_forward

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        assert plain is self.transformer, "graphs capture the transformer itself"
        return self._decoder

    def _capture_anew(self) -> None:
        capture, decoder = capture_on(self.transformer.device), self.tokenizer.decoder
        self._decoder = GraphDecoder(self.transformer, capture)
        forward = self._plain_forward or functools.partial(type(decoder).forward, decoder)
        vars(decoder)["forward"] = GraphedFunction(forward, capture)
