"""From settings to a runner: loads the model with its adapters, describes it, warms it up, and adds what guards it."""

import time
from dataclasses import replace
from typing import Final

import torch

from bitvar.costs.inference_memory import InferencePlan, estimate_inference_memory
from bitvar.errors import UsageError
from bitvar.pipeline.request import GenerationRequest
from bitvar.pipeline.text_to_image import InfinityPipeline
from bitvar.provenance import Signer, read_key
from bitvar.runtime.host_memory import available_bytes
from bitvar.safety.blocklist import Blocklist
from bitvar.safety.checks import SafetyChecker, SafetyChecks
from bitvar.safety.image_classifier import ImageClassifier
from bitvar.scales import ScaleSchedule
from bitvar.serving.engine.costs import ScaleCosts, cost_key
from bitvar.serving.engine.encoding import ImageEncoder
from bitvar.serving.engine.model_card import ModelCard, NativeSize
from bitvar.serving.engine.runner import Emit, ModelRunner
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.text import CachedTextEncoder

_FREE_SHARE: Final = 0.7
"""Share of the free memory that images being drawn may take."""

_EXAMPLES: Final = 24


def build_runner(settings: WorkerSettings, emit: Emit) -> tuple[ModelRunner, ModelCard]:
    """Load everything that the settings name.

    Args:
        settings: Model, adapters, watermark, signer and checkers.
        emit: Receiver of events.

    Returns:
        A runner that waits for jobs, and the description of its model.

    Raises:
        UsageError: A name, file, device or dtype can't be used.
        WeightsError: Weights are missing or altered.
    """
    watermark = None if settings.watermark is None else read_key(settings.watermark)
    signer = None
    if settings.certificate is not None and settings.signing_key is not None:
        signer = Signer.from_files(settings.certificate, settings.signing_key)
    pipeline = load_pipeline(settings)
    checks = SafetyChecks(_load_checkers(settings, pipeline.device))
    costs = warm_up(pipeline, settings.warm_sizes)
    card = describe_model(pipeline, settings)  # its memory is what the optimizations' first use has left
    fewest = min(len(size.grids) for size in card.sizes)
    if watermark is not None and watermark.first_scale >= fewest:
        why = f"it starts at scale {watermark.first_scale + 1}, and the model draws some sizes in {fewest} scales"
        raise UsageError("The watermark would mark nothing.", why, "make a key with a smaller --first-scale")
    runner = ModelRunner(
        pipeline,
        card,
        emit,
        encoder=ImageEncoder(signer, checks),
        costs=costs,
        watermark=watermark,
        checks=checks,
        batch_invariant=settings.batch_invariant,
        max_batch=settings.max_batch,
        max_active=settings.max_active,
    )
    return runner, card


def _load_checkers(settings: WorkerSettings, device: torch.device) -> list[SafetyChecker]:
    checkers: list[SafetyChecker] = [Blocklist.from_file(path) for path in settings.blocklists]
    if settings.classifier is not None:
        chosen = settings.classifier
        checkers.append(ImageClassifier.from_folder(chosen.folder, chosen.blocked, device=device))
    return checkers


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
        fast="off",
    )
    encoder = loaded.text_encoder
    cached = None if encoder is None else CachedTextEncoder(encoder)
    pipeline = InfinityPipeline(replace(loaded.components, text_encoder=cached))
    for adapter in settings.adapters:
        pipeline.load_lora_weights(adapter.source, adapter.name)
    if settings.adapters:
        pipeline.disable_lora()
    pipeline.optimize(*settings.fast)
    return pipeline


def describe_model(pipeline: InfinityPipeline, settings: WorkerSettings) -> ModelCard:
    """Describe a loaded model for the front process."""
    config = pipeline.transformer.config
    vocabulary = pipeline.components.vocabulary
    sizes = []
    for schedule in config.all_schedules():
        width, height = schedule[-1][1] * pipeline.stride, schedule[-1][0] * pipeline.stride
        memory, further = _image_bytes(pipeline, schedule)
        native = NativeSize(width=width, height=height, grids=schedule.grids, image_bytes=memory, prompt_bytes=further)
        sizes.append(native)
    budget = settings.memory_budget if settings.memory_budget is not None else free_memory(pipeline.device)
    return ModelCard(
        name=settings.served_name or pipeline.index.name,
        digest=pipeline.model_name,
        created=int(time.time()),
        sizes=tuple(sizes),
        defaults=pipeline.index.defaults.complete(),
        max_text_tokens=config.max_text_tokens,
        adapters=tuple(adapter.name for adapter in settings.adapters),
        alpha=pipeline.tokenizer.config.has_opacity,
        bits=config.bits,
        device=pipeline.device.type,
        dtype=str(pipeline.dtype).removeprefix("torch."),
        memory_budget=budget,
        examples=() if vocabulary is None else vocabulary.example_prompts(_EXAMPLES),
    )


def _image_bytes(pipeline: InfinityPipeline, schedule: ScaleSchedule) -> tuple[int, int]:
    """Predict the memory in bytes of drawing one image with guidance, and what each further prompt adds."""
    config = pipeline.transformer.config
    plan = InferencePlan(
        config,
        schedule,
        pipeline.tokenizer.config,
        itemsize=pipeline.dtype.itemsize,
        text_tokens=config.max_text_tokens,
    )
    memory = estimate_inference_memory(plan)
    further = memory.total - estimate_inference_memory(replace(plan, guided=False)).total  # guidance is one prompt more
    return memory.total - memory.libraries, further


def free_memory(device: torch.device) -> int:
    """Memory in bytes that images being drawn may take on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _FREE_SHARE)
    return int(available_bytes() * _FREE_SHARE)


def warm_up(pipeline: InfinityPipeline, sizes: tuple[tuple[int, int], ...]) -> ScaleCosts:
    """Draw images of the default size and of each given one, so that no request pays for first-time work.

    Returns:
        The seconds that their scales took the second time.

    Raises:
        UsageError: The model draws no image of such a size.
    """
    for width, height in sizes:
        if (width, height) not in pipeline.sizes:
            grid = pipeline.schedule_for(height, width)[-1]
            nearest = f"{grid[1] * pipeline.stride}x{grid[0] * pipeline.stride}"
            what, why = (
                f"Can't warm up for images of {width}x{height}.",
                f"the nearest size the model draws is {nearest}",
            )
            raise UsageError(what, why, f"give --warm-size {nearest}, or leave it out")
    costs = ScaleCosts()
    for width, height in dict.fromkeys((pipeline.sizes[0], *sizes)):
        request = GenerationRequest(prompts=("warm-up",), width=width, height=height, seed=0)
        schedule, key = pipeline.schedule_for(height, width), cost_key((width, height), 1, request)
        for is_measured in (False, True):
            began = time.perf_counter()
            for event in pipeline.stream_request(request):
                event.preview()
                seconds, began = time.perf_counter() - began, time.perf_counter()
                if is_measured:
                    costs.record(key, event.index, schedule.lengths[event.index], seconds)
    return costs
