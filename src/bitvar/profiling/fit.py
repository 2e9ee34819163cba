"""Whether a model and a call fit into memory, predicted from the small files and headers of a folder or from a preset.

No weights are loaded. On a CPU, the process itself is counted as this one is now, with the same modules imported.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

import torch

from bitvar.config import unknown
from bitvar.costs.flops import num_parameters
from bitvar.costs.generation_memory import (
    GenerationMemory,
    GenerationPlan,
    Kind,
    ModelSizes,
    Offload,
    PartSizes,
    Precision,
    changes_that_fit,
    describe_changes,
    describe_generation,
    estimate_generation_memory,
)
from bitvar.costs.training_memory import GIB, LONG_TEXT
from bitvar.errors import UsageError, WeightsError
from bitvar.finite import DTYPE_NAMES
from bitvar.official_schedules import BUDGETS, official_schedules
from bitvar.pipeline.optimizations import choose, has_room_for_copy, require_names
from bitvar.runtime.host_memory import resident_bytes, total_bytes
from bitvar.runtime.int8_cache import Int8Cache
from bitvar.runtime.int8_text import Int8Text
from bitvar.runtime.placement import resolve_device, resolve_dtype
from bitvar.runtime.weight_only import Int4Weights, Int8Weights
from bitvar.scales import ScaleSchedule, nearest_schedule
from bitvar.text.files import BertSizes, EncoderSizes, T5Sizes
from bitvar.text.files import read_sizes as read_sizes_of_encoder
from bitvar.tokenizer import TOKENIZER_PRESETS, InfinityTokenizer, TokenizerConfig
from bitvar.tokenizer.tiling import require_tile
from bitvar.transformer import PRESETS, TransformerConfig
from bitvar.weights.describe import describe
from bitvar.weights.hub import require_model_folder, resolve_model

T5_XL: Final = T5Sizes(vocab_size=32128, d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32,
                       feed_forward_proj="gated-gelu")  # fmt: skip
"""Text encoder of the published models, flan-t5-xl."""

CARDS: Final = (8, 12, 16, 24, 40, 80)
"""Memory of common cards in GB, which their makers count as GiB."""

SPARE: Final = 0.05
"""Share of a card's memory that the table of cards leaves free: a card has a little less than its name says."""

TRANSFORMERS: Final = 110 << 20
"""Bytes that importing transformers takes in a process, which a T5 needs."""


@dataclass(frozen=True)
class FitRequest:
    """A model and a call to predict the memory of.

    Attributes:
        model: Preset, folder, name in the package or hub id; None for the embedded model.
        size: Width and height in pixels; None for the model's first size.
        images: Number of images of one call.
        device: "auto", "cpu", "cuda" or "mps". With `device_gib`, it need not exist here.
        device_gib: Memory of the device in GiB; None for that of this machine's device.
        dtype: Precision, as for `InfinityPipeline.from_pretrained`.
        guided: Whether images are guided; None for the model's default.
        offload: Parts to offload, "text" and "blocks".
        sequential_guidance: Whether guidance's halves are computed one after the other.
        tile: Side of the tiles that images are decoded in, in pixels.
        fast: Optimizations, as for `InfinityPipeline.optimize`. On a CPU, they may keep copies of weights.
    """

    model: str | None = None
    size: tuple[int, int] | None = None
    images: int = 1
    device: str = "auto"
    device_gib: float | None = None
    dtype: str = "auto"
    guided: bool | None = None
    offload: tuple[str, ...] = ()
    sequential_guidance: bool = False
    tile: int | None = None
    fast: tuple[str, ...] = ("auto",)


