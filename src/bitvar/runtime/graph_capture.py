"""Capturing a computation once and replaying it: CUDA graphs, and a recorder that stands in for them on a CPU.

A captured computation takes no arguments. It reads and writes memory whose addresses never change: weights, and buffers
that its owner fills before each replay. Nothing of its Python code runs in a replay.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CapturedGraph(ABC):
    """A captured computation.

    Args:
        output: Memory of the result, which every replay overwrites.
    """

    def __init__(self, output: Tensor) -> None:
        self.output = output

    @abstractmethod
    def replay(self) -> None:
        """Compute again, from the present contents of the captured memory."""


class GraphCapture(ABC):
    """Captures computations that share temporary memory, and makes them take turns.

    Only one of them may run at a time, since each overwrites the others' temporary tensors.

    Args:
        device: Device of everything that is captured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type["GraphCapture"], tuple[torch.device]]:
        """Give a copied pipeline memory of its own."""
        return type(self), (self._device,)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the shared memory until the end of the block: in any thread, after the work of all earlier turns."""
        with self._lock:
            yield

    @abstractmethod
    def capture(self, compute: Callable[[], Tensor]) -> CapturedGraph:
        """Capture a computation, during a turn. It may run any number of times meanwhile.

        Args:
            compute: Function that computes on the capture's device only and never waits for the device.
        """


class _CudaGraph(CapturedGraph):
    def __init__(self, graph: torch.cuda.CUDAGraph, output: Tensor) -> None:
        super().__init__(output)
        self._graph = graph

    def replay(self) -> None:
        self._graph.replay()


class CudaGraphCapture(GraphCapture):
    """CUDA graphs in one memory pool, captured on a stream of their own and replayed on the caller's."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._done = torch.cuda.Event()  # an event that was never recorded is waited for in no time

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the shared memory, and have the caller's stream wait for the work of all earlier turns."""
        with self._lock:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(self._done)
            try:
                yield
            finally:
                self._done.record(stream)

    def capture(self, compute: Callable[[], Tensor]) -> CapturedGraph:
        """Run the computation once, for libraries and compilers to set up, and capture the second run.

        Other threads may go on allocating memory and launching kernels meanwhile.
        """
        caller, graph = torch.cuda.current_stream(self._device), torch.cuda.CUDAGraph()
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            compute()
            self._stream.synchronize()
            torch.cuda.empty_cache()  # what the first run used belongs to this stream: nobody else could reuse it
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                output = compute()
            finally:
                graph.capture_end()
        caller.wait_stream(self._stream)
        return _CudaGraph(graph, output)


class RecordingCapture(GraphCapture):
    """Stands in for CUDA graphs on a CPU: records the operations with their tensors, and replays exactly these.

    As with CUDA graphs, a replay repeats the recorded operations on the recorded memory, whatever the code that issued
    them would do now. So a tensor that is not written into a static buffer goes unnoticed here, too. It keeps every
    intermediate tensor, which only small models afford.
    """

    def capture(self, compute: Callable[[], Tensor]) -> CapturedGraph:
        recorder = _Recorder()
        with recorder:
            output = compute()
        return _Recording(recorder.operations, output)


def capture_on(device: torch.device) -> GraphCapture:
    """Choose how computations on a device are captured."""
    return CudaGraphCapture(device) if device.type == "cuda" else RecordingCapture(device)


@dataclass(frozen=True)
class _Operation:
    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: tuple[Tensor, ...]

    def repeat(self) -> None:
        """Compute again into the same memory. A view of an argument, and an argument written to, is that memory."""
        given = {t.untyped_storage().data_ptr() for t in _tensors((self.arguments, self.keywords))}
        again = _tensors(self.function(*self.arguments, **self.keywords))
        for result, new in zip(self.results, again, strict=True):
            if result.untyped_storage().data_ptr() not in given:
                result.copy_(new)


class _Recording(CapturedGraph):
    def __init__(self, operations: Sequence[_Operation], output: Tensor) -> None:
        super().__init__(output)
        self._operations = operations

    def replay(self) -> None:
        for operation in self._operations:
            operation.repeat()


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append(_Operation(func, args, kwargs or {}, tuple(_tensors(result))))
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
