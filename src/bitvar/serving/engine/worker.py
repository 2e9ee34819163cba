"""The worker process: holds the model, reads jobs from standard input's socket, and writes back what happens.

The front process starts it as `python -m bitvar.serving.engine.worker` with a socket as standard input. It ends as soon
as that socket closes, so it never outlives the front process.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from bitvar.costs.inference_memory import InferencePlan, estimate_inference_memory
from bitvar.errors import UsageError, WeightsError
from bitvar.pipeline.request import GenerationRequest
from bitvar.pipeline.text_to_image import InfinityPipeline
from bitvar.scales import ScaleSchedule
from bitvar.serving.engine.costs import ScaleCosts
from bitvar.serving.engine.encoding import ImageEncoder
from bitvar.serving.engine.events import Event
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.model_card import ModelCard, NativeSize
from bitvar.serving.engine.runner import ModelRunner
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.engine.wire import Frame, event_frame, pack, read_frame
from bitvar.serving.logs import JsonLines
from bitvar.text import CachedTextEncoder

_LOG: Final = logging.getLogger(__name__)

_FREE_SHARE: Final = 0.7
"""Share of the free memory that images being drawn may take."""

_UNKNOWN_MEMORY: Final = 4 << 30
"""Memory in bytes that is assumed where the system does not say."""

_EXAMPLES: Final = 24


def load_pipeline(settings: WorkerSettings) -> InfinityPipeline:
    """Load the model with its adapters, none of which is active.

    Raises:
        UsageError: A name, device, dtype or adapter can't be used.
        WeightsError: Files are missing or altered.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    loaded = InfinityPipeline.from_pretrained(
        settings.model,
        revision=settings.revision,
        tokenizer=settings.tokenizer,
        dtype=settings.dtype,
        device=settings.device,
    )
    encoder = loaded.text_encoder
    cached = None if encoder is None else CachedTextEncoder(encoder)
    pipeline = InfinityPipeline(replace(loaded.components, text_encoder=cached))
    for adapter in settings.adapters:
        pipeline.load_lora_weights(adapter.source, adapter.name)
    if settings.adapters:
        pipeline.disable_lora()
    return pipeline


def describe_model(pipeline: InfinityPipeline, settings: WorkerSettings) -> ModelCard:
    """Describe a loaded model for the front process."""
    config = pipeline.transformer.config
    vocabulary = pipeline.components.vocabulary
    sizes = []
    for schedule in config.all_schedules():
        width, height = schedule[-1][1] * pipeline.stride, schedule[-1][0] * pipeline.stride
        memory = _image_bytes(pipeline, schedule)
        sizes.append(NativeSize(width=width, height=height, grids=schedule.grids, image_bytes=memory))
    budget = settings.memory_budget if settings.memory_budget is not None else free_memory(pipeline.device)
    return ModelCard(
        name=settings.served_name or pipeline.index.name,
        digest=pipeline.model_name,
        created=int(time.time()),
        sizes=tuple(sizes),
        defaults=pipeline.index.defaults.complete(),
        max_text_tokens=config.max_text_tokens,
        adapters=tuple(adapter.name for adapter in settings.adapters),
        bits=config.bits,
        device=pipeline.device.type,
        dtype=str(pipeline.dtype).removeprefix("torch."),
        memory_budget=budget,
        examples=() if vocabulary is None else vocabulary.example_prompts(_EXAMPLES),
    )


def _image_bytes(pipeline: InfinityPipeline, schedule: ScaleSchedule) -> int:
    """Predict the memory in bytes of drawing one image with guidance."""
    config = pipeline.transformer.config
    plan = InferencePlan(
        config,
        schedule,
        pipeline.tokenizer.config,
        itemsize=pipeline.dtype.itemsize,
        text_tokens=config.max_text_tokens,
    )
    memory = estimate_inference_memory(plan)
    return memory.total - memory.libraries


def free_memory(device: torch.device) -> int:
    """Memory in bytes that images being drawn may take on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _FREE_SHARE)
    return int(_available_bytes() * _FREE_SHARE)


def _available_bytes() -> int:
    """Memory in bytes that this machine, or the container that this process is in, has left."""
    found = [_UNKNOWN_MEMORY]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = [int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        found.append(int(limit) - int(used))  # no limit is the word "max"
    return max(0, min(found))


def warm_up(pipeline: InfinityPipeline, sizes: tuple[tuple[int, int], ...]) -> ScaleCosts:
    """Draw images of the default size and of each given one, so that no request pays for first-time work.

    Returns:
        The seconds that their scales took the second time.
    """
    costs = ScaleCosts()
    for width, height in dict.fromkeys((pipeline.sizes[0], *sizes)):
        request = GenerationRequest(prompts=("warm-up",), width=width, height=height, seed=0)
        schedule = pipeline.schedule_for(height, width)
        for is_measured in (False, True):
            began = time.perf_counter()
            for event in pipeline.stream_request(request):
                event.preview()
                seconds, began = time.perf_counter() - began, time.perf_counter()
                if is_measured:
                    costs.record(((width, height), 1), event.index, schedule.lengths[event.index], seconds)
    return costs


class _Link:
    """The worker's end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._file = end.makefile("rb")
        self._end = end
        self._lock = threading.Lock()

    def read(self) -> Frame | None:
        """Wait for a frame; None once the front process is gone."""
        return read_frame(self._file.read)

    def write(self, frame: Frame) -> None:
        """Write a frame. An error means that the front process is gone, and ends this process."""
        try:
            with self._lock:
                self._end.sendall(pack(frame))
        except OSError:
            os._exit(0)

    def event(self, job_id: str, event: Event) -> None:
        """Write what happened to a job."""
        self.write(event_frame(job_id, event))


def serve(link: _Link) -> None:
    """Load the model that the first frame names, and draw jobs until the front process goes away."""
    first = link.read()
    if first is None:
        return
    settings = WorkerSettings.model_validate(first.values)
    commands: list[Frame] = []
    runner: ModelRunner | None = None
    ready = threading.Lock()

    def obey(frame: Frame) -> None:
        assert runner is not None
        if frame.kind == "submit":
            runner.submit(Job.model_validate(frame.values["job"]))
        elif frame.kind == "cancel":
            runner.cancel(frame.values["job"])

    def listen() -> None:
        while (frame := link.read()) is not None:
            with ready:
                if runner is None:
                    commands.append(frame)
                else:
                    obey(frame)
        os._exit(0)  # the front process is gone; whatever is being drawn is for nobody

    threading.Thread(target=listen, name="listen", daemon=True).start()
    try:
        pipeline = load_pipeline(settings)
        card = describe_model(pipeline, settings)
        costs = warm_up(pipeline, settings.warm_sizes)
    except (UsageError, WeightsError) as error:
        link.write(Frame("fatal", {"kind": type(error).__name__, "message": str(error)}))
        return
    made = ModelRunner(
        pipeline,
        card,
        link.event,
        encoder=ImageEncoder(),
        costs=costs,
        batch_invariant=settings.batch_invariant,
        max_batch=settings.max_batch,
        max_active=settings.max_active,
    )
    link.write(Frame("card", card.model_dump(mode="json")))
    with ready:
        runner = made
        for frame in commands:
            obey(frame)
    made.run()


def main() -> None:
    """Run the worker on the socket that standard input is."""
    end = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123  (a descriptor, not a path)
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front process decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    serve(_Link(end))


if __name__ == "__main__":
    main()
