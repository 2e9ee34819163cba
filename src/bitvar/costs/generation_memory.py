"""Predicted memory of a process that loads a model and generates images, and settings that make it fit.

Sizes are in bytes. `inference_memory.py` has what the loop and the decoder take; this file adds the weights of every
part, what loading them takes, and what the process itself takes, and finds the peak of the phases: loading, encoding
the prompts, drawing, decoding. It knows sizes and settings, but neither folders nor devices.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, TypeAlias

from bitvar.costs.flops import count_parameters
from bitvar.costs.inference_memory import (
    MAX_FRAGMENTS,
    DecoderSizes,
    InferenceMemory,
    InferencePlan,
    estimate_inference_memory,
)
from bitvar.costs.training_memory import FP32, GIB, LONG_TEXT
from bitvar.runtime.tiled_decode import TILE
from bitvar.runtime.weight_only import GROUP
from bitvar.scales import ScaleSchedule
from bitvar.transformer.config import TransformerConfig

Kind: TypeAlias = Literal["cpu", "cuda", "mps"]
Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
Offload: TypeAlias = Literal["text", "blocks"]

ITEMSIZE: Final[dict[str, int]] = {"fp32": 4, "bf16": 2, "fp16": 2}

CONTEXT: Final = 600 << 20
"""Bytes that a CUDA driver, its kernels and their scratch memory take on a card beside PyTorch's tensors."""

IMPORTS: Final = 40 << 20
"""Bytes of the modules that a process imports only when it generates."""


@dataclass(frozen=True)
class PartSizes:
    """Weights of one part of a model.

    Attributes:
        parameters: Number of parameters.
        stored: Bytes of its files; 0 if it comes from no file.
        kept_wide: Number of parameters that stay fp32 in an fp16 model.
        kept_here: Number of parameters that stay in a CPU's memory when the part is offloaded.
        library: Bytes of the libraries that only this part needs, in the process's memory.
    """

    parameters: int
    stored: int = 0
    kept_wide: int = 0
    kept_here: int = 0
    library: int = 0

    def loaded(self, precision: Precision) -> int:
        """Bytes of the weights in a precision."""
        wide = self.kept_wide if precision == "fp16" else 0
        return (self.parameters - wide) * ITEMSIZE[precision] + wide * ITEMSIZE["fp32"]


@dataclass(frozen=True)
class ModelSizes:
    """Everything about a model that determines its memory.

    Attributes:
        config: Configuration of the transformer.
        decoder: Sizes of the image tokenizer.
        transformer, tokenizer, text_encoder: Weights of the parts; None for a model without text encoder.
    """

    config: TransformerConfig
    decoder: DecoderSizes
    transformer: PartSizes
    tokenizer: PartSizes
    text_encoder: PartSizes | None


@dataclass(frozen=True)
class GenerationPlan:
    """A call that generates images, and what determines its memory.

    Attributes:
        model: Sizes of the model.
        schedule: Schedule of every image.
        device: Kind of device.
        precision: Precision of weights and activations.
        images: Number of images of one call.
        guided: Whether guidance doubles the rows.
        offload: Parts that are on the device only while they compute ("text", "blocks").
        sequential_guidance: Whether guidance's two halves are computed one after the other.
        tile: Side of the tiles that images are decoded in, in pixels; None decodes in one pass.
        packed: Whether layers keep copies of their weights, as the optimizations "packed" and "folded" do.
        weight_bits: Bits of the weights of the blocks' linear layers, 8 or 4, as "int8-weights" and "int4-weights" keep
            them; None for those of the precision.
        int8_text: Whether the text encoder's linear layers are kept in 8 bits.
        int8_cache: Whether keys and values are kept in 8 bits.
        text_tokens: Number of tokens of the longest prompt.
        process: Bytes that the process takes before it loads a model, on a CPU.
    """

    model: ModelSizes
    schedule: ScaleSchedule
    device: Kind = "cuda"
    precision: Precision = "bf16"
    images: int = 1
    guided: bool = True
    offload: frozenset[Offload] = frozenset()
    sequential_guidance: bool = False
    tile: int | None = None
    packed: bool = False
    weight_bits: int | None = None
    int8_text: bool = False
    int8_cache: bool = False
    text_tokens: int = LONG_TEXT
    process: int = 0

    @property
    def inference(self) -> InferencePlan:
        """The images and their settings, as the estimate of the loop takes them."""
        return InferencePlan(
            self.model.config, self.schedule, self.model.decoder, images=self.images, guided=self.guided,
            itemsize=ITEMSIZE[self.precision], text_tokens=self.text_tokens,
            sequential_guidance=self.sequential_guidance, tile=self.tile, int8_cache=self.int8_cache,
        )  # fmt: skip