@dataclass(frozen=True)
class Fit:
    """The prediction for a request.

    Attributes:
        name: Name of the model.
        plan: Model and settings.
        memory: Their memory.
        available: Bytes of the device.
    """

    name: str
    plan: GenerationPlan
    memory: GenerationMemory
    available: float

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.available

    def describe(self) -> str:
        """Describe the memory by what takes it, whether it fits, and what to change if it does not."""
        plan, (height, width) = self.plan, self.plan.inference.image_size
        parts = [plan.model.transformer, plan.model.tokenizer, *filter(None, [plan.model.text_encoder])]
        count = sum(part.parameters for part in parts)
        images = f"{plan.images} image{'s' * (plan.images > 1)}"
        guided = "guided" if plan.guided else "without guidance"
        lines = [
            f"{self.name}: {count:,} parameters; {images} of {width}x{height} ({plan.schedule.num_tokens:,} tokens),"
            f" {guided}, in {plan.precision} on {plan.device}",
            describe_generation(self.memory),
            f"of {self.available / GIB:.1f} GiB: " + ("fits" if self.fits else "does not fit"),
            *(f"  {line}" for line in describe_changes(plan, self.available)),
            f"  a prediction, with {plan.text_tokens} tokens of text and no previews",
        ]
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """Return the prediction as JSON values, sizes in bytes."""
        plan, (height, width) = self.plan, self.plan.inference.image_size
        changes = changes_that_fit(plan, self.available)
        return {
            "model": self.name,
            "width": width,
            "height": height,
            "images": plan.images,
            "guided": plan.guided,
            "device": plan.device,
            "dtype": plan.precision,
            "offload": sorted(plan.offload),
            "sequential_guidance": plan.sequential_guidance,
            "tile": plan.tile,
            "parts": self.memory.named(),
            "phases": self.memory.phases,
            "resident": self.memory.resident,
            "peak": self.memory.peak,
            "available": int(self.available),
            "fits": self.fits,
            "changes": [
                {"option": change.option, "peak": change.memory.peak, "fits": change.fits(self.available)}
                for change in changes
            ],
        }


def predict_fit(request: FitRequest) -> Fit:
    """Predict the memory of loading a model and generating images, without loading any weights.

    Raises:
        UsageError: for an unknown model, a size it does not draw, or a device or precision that can't be used.
        WeightsError: for a damaged folder.
    """
    device = _kind(request)
    name, model, schedules, guided = read_sizes(request.model)
    schedule = schedules[0]
    if request.size is not None:
        side = model.decoder.stride * model.config.patch_size
        schedule = nearest_schedule(schedules, height=request.size[1], width=request.size[0], stride=side)
    unknown_parts = [part for part in request.offload if part not in get_args(Offload)]
    if unknown_parts:
        raise UsageError(unknown("part to offload", unknown_parts[0], get_args(Offload)))
    if device == "cpu" and "blocks" in request.offload:
        raise UsageError("Blocks can't be offloaded from a CPU.", "they wait in its memory", "leave blocks out")
    if request.device_gib is not None and not math.isfinite(request.device_gib):
        raise UsageError(f"The memory of a device can't be {request.device_gib} GiB.", fix="give a number of GiB")
    if request.tile is not None:
        require_tile(request.tile)
    require_names(request.fast)
    precision = _precision(request.dtype, device)
    available = _device_bytes(device) if request.device_gib is None else request.device_gib * GIB
    room = has_room_for_copy(model.transformer.loaded(precision), available)
    plan = GenerationPlan(
        model,
        schedule,
        device,
        precision,
        images=request.images,
        guided=guided if request.guided is None else request.guided,
        offload=frozenset(part for part in get_args(Offload) if part in request.offload),
        sequential_guidance=request.sequential_guidance,
        tile=request.tile,
        text_tokens=min(LONG_TEXT, model.config.max_text_tokens),
        packed=device == "cpu" and "packed" in [kind.name for kind in choose(request.fast, device, room=room)],
        weight_bits=next((kind.bits for kind in (Int8Weights, Int4Weights) if kind.name in request.fast), None),
        int8_text=Int8Text.name in request.fast,
        int8_cache=Int8Cache.name in request.fast,
        process=resident_bytes(),
    )
    return Fit(name, plan, estimate_generation_memory(plan), available)


