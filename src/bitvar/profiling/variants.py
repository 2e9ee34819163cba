"""Variants of generation side by side: their time, memory, and how far their results are from the plain model's."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bitvar.condition import TextCondition
from bitvar.config import unknown
from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.optimizations import OPTIMIZATIONS
from bitvar.profiling.clock import Clock, peak_memory
from bitvar.runtime.optimization import Optimization
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.sampling.generate import ScaleResult, generate
from bitvar.sampling.params import SamplingParams
from bitvar.scales import Grid, ScaleSchedule
from bitvar.tokenizer import InfinityTokenizer
from bitvar.transformer import InfinityTransformer, TransformerConfig

FLOPS_PER_SECOND: Final = 790e12
BYTES_PER_SECOND: Final = 4.3e12
"""Attainable rates of an H200 in bf16, which the floor assumes: dense products, and reading memory."""

GUIDANCE: Final = 4.0


@dataclass(frozen=True)
class Variant:
    """A way to generate.

    Attributes:
        name: Name as given to `parse`.
        optimizations: Optimizations to apply, in order.
        unguided: Number of last scales without guidance.
    """

    name: str
    optimizations: tuple[str, ...] = ()
    unguided: int = 0

    @staticmethod
    def parse(name: str) -> "Variant":
        """Read names joined by "+": optimizations, "unguided-N" for the last N scales, and "eager" for neither.

        Raises:
            UsageError: for an unknown name.
        """
        optimizations, unguided = set[str](), 0
        for part in name.split("+"):
            if part.startswith("unguided-") and part.removeprefix("unguided-").isdecimal():
                unguided = int(part.removeprefix("unguided-"))
            elif part in OPTIMIZATIONS:
                optimizations.add(part)
            elif part != "eager":
                raise UsageError(unknown(f"variant {part!r}", part, ["eager", "unguided-1", *OPTIMIZATIONS]))
        return Variant(name, tuple(known for known in OPTIMIZATIONS if known in optimizations), unguided)

    def params(self, num_scales: int) -> SamplingParams:
        """The settings of the draw."""
        guided = max(0, num_scales - self.unguided)
        scales = [GUIDANCE] * guided + [1.0] * (num_scales - guided)
        return SamplingParams(guidance_scale=scales, temperature=0.5, top_p=0.97)


def measure_variants(
    pipeline: InfinityPipeline, variants: Sequence[Variant], *, pixels: int, runs: int
) -> Iterator[dict[str, Any]]:
    """Time variants of drawing one image, and compare each with the plain model.

    Every variant draws the same image twice: freely, and again with the plain model's bits put in place of its own
    after each scale, so that the logits of a scale are compared after the same history.

    Args:
        pipeline: Pipeline without optimizations. Its text encoder is used once.
        variants: Variants to measure, in this order.
        pixels: Side of the image.
        runs: Number of timed images, after a first one that captures or compiles.

    Yields a row of results for each variant, as soon as it is measured. On a CPU, optimizations for GPUs run with
    stand-ins, which rehearses their code and says nothing about their speed.
    """
    schedule = pipeline.schedule_for(pixels, pixels)
    subject = _Subject(pipeline, schedule, pipeline.encode_prompts("a red apple"))
    plain = _teacher_forced(subject, pipeline.transformer, None)
    image = _draw(subject, pipeline.transformer, Variant("eager"))[1]
    reference = _Reference(plain, image)
    for variant in variants:
        yield _row_of(subject, reference, variant, runs)


@dataclass(frozen=True)
class _Subject:
    pipeline: InfinityPipeline
    schedule: ScaleSchedule
    condition: TextCondition

    @property
    def device(self) -> torch.device:
        return self.pipeline.device


@dataclass(frozen=True)
class _Forced:
    """Guided logits of each scale, of shape `(1, l, d, 2)`, and the bits drawn from them."""

    logits: tuple[Tensor, ...]
    bits: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Reference:
    forced: _Forced
    pixels: Tensor


def _row_of(subject: _Subject, reference: _Reference, variant: Variant, runs: int) -> dict[str, Any]:
    device = subject.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with _applied(subject.pipeline, variant) as decoder:
        began = time.perf_counter()
        _, pixels = _draw(subject, decoder, variant)
        first = time.perf_counter() - began
        timed = [_draw(subject, decoder, variant, Clock(device))[0] for _ in range(runs)]
        memory = {"peak_memory_mb": peak_memory(device)}
        if device.type == "cuda":  # what graphs keep for their next replay counts as reserved, not as allocated
            memory["peak_reserved_mb"] = round(torch.cuda.max_memory_reserved(device) / 1e6, 1)
        forced = _teacher_forced(subject, decoder, reference.forced.bits)
    scales, decode = (statistics.median(run[part] for run in timed) for part in (0, 1))
    config = subject.pipeline.transformer.config
    floor = floor_seconds(config, subject.schedule, unguided=variant.unguided)
    grid = subject.schedule.latent_grids(config.patch_size)[-1]
    return {
        "variant": variant.name,
        "total_s": round(statistics.median(sum(run) for run in timed), 4),
        "fastest_s": round(min(sum(run) for run in timed), 4),
        "scales_s": round(scales, 4),
        "decode_s": round(decode, 4),
        "first_s": round(first, 2),
        "floor_scales_s": round(floor, 4),
        "floor_decode_s": round(decoding_floor(subject.pipeline.tokenizer, grid), 4),
        **memory,
        **_difference(forced, reference.forced),
        "psnr": _psnr(pixels, reference.pixels),
    }


@contextmanager
def _applied(pipeline: InfinityPipeline, variant: Variant) -> Iterator[ScaleDecoder[Any]]:
    applied: list[Optimization] = []
    decoder: ScaleDecoder[Any] = pipeline.transformer
    try:
        for name in variant.optimizations:
            optimization = OPTIMIZATIONS[name](pipeline.transformer, pipeline.tokenizer, pipeline.text_encoder)
            optimization.apply()
            applied.append(optimization)
            decoder = optimization.decoder(decoder)
        yield decoder
    finally:
        for optimization in reversed(applied):
            optimization.undo()


def _draw(
    subject: _Subject, decoder: ScaleDecoder[Any], variant: Variant, clock: Clock | None = None
) -> tuple[tuple[float, float], Tensor]:
    """Draw an image, and return the seconds of its scales and of its decoding, and its pixels."""
    clock = clock or Clock(subject.device)
    clock.lap()
    params, schedule = variant.params(len(subject.schedule)), subject.schedule
    results = generate(decoder, subject.condition, schedule, params=params, seeds=[0], streamed=False)
    latent = list(results)[-1].latent
    scales = clock.lap()
    with torch.inference_mode():
        pixels = subject.pipeline.tokenizer.decode(latent)
    return (scales, clock.lap()), pixels


def _teacher_forced(subject: _Subject, decoder: ScaleDecoder[Any], bits: Sequence[Tensor] | None) -> _Forced:
    """Draw with guidance at every scale; given bits take the place of the drawn ones after each scale."""
    kept, constraint = _KeptLogits(decoder), _Replaced(bits)
    model: Any = kept
    params = Variant("").params(len(subject.schedule))
    results: list[ScaleResult] = list(
        generate(model, subject.condition, subject.schedule, params=params, seeds=[0], constraint=constraint)
    )
    logits = tuple(torch.lerp(pair[1:], pair[:1], GUIDANCE) for pair in kept.logits)
    return _Forced(logits, tuple(constraint.drawn) if bits is not None else tuple(result.bits for result in results))


class _KeptLogits:
    """A decoder that keeps a copy of the logits of each scale."""

    def __init__(self, decoder: ScaleDecoder[Any]) -> None:
        self._decoder = decoder
        self.logits = list[Tensor]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def decode_scale(self, tokens: Tensor, k: int, state: Any) -> Tensor:
        logits = self._decoder.decode_scale(tokens, k, state)
        self.logits.append(logits.clone())
        return logits


class _Replaced:
    """A constraint that keeps the bits that were drawn, and replaces them by given ones. None replaces nothing."""

    def __init__(self, bits: Sequence[Tensor] | None) -> None:
        self._bits = bits
        self.drawn = list[Tensor]()

    def needs_draw(self, k: int) -> bool:
        return True

    def apply(self, k: int, drawn: Tensor | None, latent: Tensor) -> Tensor:
        assert drawn is not None, "every scale is drawn"
        self.drawn.append(drawn)
        return drawn if self._bits is None else self._bits[k]

    def image(self, index: int) -> "_Replaced":
        return self


def _difference(forced: _Forced, plain: _Forced) -> dict[str, Any]:
    """Compare logits and bits after the same history: the worst scale's relative error, and all bits."""
    errors = [
        float((a - b).float().square().mean().sqrt() / b.float().std())
        for a, b in zip(forced.logits, plain.logits, strict=True)
    ]
    changed = sum(int((a != b).sum()) for a, b in zip(forced.bits, plain.bits, strict=True))
    total = sum(bits.numel() for bits in plain.bits)
    equal = all(torch.equal(a, b) for a, b in zip(forced.logits, plain.logits, strict=True))
    return {
        "equal_logits": equal,
        "logit_error": round(max(errors), 6),
        "bits_changed": round(changed / total, 6),
    }


