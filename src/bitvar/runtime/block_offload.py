"""Blocks of the transformer that wait in the host's memory, and pass through two buffers on the device.

Every scale runs all blocks in the same order, so that the next one is known: its weights are copied on a stream of
their own while the present one computes.

    host    block 0   block 1   block 2   block 3   ...
                         |         |
    device            [buffer] [buffer]     block 1 computes, block 2 arrives; block 3 takes the buffer of block 1

The weights stay parameters of the model: on the host while they wait, in a buffer while they are used.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.condition import TextCondition
from bitvar.runtime.decoder_around import DecoderAround
from bitvar.runtime.optimization import Optimization
from bitvar.sampling.decoder import DecoderState, ScaleDecoder
from bitvar.scales import ScaleSchedule
from bitvar.text import TextEncoder
from bitvar.tokenizer import InfinityTokenizer
from bitvar.transformer import InfinityTransformer

_ALIGNMENT: Final = 256
"""Bytes that every parameter begins at a multiple of, as a GPU's allocator places tensors."""


class Transfer(ABC):
    """How weights get from the host to the device."""

    @abstractmethod
    def host(self, num_bytes: int) -> Tensor:
        """Allocate bytes in the host's memory, of shape `(num_bytes,)`."""

    @abstractmethod
    def start_copy(self, source: Tensor, target: Tensor) -> None:
        """Begin to copy from the host into a buffer, after all work that the device has been given so far."""

    @abstractmethod
    def finish(self) -> None:
        """Make later work of the device wait until the copies that have begun are complete."""


class CopyStream(Transfer):
    """Copies on a CUDA stream of its own, from pinned memory.

    Args:
        device: CUDA device to copy to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def host(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def start_copy(self, source: Tensor, target: Tensor) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def finish(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


class PlainCopy(Transfer):
    """Copies at once, between any two places."""

    def host(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def start_copy(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source)

    def finish(self) -> None:
        pass


class BlockOffload(Optimization):
    """Keeps the transformer's blocks in the host's memory. The device holds two of them at a time."""

    name: ClassVar[str] = "block-offload"
    exact: ClassVar[bool] = True
    only_by_name: ClassVar[bool] = True
    takes_blocks_from_host: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def __init__(
        self, transformer: InfinityTransformer, tokenizer: InfinityTokenizer, text_encoder: TextEncoder | None = None
    ) -> None:
        super().__init__(transformer, tokenizer, text_encoder)
        self._passage: BlockPassage | None = None
        self._lock = threading.Lock()

    @staticmethod
    def available() -> bool:
        return True

    def apply(self) -> None:
        device = self.transformer.device
        transfer = CopyStream(device) if device.type == "cuda" else PlainCopy()
        self._passage = BlockPassage(list(self.transformer.blocks), transfer, device)

    def refresh(self) -> None:
        self.undo()
        self.apply()

    def undo(self) -> None:
        if self._passage is not None:
            self._passage.close()
            self._passage = None

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return OneAtATime(plain, self._lock)


def place_around_blocks(transformer: InfinityTransformer, device: torch.device) -> None:
    """Move all of a transformer but its blocks to a device, which may be too small for the whole."""
    for child in transformer.children():
        if child is not transformer.blocks:
            child.to(device)
    for name, parameter in list(transformer.named_parameters(recurse=False)):
        setattr(transformer, name, nn.Parameter(parameter.detach().to(device), requires_grad=False))


class OneAtATime(DecoderAround[DecoderState]):
    """A decoder that threads enter one after the other, since all of them use the same two buffers.

    Args:
        plain: Decoder to ask.
        lock: Lock that every call holds.
    """

    def __init__(self, plain: ScaleDecoder[Any], lock: threading.Lock) -> None:
        super().__init__(plain)
        self._lock = lock

    def start_decoding(self, condition: TextCondition, schedule: ScaleSchedule) -> DecoderState:
        with self._lock:
            return self.plain.start_decoding(condition, schedule)

    def next_segment(self, state: DecoderState, rows: int) -> DecoderState:
        return self.plain.next_segment(state, rows)

    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: DecoderState) -> Float[Tensor, "b l d 2"]:
        with self._lock:
            return self.plain.decode_scale(tokens, k, state)


class BlockPassage:
    """Moves blocks through two buffers as they are used. From now on until `close`, their weights wait on the host.

    Args:
        blocks: Blocks, in the order in which they compute.
        transfer: How weights are copied.
        device: Device of the buffers.
    """

    def __init__(self, blocks: list[nn.Module], transfer: Transfer, device: torch.device) -> None:
        self._blocks, self._transfer, self._device = blocks, transfer, device
        self._hosts: list[Tensor] = []
        with torch.inference_mode(False), torch.no_grad():
            for block in blocks:
                host = transfer.host(sum(_padded(parameter) for parameter in block.parameters()))
                for parameter, place in _carve(block, host):
                    parameter.data = place.copy_(parameter.data)
                self._hosts.append(host)
            size = max(map(len, self._hosts))
            self._buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(min(2, len(blocks)))]
        self._held: list[int | None] = [None] * len(self._buffers)
        self._handles = [
            module.register_forward_pre_hook(self._hook(index))
            for index, block in enumerate(blocks)
            for module in (block, *_used_alone(block))
        ]

    @property
    def resident(self) -> list[int]:
        """Indices of the blocks that have a buffer."""
        return sorted(index for index in self._held if index is not None)

    def close(self) -> None:
        """Bring all blocks to the device, where they stay, with the weights that they have now."""
        for handle in self._handles:
            handle.remove()
        self._transfer.finish()
        with torch.inference_mode(False), torch.no_grad():
            for block in self._blocks:
                for parameter in block.parameters():
                    parameter.data = parameter.data.to(self._device, copy=True)
        self._buffers, self._hosts = [], []

    def require(self, index: int) -> None:
        """Have a block on the device before it computes, and begin to fetch the one after it."""
        with torch.inference_mode(False), torch.no_grad():
            self._fetch(index, keep=None)
            self._transfer.finish()
            self._fetch((index + 1) % len(self._blocks), keep=index)

    def _hook(self, index: int) -> Callable[..., None]:
        return lambda module, inputs: self.require(index)

    def _fetch(self, index: int, *, keep: int | None) -> None:
        """Begin to copy a block into a buffer, which another block leaves; do nothing if it has one."""
        if index in self._held:
            return
        buffer = next(b for b, held in enumerate(self._held) if held is None or held != keep)
        before = self._held[buffer]
        if before is not None:
            _point(self._blocks[before], self._hosts[before])
        self._transfer.start_copy(self._hosts[index], self._buffers[buffer][: len(self._hosts[index])])
        _point(self._blocks[index], self._buffers[buffer])
        self._held[buffer] = index


def _used_alone(block: nn.Module) -> list[nn.Module]:
    """List the layers that compute outside of the block's own pass: those that project the text once a prompt."""
    return [module for name, module in block.named_modules() if name == "cross_attention.kv"]


def _point(block: nn.Module, memory: Tensor) -> None:
    for parameter, place in _carve(block, memory):
        parameter.data = place


def _carve(block: nn.Module, memory: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Assign every parameter of a block its part of a flat piece of memory."""
    start = 0
    for parameter in block.parameters():
        part = memory[start : start + parameter.numel() * parameter.element_size()]
        yield parameter, part.view(parameter.dtype).view(parameter.shape)
        start += _padded(parameter)


def _padded(parameter: Tensor) -> int:
    """Bytes of a parameter with what keeps the next one aligned."""
    return -(-parameter.numel() * parameter.element_size() // _ALIGNMENT) * _ALIGNMENT