_WEIGHTS: Final = ("process", "transformer", "tokenizer", "text_encoder", "offloaded", "packed", "integers")


@dataclass(frozen=True)
class GenerationMemory:
    """Bytes on the device, by what takes them, and the phases that they add up to.

    Attributes:
        process: The process itself: PyTorch on a CPU, the driver's context on a card.
        transformer, tokenizer, text_encoder: Weights that stay on the device.
        offloaded: Buffers that offloaded blocks pass through.
        packed: Packed and folded copies of weights, made by the first image.
        integers: Weights in 8 or 4 bits. On a card they stand in place of the others, on a CPU beside them.
        restored: The largest layer's weights, restored from integers while it computes.
        loading: Peak while the weights are loaded.
        encoding: Peak while the prompts are encoded.
        drawing: Peak of the sampling loop.
        decoding: Peak of the decoder, after the loop has freed its cache.
        inference: What drawing and decoding take besides the weights.
    """

    process: int
    transformer: int
    tokenizer: int
    text_encoder: int
    offloaded: int
    packed: int
    integers: int
    restored: int
    loading: int
    encoding: int
    drawing: int
    decoding: int
    inference: InferenceMemory = field(repr=False)

    @property
    def resident(self) -> int:
        """Bytes that stay between calls."""
        return sum(getattr(self, name) for name in _WEIGHTS)

    @property
    def phases(self) -> dict[str, int]:
        """Peak of each phase, in order."""
        return {name: getattr(self, name) for name in ("loading", "encoding", "drawing", "decoding")}

    @property
    def peak(self) -> int:
        return max(self.phases.values())

    @property
    def peak_phase(self) -> str:
        """Name of the phase with the highest peak, the first of several."""
        phases = self.phases
        return max(phases, key=phases.__getitem__)

    def named(self) -> dict[str, int]:
        """Return the parts at the peak of drawing or decoding, by name, in the order of a report."""
        weights = {name: getattr(self, name) for name in _WEIGHTS}
        amounts = self.inference.named()
        if self.drawing >= self.decoding:
            weights["restored"] = self.restored
            drawn = ("cache", "text_keys", "text", "latents", "draws", "activations", "fragments", "libraries")
        else:
            drawn = ("text", "latents", "decoding", "pixels", "fragments", "libraries")
        return weights | {name: amounts[name] for name in drawn}


