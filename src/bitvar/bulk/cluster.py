"""Bulk runs over a Ray cluster: Ray Data deals blocks of the work list to actors, each with a model of its own.

The folder has to be at the same path on every node. The actors claim images there as any process does, so a cluster may
share a folder with other processes, and may be killed.
"""

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitvar.bulk.folder import OutputFolder, PlannedImage
from bitvar.bulk.ledger import LedgerLine
from bitvar.bulk.run import WorkResult, generate_work
from bitvar.bulk.work import DrawingHooks, WorkItem, check_items
from bitvar.errors import UsageError, explain, install_hint

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline


@dataclass(frozen=True)
class ClusterOptions:
    """The actors that draw, and where they run.

    Attributes:
        actors: Number of actors, each of which loads the model.
        address: Address of a cluster; "auto" for this machine's; None to start one here for the run.
        gpus: GPUs that an actor reserves; None for one where the cluster has GPUs.
        cpus: CPUs that an actor reserves.
    """

    actors: int
    address: str | None = None
    gpus: float | None = None
    cpus: float = 1.0


def generate_on_cluster(
    load: "Callable[[], InfinityPipeline]",
    items: Sequence[WorkItem],
    folder: Path,
    *,
    cluster: ClusterOptions,
    batch_size: int,
    hooks: DrawingHooks | None = None,
    log: Callable[[str], None] = lambda text: None,
    accepted: Callable[[], None] = lambda: None,
) -> WorkResult:
    """Draw a work list into a folder, as `generate_work` does, with actors of a Ray cluster.

    Args:
        load: Function that loads the model; it is sent to the actors, where bitvar has to be installed.
        items: Work list; each item has a file of its own.
        folder: Folder that every node sees at this path.
        cluster: Actors, and where they run.
        batch_size: Most images that an actor draws together.
        hooks: Watermark and control of all images; None for neither.
        log: Receives a line of progress after each block.
        accepted: Called once nothing is known to be in the way of any image, before the first is drawn. Settings that
            depend on the actors' devices are compared later, by the actors.

    Raises:
        UsageError: Ray is missing or can't be reached, the cluster is too small, or as `generate_work`.
        RuntimeError: An actor failed. What was drawn is kept.
    """
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
        raise UsageError("Can't draw on a cluster.", "Ray Data is not installed", install_hint("ray"))
    check_items(items)
    place = OutputFolder(folder.resolve())
    lines = place.ledger.refresh()
    place.require_own([PlannedImage(item, _address_there(item, lines.get(item.file)), 0) for item in items])
    accepted()
    before = len({item.file for item in items} & place.ledger.known.keys())
    drawn, seconds = _run(load, items, place.path, cluster, batch_size, hooks, log)
    place.ledger.arrange({item.file: item.note for item in items})
    lines = place.ledger.refresh()
    return WorkResult([lines[item.file] for item in items], before, drawn, seconds)


def _address_there(item: WorkItem, line: LedgerLine | None) -> str:
    """Return the address of the image that is there, if prompt and seed are the item's."""
    return line.address if line is not None and (line.prompt, line.seed) == (item.prompt, item.seed) else ""


def _run(
    load: "Callable[[], InfinityPipeline]",
    items: Sequence[WorkItem],
    folder: Path,
    cluster: ClusterOptions,
    batch_size: int,
    hooks: DrawingHooks | None,
    log: Callable[[str], None],
) -> tuple[int, float]:
    """Have actors draw blocks of equal settings. Returns the number of images that were drawn, and their seconds."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayError

    texts = [item.dump() for item in sorted(items, key=lambda item: str(item.settings))]
    blocks = [{"items": texts[start : start + batch_size]} for start in range(0, len(texts), batch_size)]
    has_joined, logger = _connect(cluster.address), logging.getLogger("ray.data")
    level, drawn, done, seconds = logger.level, 0, 0, 0.0
    try:
        gpus = _require_room(cluster, ray.cluster_resources())
        DataContext.get_current().enable_progress_bars = False
        results = ray.data.from_items(blocks, override_num_blocks=max(len(blocks), 1)).map_batches(
            _Actor,
            batch_size=1,
            batch_format="numpy",
            compute=ActorPoolStrategy(size=max(min(cluster.actors, len(blocks)), 1)),
            num_cpus=cluster.cpus,
            num_gpus=gpus,
            fn_constructor_args=(load, str(folder), batch_size, hooks),
        )
        logger.setLevel(logging.ERROR)  # Ray Data sets its own when a data set is made
        for row in results.iter_rows():
            if row["refusal"]:
                raise UsageError(row["refusal"])
            if row["failure"]:
                raise RuntimeError(row["failure"])
            drawn, done, seconds = drawn + row["drawn"], done + row["images"], seconds + row["seconds"]
            log(f"{done} of {len(items)} images")
    except RayError as error:
        raise RuntimeError(_failed(str(error))) from error
    finally:
        logger.setLevel(level)
        if has_joined:
            ray.shutdown()
    return drawn, seconds


class _Actor:
    """Draws blocks of the work list on one node. An error becomes a value, which crosses processes as it is."""

    def __init__(
        self, load: "Callable[[], InfinityPipeline]", folder: str, batch_size: int, hooks: DrawingHooks | None
    ) -> None:
        self._load, self._folder, self._batch_size, self._hooks = load, Path(folder), batch_size, hooks
        self._pipeline: InfinityPipeline | None = None

    def __call__(self, block: Mapping[str, Any]) -> dict[str, list[Any]]:
        items = [WorkItem.parse(text) for text in block["items"][0]]
        row: dict[str, Any] = {"images": len(items), "drawn": 0, "seconds": 0.0, "refusal": "", "failure": ""}
        try:
            self._pipeline = self._pipeline or self._load()
            result = generate_work(
                self._pipeline, items, self._folder, batch_size=self._batch_size, hooks=self._hooks, arrange=False
            )
            row |= {"drawn": result.drawn, "seconds": result.seconds}
        except UsageError as error:
            row["refusal"] = str(error)
        except Exception as error:
            text = str(error)
            row["failure"] = text if "\n  why:" in text else _failed(f"{type(error).__name__}: {text}")
        return {name: [value] for name, value in row.items()}


def _failed(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    why = lines[0] if lines else "it didn't say why"
    return explain("An actor of the cluster failed.", why, "repeat the command: what was drawn is kept")


def _connect(address: str | None) -> bool:
    """Join or start a cluster, unless this process is in one. Returns whether to leave it afterwards."""
    import ray

    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init("local", include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = "Can't start Ray." if address is None else f"Can't join the Ray cluster {address}."
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(what, why, "give the address that `ray start --head` printed, on a node of it") from error
    return True


def _require_room(cluster: ClusterOptions, resources: Mapping[str, float]) -> float:
    """Refuse actors that would wait for ever. Returns the number of GPUs for each."""
    gpus = float(resources.get("GPU", 0) > 0) if cluster.gpus is None else cluster.gpus
    for name, wanted in (("CPU", cluster.cpus), ("GPU", gpus)):
        available = resources.get(name, 0.0)
        if wanted * cluster.actors > available:
            why = f"each reserves {wanted:g} {name}s, and the cluster has {available:g}"
            raise UsageError(f"Can't place {cluster.actors} actors.", why, "ask for fewer")
    return gpus
