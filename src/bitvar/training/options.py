"""What a training run is given beside its configuration, grouped by who reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from bitvar import arguments


def ignore_line(line: str) -> None:
    """The log of a run that nobody listens to."""


def ignore_step(step: int, values: Mapping[str, float]) -> None:
    """The progress of a run that nobody watches."""


@dataclass(frozen=True, kw_only=True)
class RunPaths:
    """Where a run reads and writes.

    Attributes:
        data: Captioned set, index or, for a tokenizer, folder of images.
        out: Folder of the run. A run that was started there is resumed.
        name: Name of the model that comes out.
        extend: Whether to resume a run that was configured for fewer `optimization.steps`.
    """

    data: Path
    out: Path
    name: str
    extend: bool = False


@dataclass(frozen=True, kw_only=True)
class FrozenModels:
    """The finished models that a run builds on, each by its folder, name in the package or hub id.

    Attributes:
        tokenizer: Tokenizer whose bits a transformer learns to predict; that of `initial` if None.
        text_encoder: Text encoder that a transformer is conditioned on; that of `initial` if None.
        initial: Model, tokenizer or checkpoint whose weights the run starts from; None for random weights.
    """

    tokenizer: str | Path | None = None
    text_encoder: str | Path | None = None
    initial: str | Path | None = None

    def __post_init__(self) -> None:
        for name, value in (("tokenizer", self.tokenizer), ("text_encoder", self.text_encoder), ("init", self.initial)):
            if value is not None:
                arguments.checked(name, value, arguments.path)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a run uses its devices; it may change between restarts.

    Attributes:
        device: "auto", "cpu", "cuda" or "mps".
        shards: Number of ranks that share one copy of the model; all of them if None.
        micro_batch_size: Samples that a rank computes at once; its whole share of the batch if None.
        activation_checkpointing: Whether the backward pass recomputes activations, which saves memory.
        compile: Whether to compile the model block by block.
        attention: "sdpa", or "flex" for FlexAttention on CUDA.
    """

    device: str = "auto"
    shards: int | None = None
    micro_batch_size: int | None = None
    activation_checkpointing: bool = False
    compile: bool = False
    attention: str = "sdpa"

    def __post_init__(self) -> None:
        for name, value in (("shards", self.shards), ("micro_batch_size", self.micro_batch_size)):
            if value is not None:
                arguments.checked(name, value, _positive)


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a run reads its data.

    Attributes:
        workers: Processes that read the images of an index ahead.
        max_bad_fraction: Share of unreadable samples of an index above which the run stops.
    """

    workers: int = 2
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        arguments.checked("workers", self.workers, _not_negative)
        arguments.checked("max_bad_fraction", self.max_bad_fraction, _fraction)


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Where news of a run goes, beside the files in its folder.

    Attributes:
        log: Receives a line of text for people.
        on_step: Receives every step, with the latest metrics.
        tracker: Name of a service that receives metrics and sample sheets; see `monitor/trackers.py`.
    """

    log: Callable[[str], None] = ignore_line
    on_step: Callable[[int, Mapping[str, float]], None] = ignore_step
    tracker: str | None = None


@dataclass(frozen=True, kw_only=True)
class Launch:
    """This process among those that a launcher such as torchrun started.

    Attributes:
        rank: Rank of this process; None if no launcher started it, and it trains alone.
        world: Number of processes.
        local_rank: Rank among the processes of this machine, which decides its CUDA device.
        heartbeat: File to touch while the run makes progress, if a supervisor watches it.
    """

    rank: int | None = None
    world: int = 1
    local_rank: int = 0
    heartbeat: Path | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process reports and writes the result."""
        return self.rank in (None, 0)

    @property
    def is_child(self) -> bool:
        """Whether a launcher or a supervisor started this process."""
        return self.rank is not None or self.heartbeat is not None


class TrainingKwargs(TypedDict, total=False):
    """The options of `bitvar.train` that say how a run is carried out, so that editors list them.

    `FrozenModels` (with `init` for `initial`), `Placement` and `Loading` explain each.
    """

    tokenizer: str | Path | None
    text_encoder: str | Path | None
    init: str | Path | None
    device: str
    shards: int | None
    micro_batch_size: int | None
    activation_checkpointing: bool
    compile: bool
    attention: str
    workers: int
    max_bad_fraction: float
    tracker: str | None
    launch: Launch


def _positive(value: Any) -> int:
    number = arguments.whole_number(value)
    if number < 1:
        raise ValueError(f"it must be at least 1, got {number}")
    return number


def _not_negative(value: Any) -> int:
    number = arguments.whole_number(value)
    if number < 0:
        raise ValueError(f"it must not be negative, got {number}")
    return number


def _fraction(value: Any) -> float:
    number = arguments.real_number(value)
    if not 0 <= number <= 1:
        raise ValueError(f"it must lie between 0 and 1, got {number:g}")
    return number