def estimate_generation_memory(plan: GenerationPlan) -> GenerationMemory:
    """Predict the memory of loading a model and generating images with it, without previews.

    Within 10 % of the peak of a process on a CPU (docs/memory.md). On a card, memory is counted on the card alone: the
    host needs a part's weights while it loads them, and keeps those that are offloaded.
    """
    model, precision, on_host = plan.model, plan.precision, plan.device != "cuda"
    inference = estimate_inference_memory(plan.inference)
    process = plan.process + IMPORTS if on_host else CONTEXT
    transformer = model.transformer.loaded(precision)
    offloaded = 0
    if "blocks" in plan.offload:
        block = count_parameters(model.config).blocks // model.config.depth * ITEMSIZE[precision]
        transformer -= model.config.depth * block
        offloaded = 2 * block  # the one that computes, and the next
    tokenizer = model.tokenizer.loaded(precision) + (_mapped(model.tokenizer, precision) if on_host else 0)
    text = model.text_encoder or PartSizes(0)
    process += text.library if on_host else 0
    encoder = stays = text.loaded(precision)
    if "text" in plan.offload:
        stays = text.kept_here * ITEMSIZE[precision] if on_host else 0
    packed = _packed(plan) if plan.packed else 0
    integers = of_text = 0
    if plan.weight_bits is not None:
        integers += _integers(_linear_layers(model.config), plan.weight_bits)
        transformer -= 0 if on_host else _linear_layers(model.config) * ITEMSIZE[precision]
    if plan.int8_text:
        linear = text.parameters - text.kept_here
        of_text = _integers(linear, 8)
        stays -= 0 if on_host else linear * ITEMSIZE[precision]
        encoder = stays
    restored = _restored(plan)
    weights = process + transformer + tokenizer + offloaded + integers + of_text
    together = weights + stays + packed + inference.text + inference.latents + inference.libraries
    drawing = together + inference.cache + inference.text_keys + inference.draws
    drawing += inference.activations + _fragments(inference.activations) + restored
    decoding = together + inference.decoding + inference.pixels + _fragments(inference.decoding)
    return GenerationMemory(
        process=process,
        transformer=transformer,
        tokenizer=tokenizer,
        text_encoder=stays,
        offloaded=offloaded,
        packed=packed,
        integers=integers + of_text,
        restored=restored,
        loading=_loading(plan) if on_host else weights - of_text + text.loaded(precision),
        encoding=weights + encoder + inference.text,
        drawing=drawing,
        decoding=decoding,
        inference=replace(
            inference, fragments=_fragments(inference.activations if drawing >= decoding else inference.decoding)
        ),
    )


def _mapped(weights: PartSizes, precision: Precision) -> int:
    """Bytes of a file in the model's precision, which stay mapped beside the copy with another layout."""
    return weights.stored if weights.stored == weights.loaded(precision) else 0


def _packed(plan: GenerationPlan) -> int:
    """Bytes of copies: of all linear layers, nearly everything but the learned "no text", and of upsampling layers."""
    counted, config = count_parameters(plan.model.config), plan.model.config
    learned = config.max_text_tokens * config.condition_width
    folded = sum(16 * channels**2 for channels in plan.model.decoder.channels[1:])
    return (counted.total - counted.embedding - learned + folded) * ITEMSIZE[plan.precision]


def _linear_layers(config: TransformerConfig) -> int:
    """Number of weights of the blocks' linear layers: self-attention, cross-attention, feed-forward."""
    width = config.width
    return config.depth * width * (4 * width + 4 * width + 2 * config.ffn_width)


def _integers(weights: int, bits: int) -> int:
    """Bytes of weights as integers, with a scale and a minimum a group."""
    return weights * bits // 8 + weights * 4 // GROUP


def _restored(plan: GenerationPlan) -> int:
    """Bytes of the largest layer's weights, restored from integers while it computes, in fp32 before their dtype."""
    config = plan.model.config
    per_weight = FP32 + ITEMSIZE[plan.precision] if plan.device == "cpu" else ITEMSIZE[plan.precision]
    return 0 if plan.weight_bits is None else config.width * config.ffn_width * per_weight


def _loading(plan: GenerationPlan) -> int:
    """Peak of loading one part after the other: a file is mapped, and cast unless it has the precision already."""
    held = peak = plan.process
    model, precision = plan.model, plan.precision
    for weights in (model.transformer, model.tokenizer, *filter(None, [model.text_encoder])):
        held += weights.library
        loaded = weights.loaded(precision)
        is_cast = weights.stored not in (0, loaded)
        peak = max(peak, held + loaded + (weights.stored if is_cast else 0))
        held += loaded + (_mapped(weights, precision) if weights is model.tokenizer else 0)
    return max(peak, held)


def _fragments(transient: int) -> int:
    return min(transient, MAX_FRAGMENTS)


@dataclass(frozen=True)
class Change:
    """A change of the settings that saves memory.

    Attributes:
        option: Option of `bitvar generate`, and what it costs.
        plan: The plan with this change and all changes before it.
        memory: Its memory.
    """

    option: str
    plan: GenerationPlan
    memory: GenerationMemory

    def fits(self, available_bytes: float) -> bool:
        return self.memory.peak <= available_bytes


