"""Text to image: text encoder, sampler, tokenizer."""

import collections
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from bitvar import __version__, arguments
from bitvar.condition import TextCondition
from bitvar.errors import UsageError, WeightsError, explain
from bitvar.finite import require_finite
from bitvar.imaging.convert import to_numpy, to_pil
from bitvar.lora.adapters import Adapters
from bitvar.lora.file import LoraBase
from bitvar.pipeline.options import MAX_SIDE, GenerationKwargs, GenerationOptions
from bitvar.pipeline.record import ImageRecord, save_images
from bitvar.runtime.placement import move_model, resolve_device, resolve_dtype
from bitvar.sampling import SamplingParams, ScaleResult, generate, generate_apart
from bitvar.scales import Grid, ScaleSchedule, nearest_schedule
from bitvar.weights.hub import resolve_model
from bitvar.weights.index import ModelIndex
from bitvar.weights.model_folder import Components, load_folder, save_folder


@dataclass(frozen=True)
class GenerationOutput:
    """What a call returns.

    Attributes:
        images: in the form asked for: PIL images, `(b, H, W, 3)` uint8 numpy, `(b, 3, H, W)` floats in [-1, 1], or the
            bits of every scale.
        seeds: of each image.
        metadata: one dictionary an image, enough to make it again: its prompt, its own seed, every setting, the model,
            `dtype`, `device` and `batch_invariant`; `width` and `height` as drawn, `requested_width` and
            `requested_height` as asked for, None where no size was.
    """

    images: Any
    seeds: list[int]
    metadata: list[dict[str, Any]]

    def save(self, where: str | Path) -> list[Path]:
        """Write the images with their settings inside, so that `bitvar generate --from FILE` makes them again.

        Args:
            where: a file (`x.png`, `x.webp`, `x.jpg`), numbered if there are several images; a pattern with `{seed}`,
                `{prompt}` or `{index}`; or a folder, in which files are named by prompt and seed, and none is
                overwritten.

        Raises:
            UsageError: for another suffix, two images of one name, or an output of bits.
        """
        where = arguments.checked("where", where, arguments.path)
        records = [ImageRecord.of(metadata, version=__version__) for metadata in self.metadata]
        return save_images(_as_pil(self.images), records, where)


@dataclass(frozen=True)
class ScaleEvent:
    """One scale done.

    Attributes:
        index: of the scale, from 0.
        total: number of scales.
        grid: its rows and columns of tokens.
        tokens_done, tokens_total: the share of work behind.
        seeds: of each image.
        metadata: as in `GenerationOutput`.
    """

    index: int
    total: int
    grid: Grid
    tokens_done: int
    tokens_total: int
    seeds: list[int]
    metadata: list[dict[str, Any]]
    bits: tuple[Bool[Tensor, "b d _ _"], ...]
    _latent: Tensor
    _pipeline: "InfinityPipeline"
    _batch_invariant: bool

    @cached_property
    def pixels(self) -> Float[Tensor, "b 3 H W"]:
        """The images so far in [-1, 1]; decoded when first asked for, each by itself if the call is batch-invariant.

        Raises:
            ComputationError: when the decoder gives NaN or infinity.
        """
        tokenizer = self._pipeline.tokenizer
        parts = [row.clone() for row in self._latent.split(1)] if self._batch_invariant else [self._latent]
        with torch.inference_mode():
            pixels = torch.cat([tokenizer.reconstruct(part) for part in parts])
            what = f"the decoder's pixels at scale {self.index + 1} of {self.total}"
            require_finite(pixels, what, precision=tokenizer.dtype)
            return pixels.clamp(-1, 1)

    def preview(self, size: int | None = None) -> list[Image.Image]:
        """The images so far, the longer side resized to `size` pixels."""
        if size is not None:
            size = arguments.checked("size", size, _side)
        images = to_pil(self.pixels)
        if size is None:
            return images
        return [image.resize(_fit(image.size, size), Image.Resampling.LANCZOS) for image in images]