def _psnr(pixels: Tensor, reference: Tensor) -> float | None:
    """Return the peak signal-to-noise ratio in dB, of images in [-1, 1]; None for equal ones."""
    error = float((pixels - reference).float().square().mean())
    return None if error == 0 else round(10 * math.log10(4 / error), 2)


def floor_seconds(config: TransformerConfig, schedule: ScaleSchedule, *, unguided: int) -> float:
    """Compute the least time that the scales of one guided image can take on an H200 in bf16.

    At each scale, matrix products run at `FLOPS_PER_SECOND` while weights and cache are read at `BYTES_PER_SECOND`,
    whichever takes longer. Everything else is assumed to be hidden behind them.

    Args:
        config: Sizes of the transformer.
        schedule: Schedule of the image.
        unguided: Number of last scales without guidance, which have half the rows.
    """
    c, ffn = config.width, config.ffn_width
    weights = config.depth * (6 * c * c + 2 * c * ffn)  # the text's keys and values are computed once
    seconds = 0.0
    for k, length in enumerate(schedule.lengths):
        rows = 1 if k >= len(schedule) - unguided else 2
        seen = schedule.offsets[k + 1]
        flops = rows * length * (2 * weights + 4 * config.depth * c * seen)
        read = 2 * (weights + rows * 2 * config.depth * c * seen)
        seconds += max(flops / FLOPS_PER_SECOND, read / BYTES_PER_SECOND)
    return seconds


def decoding_floor(tokenizer: InfinityTokenizer, grid: Grid) -> float:
    """Compute the least time that the convolutions of decoding one image can take on an H200 in bf16.

    Args:
        tokenizer: Tokenizer that decodes.
        grid: Rows and columns of the image in tokenizer cells.
    """
    with torch.device("meta"):
        decoder = InfinityTokenizer(tokenizer.config).decoder
        latent = torch.empty(1, tokenizer.config.bits, *grid)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(latent)
    return counter.get_total_flops() / FLOPS_PER_SECOND


@torch.no_grad()
def randomize(transformer: InfinityTransformer) -> None:
    """Draw weights of the sizes that a trained model has: at its initialisation, a model ignores most of its layers."""
    generator = torch.Generator(transformer.device).manual_seed(0)
    for parameter in transformer.parameters():
        std = 0.2 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
        parameter.normal_(0, std, generator=generator)