def changes_that_fit(plan: GenerationPlan, available_bytes: float) -> list[Change]:
    """List changes, cheapest first, until the plan fits; changes that would save nothing are left out.

    Args:
        plan: Settings of the call.
        available_bytes: Memory of the device.

    Returns:
        Changes that add up, the last of which fits unless nothing does; none if the plan fits unchanged.
    """
    chosen: list[_Option] = []
    for option in _cheapest_first(plan):
        made = _apply(plan, chosen)
        before = made[-1].memory if made else estimate_generation_memory(plan)
        if before.peak <= available_bytes:
            break
        after = estimate_generation_memory(option.change(made[-1].plan if made else plan))
        if after.peak < before.peak or after.resident < before.resident:
            chosen.append(option)
    for option in reversed(chosen[:-1]):  # what a later one made superfluous costs time for nothing
        rest = _apply(plan, [other for other in chosen if other is not option])
        if rest[-1].fits(available_bytes):
            chosen.remove(option)
    return _apply(plan, chosen)


class _Option(NamedTuple):
    """An option, with its cost in words, and what it changes."""

    text: str
    change: Callable[[GenerationPlan], GenerationPlan]


def _apply(plan: GenerationPlan, options: Sequence[_Option]) -> list[Change]:
    made: list[Change] = []
    for option in options:
        plan = option.change(plan)
        made.append(Change(option.text, plan, estimate_generation_memory(plan)))
    return made


def _cheapest_first(plan: GenerationPlan) -> Iterator[_Option]:
    """List options with their cost, those that cost the least time first."""
    if plan.precision == "fp32":
        yield _Option("--dtype bf16, which rounds the weights", lambda plan: replace(plan, precision="bf16"))
    if plan.images > 1:
        yield _Option("-n 1, one image a call", lambda plan: replace(plan, images=1))
    if plan.model.text_encoder is not None and "text" not in plan.offload:
        yield _Option("--offload text, moved for every prompt", lambda plan: _offloading(plan, "text"))
    if plan.packed:
        yield _Option("--fast off, up to a third slower", lambda plan: replace(plan, packed=False))
    if plan.guided and not plan.sequential_guidance:
        halves = "--sequential-guidance, smaller products"
        yield _Option(halves, lambda plan: replace(plan, sequential_guidance=True))
    if plan.tile is None:
        yield _Option("--tile, decoding several times slower", lambda plan: replace(plan, tile=TILE))
    if plan.device == "cuda" and "blocks" not in plan.offload:
        if plan.weight_bits is None:
            rounded = "--fast int8-weights, which changes few bits"
            yield _Option(rounded, lambda plan: replace(plan, weight_bits=8))
        blocks = "--offload blocks, all weights moved for every scale"
        yield _Option(blocks, lambda plan: replace(_offloading(plan, "blocks"), weight_bits=None))


def _offloading(plan: GenerationPlan, leaving: Offload) -> GenerationPlan:
    return replace(plan, offload=plan.offload | {leaving})


def describe_changes(plan: GenerationPlan, available_bytes: float) -> list[str]:
    """Name the first settings that fit, a line each with the peak of all so far; no lines if the plan fits as it is."""
    changes = changes_that_fit(plan, available_bytes)
    lines = [f"{'and ' * (index > 0)}{_line(change, available_bytes)}" for index, change in enumerate(changes)]
    smallest = changes[-1].plan if changes else plan
    if estimate_generation_memory(smallest).peak > available_bytes:
        others = "a smaller --size" + (", --guidance 1" if plan.guided else "")
        lines.append(f"or {others}" + ("" if plan.device == "cpu" else ", or --device cpu"))
    return lines


def _line(change: Change, available_bytes: float) -> str:
    outcome = "fits" if change.fits(available_bytes) else "still too much"
    return f"{change.option}: {change.memory.peak / GIB:.1f} of {available_bytes / GIB:.1f} GiB, {outcome}"


def describe_generation(memory: GenerationMemory) -> str:
    """Format the prediction as a table in GiB: what is held at the peak of drawing or decoding, and the phases."""
    rows = [(name.replace("_", " "), size) for name, size in memory.named().items() if size]
    rows += [("resident", memory.resident), (f"peak, {memory.peak_phase}", memory.peak)]
    return "\n".join(f"{name:16} {size / GIB:8.2f} GiB" for name, size in rows)