class InfinityPipeline:
    """Text to image. Holds no state of a call, so calls may run side by side.

    Args:
        components: transformer, tokenizer, text encoder and index, on one device.
    """

    def __init__(self, components: Components) -> None:
        if not isinstance(components, Components):
            why = f"got {arguments.shown(components)}"
            raise UsageError("A pipeline is made of Components.", why, "use InfinityPipeline.from_pretrained")
        self.components = components
        self.transformer = components.transformer
        self.tokenizer = components.tokenizer
        self.text_encoder = components.text_encoder
        self._adapters = Adapters(components.transformer)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        tokenizer: str | Path | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
    ) -> "InfinityPipeline":
        """Load a model folder, every digest verified.

        Args:
            model: a folder, or a hub id `owner/name`; None is the small model that comes with the package.
            revision: of a hub id: branch, tag or commit.
            tokenizer: a folder or hub id of another tokenizer than the model's own, whose decoder was trained further:
                it makes the same bits.
            dtype: "fp32", "bf16", "fp16", a torch dtype, or "auto": bf16 on CUDA, else fp32.
            device: "cpu", "cuda", "mps", or "auto": the best there is.

        Raises:
            UsageError: for an unknown device or dtype, or a model that can't be found.
            WeightsError: for missing, altered or mismatched files.
        """
        chosen = resolve_device(device)
        precision = resolve_dtype(dtype, chosen)
        if revision is not None:
            revision = arguments.checked("revision", revision, arguments.text)
        folder = resolve_model(None if model is None else arguments.checked("model", model, arguments.path), revision)
        other = None
        if tokenizer is not None:
            other = resolve_model(arguments.checked("tokenizer", tokenizer, arguments.path), what="tokenizer")
        return cls(load_folder(folder, dtype=precision, device=chosen, tokenizer=other))

    def to(
        self, device: str | torch.device | torch.dtype | None = None, dtype: str | torch.dtype | None = None
    ) -> "InfinityPipeline":
        """Move every part to a device and compute in another precision, in place, as if loaded so.

        Rounding can't be undone: a model taken to bf16 and back to fp32 has the weights of bf16.

        Args:
            device: as `from_pretrained` takes it; None leaves the model where it is. A torch dtype alone is understood.
            dtype: as `from_pretrained` takes it; None leaves the precision. Adapters follow.

        Raises:
            UsageError: for an unknown device or dtype, or while adapters are fused. Nothing is changed.
            WeightsError: for weights that fp16 can't hold. Nothing is changed.
        """
        if isinstance(device, torch.dtype):
            if dtype is not None:
                why = f"got {device} and {arguments.shown(dtype)}"
                raise UsageError("A model has one precision.", why, "give a device and a dtype")
            device, dtype = None, device
        place = self.transformer.device if device is None else resolve_device(device)
        precision = None if dtype is None else resolve_dtype(dtype, place)
        if any(adapter.fused for adapter in self._adapters.used()):
            why = "the weights that unfuse_lora() brings back would stay as they are"
            raise UsageError("Can't move a model with fused adapters.", why, "call unfuse_lora() first")
        encoder = None if self.text_encoder is None else self.text_encoder.model
        move_model([self.transformer, self.tokenizer, *([encoder] if encoder else [])], device=place, dtype=precision)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a model folder, whole or not at all: without adapters, but with those that are fused."""
        save_folder(self.components, Path(arguments.checked("folder", folder, arguments.path)))

    def load_lora_weights(
        self, source: str | Path, adapter_name: str = "default", *, revision: str | None = None
    ) -> None:
        """Load an adapter and let it alone count, at weight 1; earlier ones stay loaded.

        Args:
            source: a safetensors file, a folder with one, or a hub id `owner/name`.
            adapter_name: what to call it.
            revision: of a hub id: branch, tag or commit.

        Raises:
            UsageError: for a source that is not there, a name in use or unfit, or if PEFT is missing.
            WeightsError: for a damaged file, another format, or tensors that don't fit the model.

        Warns:
            UserWarning: if the adapter was made for another model of the same sizes.
        """
        source = arguments.checked("source", source, arguments.path)
        adapter_name = arguments.checked("adapter_name", adapter_name, arguments.text)
        if revision is not None:
            revision = arguments.checked("revision", revision, arguments.text)
        made_for = self._adapters.load(source, name=adapter_name, revision=revision).base
        here = LoraBase(name=self.index.name, transformer=self.components.transformer_digest)
        if made_for and made_for.transformer and here.transformer not in ("", made_for.transformer):
            why = f"it fits, but was made for {made_for}, and this is {here}"
            text = explain(f"The adapter {adapter_name!r} was made for another model.", why, "expect less of it")
            warnings.warn(text, UserWarning, stacklevel=2)

    def set_adapters(self, adapter_names: str | Sequence[str], weights: float | Sequence[float] | None = None) -> None:
        """Let these adapters count, together, and no others; each as much as its weight, 1 if none is given."""
        names = arguments.checked("adapter_names", adapter_names, _names)
        each = 1.0 if weights is None else arguments.checked("weights", weights, arguments.per_scale)
        self._adapters.choose(names, list(each) if isinstance(each, tuple) else [each] * len(names))

    def get_active_adapters(self) -> list[str]:
        """The adapters chosen."""
        return self._adapters.active

    def get_list_adapters(self) -> dict[str, list[str]]:
        """The adapters loaded, by the part of the model they change; empty without any."""
        return {"transformer": self._adapters.names} if self._adapters.names else {}

    def disable_lora(self) -> None:
        """Let no adapter count until `enable_lora`."""
        self._adapters.enable(False)

    def enable_lora(self) -> None:
        """Let the adapters chosen count again."""
        self._adapters.enable(True)

    def fuse_lora(self, *, lora_scale: float = 1.0) -> None:
        """Add the adapters chosen, `lora_scale` times, to the model's weights: no slower than without."""
        self._adapters.fuse(arguments.checked("lora_scale", lora_scale, arguments.real_number))

    def unfuse_lora(self) -> None:
        """Undo `fuse_lora`, to the bit."""
        self._adapters.unfuse()

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Take these adapters off; of those chosen, the others go on counting."""
        self._adapters.delete(arguments.checked("adapter_names", adapter_names, _names))

    def unload_lora_weights(self) -> None:
        """Take all adapters off: the model is as it was before, to the bit."""
        self._adapters.unload()

    @property
    def index(self) -> ModelIndex:
        return self.components.index

    @property
    def model_name(self) -> str:
        """The name, and which one exactly: the first digits of the folder's digest."""
        return f"{self.index.name}@{self.components.digest[:12]}" if self.components.digest else self.index.name

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's precision."""
        return self.transformer.dtype

    @property
    def stride(self) -> int:
        """Pixels per token side."""
        return self.tokenizer.config.stride * self.transformer.config.patch_size

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Every (width, height) the model was trained on."""
        schedules = self.transformer.config.all_schedules()
        return [(s[-1][1] * self.stride, s[-1][0] * self.stride) for s in schedules]

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        output_type: Literal["pil", "np", "pt", "bits"] = "pil",
        **options: Unpack[GenerationKwargs],
    ) -> GenerationOutput:
        """Generate images.

        Args:
            prompt: one or several.
            output_type: form of `images`.
            options: `GenerationOptions`.

        Raises:
            UsageError: for an empty or over-long prompt, an unknown option, or a value out of range.
            ComputationError: when text features, logits or pixels are NaN or infinite.
        """
        forms = ("pil", "np", "pt", "bits")
        if not isinstance(output_type, str) or output_type not in forms:
            what = f"Unknown output_type {arguments.shown(output_type)}."
            raise UsageError(what, "images come in no such form", f"choose from {', '.join(forms)}")
        last = collections.deque(self.stream(prompt, **options), maxlen=1).pop()
        return GenerationOutput(_as_form(last, output_type), last.seeds, last.metadata)

    def stream(self, prompt: str | Sequence[str], **options: Unpack[GenerationKwargs]) -> Iterator[ScaleEvent]:
        """Generate images, yielding after each scale. Leaving the loop cancels the rest. Arguments: as of a call."""
        settings = GenerationOptions.parse(options, source="the options of this call")
        given = arguments.checked("prompt", prompt, arguments.entries)
        return self._stream([arguments.checked("prompt", entry, arguments.text) for entry in given], settings)

    def _stream(self, prompts: list[str], options: GenerationOptions) -> Iterator[ScaleEvent]:
        schedule = self.schedule_for(options.height, options.width)
        params = self.params_for(options)
        params.per_scale(len(schedule))  # speak up before any work
        negatives = options.negatives(len(prompts))
        if any(negatives) and not params.guided:
            why = "it is what guidance steers away from, and guidance is off: its scale is 1"
            raise UsageError("The negative prompt would do nothing.", why, "give a guidance scale as well, say 3")
        copies, apart = options.copies(len(prompts)), options.batch_invariant
        repeated = [prompt for prompt in prompts for _ in range(copies)]
        seeds = options.seeds(len(repeated))
        given = self._given(options.given_bits, schedule, len(repeated))
        condition = self.encode_prompts(repeated, batch_invariant=apart)
        against = self._against(condition, negatives, batch_invariant=apart)
        metadata = [
            self._describe(prompt, seed, schedule, params, negative, options)
            for prompt, seed, negative in zip(repeated, seeds, negatives, strict=True)
        ]
        results = (generate_apart if apart else generate)(
            self.transformer,
            condition,
            schedule,
            params=params,
            seeds=seeds,
            negative=against,
            given_bits=given,
        )
        bits: tuple[Tensor, ...] = ()
        for result in results:
            bits = (*bits, result.bits)
            yield self._event(result, schedule, bits, seeds, metadata, apart)

    def _against(
        self, condition: TextCondition, negatives: Sequence[str | None], *, batch_invariant: bool
    ) -> TextCondition | None:
        """What guidance steers away from: "no text", of the prompt's length, for images without a negative prompt."""
        present = [text for text in negatives if text is not None]
        if not present:
            return None
        encoded = iter(self.encode_prompts(present, what="negative prompt", batch_invariant=batch_invariant).rows())
        no_text = condition.drop(torch.ones(condition.batch, dtype=torch.bool)).rows()
        return TextCondition.join(
            [none if text is None else next(encoded) for none, text in zip(no_text, negatives, strict=True)]
        )

    def _event(
        self,
        result: ScaleResult,
        schedule: ScaleSchedule,
        bits: tuple[Tensor, ...],
        seeds: list[int],
        metadata: list[dict[str, Any]],
        batch_invariant: bool,
    ) -> ScaleEvent:
        return ScaleEvent(
            index=result.k,
            total=len(schedule),
            grid=schedule[result.k],
            tokens_done=schedule.offsets[result.k + 1],
            tokens_total=schedule.num_tokens,
            seeds=seeds,
            metadata=metadata,
            bits=bits,
            _latent=result.latent,
            _pipeline=self,
            _batch_invariant=batch_invariant,
        )

    def schedule_for(self, height: int | None, width: int | None) -> ScaleSchedule:
        """The schedule nearest to a size in pixels; the model's own when none is asked for."""
        schedules = self.transformer.config.all_schedules()
        if height is None and width is None:
            return schedules[0]
        if height is None or width is None:
            raise UsageError("Only one of height and width was given.", "a size needs both", "give both, or neither")
        height, width = (arguments.checked(*side, _side) for side in (("height", height), ("width", width)))
        return nearest_schedule(schedules, height=height, width=width, stride=self.stride)

    def params_for(self, options: GenerationOptions) -> SamplingParams:
        """The options given, and the model's defaults for the rest."""
        if not isinstance(options, GenerationOptions):
            why = f"got {arguments.shown(options)}"
            raise UsageError("Sampling parameters come from GenerationOptions.", why, "make one and give it")
        defaults = self.index.defaults
        values = {
            name: getattr(options, name) if getattr(options, name) is not None else getattr(defaults, name)
            for name in ("guidance_scale", "temperature", "top_k", "top_p")
        }
        return SamplingParams(**values)

    def check_prompt(self, text: str, *, what: str = "prompt") -> None:
        """Refuse a prompt that can't be drawn, before any work.

        Args:
            text: the prompt.
            what: names it in the error.

        Raises:
            UsageError: for one without words, or with more tokens than the model reads.
        """
        if not text.strip():
            todo = "say what to draw, such as 'a red apple'"
            raise UsageError(f"The {what} is empty.", "it has no words", todo)
        limit = self.transformer.config.max_text_tokens
        length = 0 if self.text_encoder is None else self.text_encoder.num_tokens(text)
        if length > limit:
            why = f"this model reads at most {limit}; nothing is cut off in silence"
            raise UsageError(f"The {what} is too long: {length} tokens.", why, f"shorten the {what}")

    def encode_prompts(
        self, prompts: str | Sequence[str], *, what: str = "prompt", batch_invariant: bool = True
    ) -> TextCondition:
        """Prompts to a condition on the model's device. Equal prompts are encoded once.

        Args:
            prompts: one or several.
            what: names them in errors.
            batch_invariant: encode each by itself, so that no other prompt changes the rounding of its features.

        Raises:
            UsageError: for no prompt, an empty one, one that is no text, or one that is too long.
            ComputationError: when the features are NaN or infinite.
        """
        if self.text_encoder is None:
            why = "its folder holds no text_encoder/"
            raise WeightsError("The model has no text encoder.", why, "convert it with --text-encoder")
        texts = [
            arguments.checked(what, entry, arguments.text)
            for entry in arguments.checked(what, prompts, arguments.entries)
        ]
        if not texts:
            raise UsageError(f"There is no {what}.", "the list is empty", "give at least one")
        distinct = list(dict.fromkeys(texts))
        for text in distinct:
            self.check_prompt(text, what=what)
        parts = [[text] for text in distinct] if batch_invariant else [distinct]
        rows = [row for part in parts for row in self.text_encoder.encode(part).rows()]
        for row in rows:
            require_finite(row.features, f"the text encoder's features of the {what}")
        encoded = dict(zip(distinct, rows, strict=True))
        return TextCondition.join([encoded[text] for text in texts])

    def _given(self, given: tuple[Tensor, ...], schedule: ScaleSchedule, batch: int) -> dict[int, Tensor]:
        """The same first bits for every image, checked against the schedule."""
        grids = schedule.latent_grids(self.transformer.config.patch_size)
        for k, bits in enumerate(given):
            expected = (self.tokenizer.config.bits, *grids[k]) if k < len(grids) else None
            if tuple(bits.shape) != expected or bits.dtype != torch.bool:
                raise UsageError(
                    f"given_bits[{k}] is {bits.dtype} of shape {tuple(bits.shape)}.",
                    f"scale {k} of this size takes torch.bool of shape {expected}"
                    if expected
                    else f"this size has {len(grids)} scales",
                    "give the bits of an image of the same model and size, coarse to fine, without the batch",
                )
        device = self.transformer.device
        return {k: bits.to(device).expand(batch, *bits.shape) for k, bits in enumerate(given)}

    def _describe(
        self,
        prompt: str,
        seed: int,
        schedule: ScaleSchedule,
        params: SamplingParams,
        negative: str | None,
        options: GenerationOptions,
    ) -> dict[str, Any]:
        adapters = [adapter.model_dump() for adapter in self._adapters.used()]
        return {
            "prompt": prompt,
            "negative_prompt": negative,
            "seed": seed,
            "width": schedule[-1][1] * self.stride,
            "height": schedule[-1][0] * self.stride,
            "requested_width": options.width,
            "requested_height": options.height,
            "guidance_scale": params.guidance_scale,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "model": self.model_name,
            "dtype": str(self.transformer.dtype).removeprefix("torch."),
            "device": self.transformer.device.type,
            "batch_invariant": options.batch_invariant,
            **({"lora": adapters} if adapters else {}),
        }


def _side(value: Any) -> int:
    number = arguments.whole_number(value)
    if not 1 <= number <= MAX_SIDE:
        raise ValueError(f"it must lie between 1 and {MAX_SIDE:,}, got {arguments.shown(number)}")
    return number


def _names(value: Any) -> list[str]:
    return [arguments.text(entry) for entry in arguments.entries(value)]


def _as_pil(images: Any) -> list[Image.Image]:
    """The images of an output, whichever form they have."""
    if isinstance(images, Tensor):
        return to_pil(images)
    if isinstance(images, np.ndarray):
        return [Image.fromarray(array) for array in images]
    if not all(isinstance(image, Image.Image) for image in images):
        why = "it was made with output_type='bits', which decodes nothing"
        raise UsageError("The output holds no images.", why, "leave output_type out, and save that")
    return list(images)


def _as_form(event: ScaleEvent, form: str) -> Any:
    if form == "bits":
        return event.bits
    if form == "pt":
        return event.pixels
    return to_pil(event.pixels) if form == "pil" else to_numpy(event.pixels)


def _fit(size: tuple[int, int], longer: int) -> tuple[int, int]:
    factor = longer / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
