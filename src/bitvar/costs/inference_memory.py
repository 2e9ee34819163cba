"""Estimated peak memory of generating images, besides the weights: whoever admits requests asks it what they take.

Sizes are in bytes. The estimate counts the tensors that the sampling loop, the decoder and the conversion to images
hold, and adds what allocators and kernel libraries were measured to take (docs/performance.md). It excludes weights and
the text encoder, which `generation_memory.py` adds. This module knows layers, but neither devices nor the pipeline.
"""

from dataclasses import dataclass, fields
from typing import Final, Protocol, runtime_checkable

from bitvar.costs.training_memory import FP32, LONG_TEXT
from bitvar.scales import ScaleSchedule
from bitvar.transformer.config import TransformerConfig

KERNEL_LIBRARIES: Final = 24 << 20
"""Bytes that a process takes once, when it draws for the first time: compiled kernels, threads, scratch buffers."""

MAX_FRAGMENTS: Final = 160 << 20
"""Bytes of gaps that a heap may have: glibc keeps tensors up to 32 MiB on it, of which a layer has at most five."""

_MARGIN: Final = 16
"""Positions around a decoder's tile that the convolutions of a level read, with two or three residual blocks."""

_COARSEST_MARGIN: Final = 12
"""The same at the coarsest level, which has the first convolution and two more blocks."""


@runtime_checkable
class DecoderSizes(Protocol):
    """Sizes of an image decoder, as `TokenizerConfig` has them."""

    @property
    def bits(self) -> int: ...

    @property
    def channels(self) -> tuple[int, ...]: ...

    @property
    def image_channels(self) -> int: ...

    @property
    def norm(self) -> str: ...

    @property
    def stride(self) -> int: ...

    @property
    def pixel_patch(self) -> int: ...


@dataclass(frozen=True)
class InferencePlan:
    """Images to generate at the same time, and what determines their memory.

    Attributes:
        model: Configuration of the transformer.
        schedule: Schedule of every image.
        decoder: Sizes of the image tokenizer.
        images: Number of images that are drawn at the same time.
        guided: Whether guidance doubles the rows.
        batch_invariant: Whether each image is computed by itself, so that only one has activations at a time.
        itemsize: Bytes of one activation, 4 in fp32 and 2 in bf16 and fp16.
        text_tokens: Number of tokens of the longest prompt.
        sequential_guidance: Whether guidance's two halves are computed one after the other.
        tile: Side of the tiles that images are decoded in, in pixels; None decodes an image in one pass.
        int8_cache: Whether keys and values are kept in 8 bits.
    """

    model: TransformerConfig
    schedule: ScaleSchedule
    decoder: DecoderSizes
    images: int = 1
    guided: bool = True
    batch_invariant: bool = True
    itemsize: int = FP32
    text_tokens: int = LONG_TEXT
    sequential_guidance: bool = False
    tile: int | None = None
    int8_cache: bool = False

    @property
    def rows(self) -> int:
        """Number of rows that have a cache."""
        return self.images * (2 if self.guided else 1)

    @property
    def images_together(self) -> int:
        """Number of images that are computed in one pass."""
        return min(1, self.images) if self.batch_invariant else self.images

    @property
    def rows_together(self) -> int:
        """Number of rows that are computed in one pass."""
        return self.images_together * (2 if self.guided and not self.sequential_guidance else 1)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        side = self.model.patch_size * self.decoder.stride
        return self.schedule[-1][0] * side, self.schedule[-1][1] * side

    @property
    def num_pixels(self) -> int:
        """Number of pixels of one image."""
        height, width = self.image_size
        return height * width


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes at the peak of generation.

    Attributes:
        cache: Keys and values of every scale but the last (`nn/kv_cache.py`); exact.
        text_keys: Keys and values of the text in every block; exact.
        text: Text features, before and after their embedding.
        latents: Latents, and the bits of all scales.
        draws: Logits, noise and embedded tokens of a scale.
        activations: Tensors of a block at the largest scale.
        decoding: Activations of the decoder.
        pixels: Decoded pixels, and their conversion to images.
        fragments: Freed memory that the allocator can't use for larger tensors, at most `MAX_FRAGMENTS`.
        libraries: `KERNEL_LIBRARIES`, once a process.
    """

    cache: int
    text_keys: int
    text: int
    latents: int
    draws: int
    activations: int
    decoding: int
    pixels: int
    fragments: int
    libraries: int

    @property
    def held(self) -> int:
        """Bytes that an image keeps from its first scale to its last."""
        return self.cache + self.text_keys + self.text + self.latents + self.draws

    @property
    def transient(self) -> int:
        """Bytes of the larger one of two phases that never coincide: a scale and decoding."""
        return max(self.activations, self.decoding + self.pixels)

    @property
    def total(self) -> int:
        return self.held + self.transient + self.fragments + self.libraries

    def named(self) -> dict[str, int]:
        """Return the parts by name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def estimate_inference_memory(plan: InferencePlan) -> InferenceMemory:
    """Estimate the memory of generating images with previews.

    The estimate lies between 0.9 times and twice the measured growth of a process on a CPU
    (`tests/unit/costs/test_inference_memory.py`).
    """
    config, schedule = plan.model, plan.schedule
    c, item = config.width, plan.itemsize
    text_rows = plan.rows * plan.text_tokens
    cells = schedule[-1][0] * schedule[-1][1] * config.patch_size**2
    cell_bits = config.bits // config.patch_size**2
    activations, decoding = _activations(plan), plan.images_together * _decoding(plan)
    pixels = plan.images * plan.num_pixels * plan.decoder.image_channels * 5 * FP32
    return InferenceMemory(
        cache=config.depth * _layer_cache(plan, plan.rows),
        text_keys=3 * config.depth * text_rows * c * item,  # values, and the projection that the keys are a view of
        text=text_rows * (3 * config.text_width * FP32 + (config.condition_width + 2 * c) * item),
        latents=plan.images * (4 * cells * cell_bits * FP32 + schedule.num_tokens * config.bits),
        draws=_draws(plan),
        activations=activations,
        decoding=decoding,
        pixels=pixels,
        fragments=min(max(activations, decoding + pixels), MAX_FRAGMENTS),
        libraries=KERNEL_LIBRARIES,
    )


