"""Comparison of two ways to generate: both run in turn in one process, and each pair of runs gives one ratio.

A machine that slows down slows both, so a median of paired ratios holds where two medians of separate runs don't.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from bitvar.pipeline import InfinityPipeline
from bitvar.profiling.generation import GenerationSetting, distinct_prompts, threads, time_call
from bitvar.profiling.machine import BusyTime
from bitvar.profiling.roofline import Kernel, decoder_kernels, scale_flops, scale_kernels, total_flops
from bitvar.runtime.threads import num_processors
from bitvar.sampling.params import SamplingParams

BUSY: Final = 0.1
"""Number of processors kept busy by other programs from which a comparison is reported as unreliable."""

WIDE: Final = 0.1
"""Distance between the quartiles of the whole time's ratio, as a share of its median, from which it is called wide."""

SHORTEST: Final = 1e-4
"""Seconds below which a stage is too short for a ratio."""

TOTAL: Final = "total_s"


class Ratio(NamedTuple):
    """Median of paired ratios, the first setting's time over the second's, with the quartiles."""

    median: float
    low: float
    high: float


class Rate(NamedTuple):
    """Achieved and attainable operations a second of a stage."""

    achieved: float
    attainable: float


@dataclass(frozen=True)
class Side:
    """One of the two settings, measured.

    Attributes:
        setting: The setting.
        threads: Number of threads that computed.
        dtype: Precision of the transformer's weights.
        device: Type of the device.
        optimizations: Names of the optimizations in use.
        seconds: Median seconds an image of every stage, by name.
        rates: Rates of the stages that have matrix products or convolutions, by name; empty without a roofline.
    """

    setting: GenerationSetting
    threads: int
    dtype: str
    device: str
    optimizations: list[str]
    seconds: dict[str, float]
    rates: dict[str, Rate]


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`.

    Attributes:
        sides: Both settings.
        ratios: Ratio of every stage that both have, by name; above 1, the second setting is the faster one.
        pairs: Number of pairs.
        others: Number of processors that other programs kept busy meanwhile, on average; None if unknown.
    """

    sides: tuple[Side, Side]
    ratios: dict[str, Ratio]
    pairs: int
    others: float | None

    @property
    def remarks(self) -> list[str]:
        """List what a reader of the figures must know, a sentence each; empty if nothing weakens them."""
        found, total = list[str](), self.ratios[TOTAL]
        if self.others is None:
            found.append("What else ran meanwhile is unknown: this system has no /proc/stat.")
        elif self.others >= BUSY:
            busy = f"{self.others:.2f} of {num_processors()} processors"
            found.append(f"Other programs kept {busy} busy meanwhile. Repeat this on an idle machine.")
        spread = f"{total.low:.2f} to {total.high:.2f}"
        if total.high - total.low > WIDE * total.median:
            found.append(f"The ratios of the whole time spread widely: half of them lie within {spread}.")
        if total.low <= 1 <= total.high:
            found.append(f"No difference was measured: the quartiles of the whole time's ratio, {spread}, include 1.")
        return found


def compare(settings: tuple[GenerationSetting, GenerationSetting], *, pairs: int, roofline: bool = True) -> Comparison:
    """Time two settings in turn, after a warm-up call of each; every second pair runs in the opposite order.

    Args:
        settings: Both settings. They share a pipeline if they load the same one.
        pairs: Number of pairs of calls, at least 2.
        roofline: Whether to measure attainable rates afterwards.

    Raises:
        UsageError: If a model, preset, precision or device is unknown.
        WeightsError: If the files of a model are missing or altered.
    """
    first = settings[0].load()
    pipelines = (first, first if settings[0].source == settings[1].source else settings[1].load())
    runs: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for side in (0, 1):
        _seconds(pipelines[side], settings[side], seed=0)
    before = BusyTime.now()
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            runs[side].append(_seconds(pipelines[side], settings[side], seed=pair + 1))
    others = BusyTime.now().others_since(before)
    sides = [
        _side(pipeline, setting, taken, roofline=roofline)
        for pipeline, setting, taken in zip(pipelines, settings, runs, strict=True)
    ]
    return Comparison((sides[0], sides[1]), paired_ratios(*runs), pairs, others)


def paired_ratios(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]) -> dict[str, Ratio]:
    """Summarise the ratios of paired runs, for every stage that both have and that takes time.

    Args:
        first, second: Seconds by stage, one mapping a run; the i-th runs form a pair.
    """
    found = {}
    for name in first[0]:
        if name in second[0] and all(run[name] > SHORTEST for run in (*first, *second)):
            quotients = [a[name] / b[name] for a, b in zip(first, second, strict=True)]
            low, median, high = statistics.quantiles(quotients, n=4, method="inclusive")
            found[name] = Ratio(median, low, high)
    return found


def _seconds(pipeline: InfinityPipeline, setting: GenerationSetting, *, seed: int) -> dict[str, float]:
    """Run one call and return the seconds an image of every stage."""
    with threads(setting.threads):
        timings = time_call(
            pipeline, setting.num_images, setting.guidance, seed=seed, batch_invariant=setting.batch_invariant
        )
    return {name: seconds / setting.num_images for name, seconds in timings.named().items()}


def _side(
    pipeline: InfinityPipeline, setting: GenerationSetting, runs: Sequence[Mapping[str, float]], *, roofline: bool
) -> Side:
    seconds = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    with threads(setting.threads) as count:
        rates = measured_rates(pipeline, setting, seconds) if roofline else {}
    dtype = str(pipeline.dtype).removeprefix("torch.")
    return Side(setting, count, dtype, pipeline.device.type, pipeline.optimizations, seconds, rates)


def measured_rates(
    pipeline: InfinityPipeline, setting: GenerationSetting, seconds: Mapping[str, float]
) -> dict[str, Rate]:
    """Measure the attainable rate of every stage with kernels, and relate its time to its operations.

    Operations are those of the plain model, so an optimization that leaves some out may exceed the attainable rate.

    Args:
        pipeline: Pipeline whose shapes, precision and device count.
        setting: Images of a call, and whether they are computed apart.
        seconds: Seconds an image of every stage, by name.
    """
    flops, kernels = _flops_and_kernels(pipeline, setting)
    known: dict[Kernel, float] = {}
    for kernel in {kernel for counts in kernels.values() for kernel in counts}:
        known[kernel] = kernel.fastest_seconds(pipeline.device)
    alone = {
        name: sum(known[kernel] * n for kernel, n in counts.items()) / total_flops(counts)
        for name, counts in kernels.items()
    }
    parts = list(alone)
    for name, summed in {"scales_s": parts[:-1], TOTAL: parts}.items():
        flops[name] = sum(flops[part] for part in summed)
        alone[name] = sum(flops[part] * alone[part] for part in summed) / flops[name]
    return {name: Rate(flops[name] / seconds[name], 1 / alone[name]) for name in flops}


def _flops_and_kernels(
    pipeline: InfinityPipeline, setting: GenerationSetting
) -> tuple[dict[str, float], dict[str, Counter[Kernel]]]:
    """Return the operations of one image and the kernels of one pass, of every scale and of decoding, by stage."""
    config, tokenizer = pipeline.transformer.config, pipeline.tokenizer
    schedule = pipeline.schedule_for(None, None)
    params = pipeline.params_for(SamplingParams(guidance_scale=setting.guidance)).scales(len(schedule))
    last_guided = max((k for k, scale in enumerate(params) if scale.guidance_scale != 1), default=-1)
    assert pipeline.text_encoder is not None
    text_tokens = pipeline.text_encoder.num_tokens(distinct_prompts(1)[0])
    together = 1 if setting.batch_invariant else setting.num_images
    flops: dict[str, float] = {}
    kernels: dict[str, Counter[Kernel]] = {}
    for k in range(len(schedule)):
        rows, name = 2 if k <= last_guided else 1, f"scale_{k + 1}_s"
        flops[name] = rows * scale_flops(config, schedule, k, text_tokens=text_tokens)
        kernels[name] = scale_kernels(
            config, schedule, k, rows=rows * together, text_tokens=text_tokens, dtype=pipeline.dtype
        )
    grid = schedule.latent_grids(config.patch_size)[-1]
    kernels["decode_s"] = decoder_kernels(tokenizer.config, grid, images=together, dtype=tokenizer.dtype)
    flops["decode_s"] = total_flops(kernels["decode_s"]) / together
    return flops, kernels