def describe_cards(request: FitRequest) -> str:
    """Make a Markdown table of common cards: which settings fit first, and their peak.

    Args:
        request: Model and call; its device is replaced by each card.
    """
    rows = ["| card | settings | peak |", "|---|---|---|"]
    for gigabytes in CARDS:
        fit = predict_fit(replace(request, device="cuda", device_gib=gigabytes))
        available = fit.available * (1 - SPARE)
        changes = changes_that_fit(fit.plan, available)
        memory = changes[-1].memory if changes else fit.memory
        options = [f"`{change.option.partition(',')[0]}`" for change in changes]
        fits = memory.peak <= available
        settings = (" ".join(options) or "as it is") if fits else "does not fit"
        rows.append(f"| {gigabytes} GB | {settings} | {memory.peak / GIB:.1f} GiB |")
    return "\n".join(rows)


def _kind(request: FitRequest) -> Kind:
    """Choose the kind of device; one whose memory is given need not be here."""
    given = request.device
    if request.device_gib is not None:
        if given == "auto":
            return "cuda"
        return _known_kind(given)
    return _known_kind(resolve_device(given).type)


def _known_kind(name: str) -> Kind:
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        if kind == name:
            return kind
    raise UsageError(unknown("device", name, kinds))


def _precision(dtype: str, device: Kind) -> Precision:
    name = DTYPE_NAMES[resolve_dtype(dtype, torch.device(device))]
    precisions: tuple[Precision, ...] = get_args(Precision)
    return next(precision for precision in precisions if precision == name)


def _device_bytes(device: Kind) -> float:
    """Memory of this machine's device."""
    return float(torch.cuda.mem_get_info()[1]) if device == "cuda" else float(total_bytes())


def read_sizes(model: str | None) -> tuple[str, ModelSizes, list[ScaleSchedule], bool]:
    """Read the sizes of a model: a preset such as "2B", which comes with T5-XL, or whatever `resolve_model` finds.

    Returns:
        Its name, its sizes, the schedules that it draws, and whether it guides by default.

    Raises:
        UsageError: for a name that is neither.
        WeightsError: for a damaged folder.
    """
    if model in PRESETS:
        return str(model), *_preset_sizes(str(model)), True
    folder = resolve_model(model)
    require_model_folder(folder)
    found = describe(folder)
    try:
        config = TransformerConfig.load(folder / "transformer" / "config.json")
        decoder = TokenizerConfig.load(folder / "image_tokenizer" / "config.json")
    except UsageError as error:
        raise WeightsError(str(error)) from None
    parts = {name: PartSizes(count, found.stored[name]) for name, count in found.parameters.items()}
    encoder = parts.get("text_encoder")
    if encoder is not None:
        text = read_sizes_of_encoder(folder / "text_encoder", str(found.text_encoder).partition(",")[0])
        encoder = _text_encoder(text, encoder.parameters, encoder.stored)
    sizes = ModelSizes(config, decoder, parts["transformer"], parts["image_tokenizer"], encoder)
    return found.name, sizes, config.all_schedules(), found.defaults is not None and found.defaults.guided


def _preset_sizes(name: str) -> tuple[ModelSizes, list[ScaleSchedule]]:
    config = PRESETS[name]
    decoder = TOKENIZER_PRESETS["d56_f8" if config.patch_size == 2 else f"d{config.bits}"]
    with torch.device("meta"):
        tokenizer = sum(parameter.numel() for parameter in InfinityTokenizer(decoder).parameters())
    parts = (PartSizes(num_parameters(config)), PartSizes(tokenizer), _text_encoder(T5_XL, T5_XL.parameters))
    return ModelSizes(config, decoder, *parts), [*config.all_schedules(), *official_schedules(tuple(BUDGETS))]


def _text_encoder(sizes: EncoderSizes, parameters: int, stored: int = 0) -> PartSizes:
    if isinstance(sizes, T5Sizes):
        wide = sizes.num_layers * sizes.d_ff * sizes.d_model  # transformers keeps a layer's last projection in fp32
        return PartSizes(parameters, stored, wide, sizes.vocab_size * sizes.d_model, TRANSFORMERS)
    assert isinstance(sizes, BertSizes)
    return PartSizes(parameters, stored, kept_here=sizes.vocab_size * sizes.hidden_size)