def _draws(plan: InferencePlan) -> int:
    """Bytes that the loop holds of the last scale, and makes to draw it, in the order of `sampling/generate.py`."""
    d, l = plan.model.bits, plan.schedule.lengths[-1]  # noqa: E741  (the axis)
    logits = plan.rows * 2 * d * FP32 + plan.images * 2 * d * FP32  # before and after guidance
    drawing = plan.images * d * 7 * FP32  # random words, noise, probabilities, bits
    return l * (logits + drawing)


def _activations(plan: InferencePlan) -> int:
    """Bytes of the largest scale's tensors within a block, in the order of `transformer/block.py`."""
    config, item = plan.model, plan.itemsize
    c = config.width
    largest, last = max(plan.schedule.lengths), plan.schedule.lengths[-1]
    inputs = 3 * c * item  # embedded tokens, the block's input, and the input normalised
    rotation = inputs + 4 * c * item + 4 * c * FP32  # q, k, v, rotated q; unit q and k, and two for the rotated k
    feed_forward = 2 * c * item + 2 * config.ffn_width * item  # before and after the activation
    attention = last * (inputs + 4 * c * item) + 2 * c * item * plan.schedule.num_tokens  # the last scale's are joined
    if plan.int8_cache:
        attention += 2 * c * (FP32 + item) * plan.schedule.cached_tokens  # restored, before and after their dtype
    return plan.rows_together * max(largest * rotation, largest * feed_forward, attention)


def _layer_cache(plan: InferencePlan, rows: int) -> int:
    """Bytes of one block's keys and values of some rows: `nn/kv_cache.py`, or `runtime/int8_cache.py` with steps."""
    tokens, config = rows * plan.schedule.cached_tokens, plan.model
    of_token = config.width + FP32 * config.num_heads if plan.int8_cache else config.width * plan.itemsize
    return 2 * tokens * of_token


def _decoding(plan: InferencePlan) -> int:
    """Bytes of the decoder's tensors for one image at its most expensive level, as in `tokenizer/autoencoder.py`."""
    if plan.tile is not None:
        return _tiled_decoding(plan, plan.tile)
    decoder, item = plan.decoder, plan.itemsize
    of_norm = 2 * (FP32 if decoder.norm == "pixel" else item)  # its result and SiLU's; or a square in fp32
    positions = plan.num_pixels // decoder.pixel_patch**2
    peak, channels = 0, decoder.channels
    for level, outputs in enumerate(channels):  # finest first
        inputs = channels[min(level + 1, len(channels) - 1)]
        first = inputs * (item + of_norm)
        later = (inputs + 2 * outputs) * item + outputs * of_norm
        upsampled = (inputs + outputs + 8 * outputs) * item if level else 0
        peak = max(peak, (positions >> 2 * level) * max(first, later, upsampled))
    return peak


def _tiled_decoding(plan: InferencePlan, tile: int) -> int:
    """Bytes of decoding as in `tokenizer/tiling.py`: complete activations between two levels, and one tile."""
    decoder, item, channels = plan.decoder, plan.itemsize, plan.decoder.channels
    height, width = (side // decoder.pixel_patch for side in plan.image_size)
    peak = 0
    for level, outputs in enumerate(channels):  # finest first
        is_coarsest = level == len(channels) - 1
        inputs = outputs if is_coarsest else channels[level + 1]
        before = decoder.bits if is_coarsest else inputs
        whole = before * (height * width >> 2 * (level if is_coarsest else level + 1))
        whole += outputs * (height * width >> 2 * level) if level else 0
        side, margin = max(2, tile // decoder.pixel_patch >> level), _COARSEST_MARGIN if is_coarsest else _MARGIN
        positions = _longest(height >> level, side, margin) * _longest(width >> level, side, margin)
        first = inputs * (item + 2 * FP32)  # a tile's norm computes in fp32
        later = (inputs + 2 * outputs) * item + outputs * 2 * FP32
        peak = max(peak, whole * item + positions * max(first, later))
    return peak


def _longest(length: int, side: int, margin: int) -> int:
    """Longest range of positions that a tile reads: its side, with a margin towards every neighbour."""
    neighbours = min(2, -(-length // side) - 1)
    return min(length, side + neighbours * margin)
