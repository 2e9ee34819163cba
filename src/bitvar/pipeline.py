"""Text to picture: text encoder, sampler, tokenizer."""

import collections
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from bitvar.checkpoints.folder import Components, ModelIndex, load_folder, save_folder
from bitvar.checkpoints.hub import resolve_model
from bitvar.checkpoints.lora_file import LoraBase
from bitvar.condition import TextCondition
from bitvar.errors import UsageError, WeightsError, explain
from bitvar.runtime.adapters import Adapters
from bitvar.runtime.placement import resolve_device, resolve_dtype
from bitvar.sampling import SamplingParams, ScaleResult, generate
from bitvar.sampling.options import GenerationOptions
from bitvar.scales import Grid, ScaleSchedule, nearest_schedule
from bitvar.tokenizer.pixels import to_uint8


@dataclass(frozen=True)
class GenerationOutput:
    """What a call returns.

    Attributes:
        images: in the form asked for: PIL images, `(b, H, W, 3)` uint8 numpy, `(b, 3, H, W)` floats in [-1, 1], or the
            bits of every scale.
        seeds: of each picture.
        metadata: one dictionary a picture, enough to make it again.
    """

    images: Any
    seeds: list[int]
    metadata: list[dict[str, Any]]


@dataclass(frozen=True)
class ScaleEvent:
    """One scale done.

    Attributes:
        index: of the scale, from 0.
        total: number of scales.
        grid: its rows and columns of tokens.
        tokens_done, tokens_total: the share of work behind.
        seeds: of each picture.
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

    @cached_property
    def pixels(self) -> Float[Tensor, "b 3 H W"]:
        """The pictures so far in [-1, 1]; decoded when first asked for."""
        with torch.inference_mode():
            return self._pipeline.tokenizer.decode(self._latent)

    def preview(self, size: int | None = None) -> list[Image.Image]:
        """The pictures so far, the longer side resized to `size` pixels."""
        images = to_pil(self.pixels)
        if size is None:
            return images
        return [image.resize(_fit(image.size, size), Image.Resampling.LANCZOS) for image in images]


class InfinityPipeline:
    """Text to picture. Holds no state of a call, so calls may run side by side.

    Args:
        components: transformer, tokenizer, text encoder and index, on one device.
    """

    def __init__(self, components: Components) -> None:
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
        folder = resolve_model(model, revision)
        other = None if tokenizer is None else resolve_model(tokenizer, what="tokenizer")
        return cls(load_folder(folder, dtype=resolve_dtype(dtype, chosen), device=chosen, tokenizer=other))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a model folder, whole or not at all: without adapters, but with those that are fused."""
        save_folder(self.components, Path(folder))

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
        made_for = self._adapters.load(source, name=adapter_name, revision=revision).base
        here = LoraBase(name=self.index.name, transformer=self.components.transformer_digest)
        if made_for and made_for.transformer and here.transformer not in ("", made_for.transformer):
            why = f"it fits, but was made for {made_for}, and this is {here}"
            text = explain(f"The adapter {adapter_name!r} was made for another model.", why, "expect less of it")
            warnings.warn(text, UserWarning, stacklevel=2)

    def set_adapters(self, adapter_names: str | Sequence[str], weights: float | Sequence[float] | None = None) -> None:
        """Let these adapters count, together, and no others; each as much as its weight, 1 if none is given."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        each = 1.0 if weights is None else weights
        self._adapters.choose(names, [each] * len(names) if isinstance(each, int | float) else list(each))

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
        self._adapters.fuse(lora_scale)

    def unfuse_lora(self) -> None:
        """Undo `fuse_lora`, to the bit."""
        self._adapters.unfuse()

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
        **options: Any,
    ) -> GenerationOutput:
        """Generate pictures.

        Args:
            prompt: one or several.
            output_type: form of `images`.
            options: `GenerationOptions`.

        Raises:
            UsageError: for an empty or over-long prompt, an unknown option, or a value out of range.
        """
        forms = ("pil", "np", "pt", "bits")
        if output_type not in forms:
            raise UsageError(explain(f"Unknown output_type {output_type!r}.", "no such form", f"choose from {forms}"))
        last = collections.deque(self.stream(prompt, **options), maxlen=1).pop()
        return GenerationOutput(_as_form(last, output_type), last.seeds, last.metadata)

    def stream(self, prompt: str | Sequence[str], **options: Any) -> Iterator[ScaleEvent]:
        """Generate pictures, yielding after each scale. Leaving the loop cancels the rest. Arguments: as of a call."""
        settings = GenerationOptions.parse(options, source="the options of this call")
        return self._stream([prompt] if isinstance(prompt, str) else list(prompt), settings)

    def _stream(self, prompts: list[str], options: GenerationOptions) -> Iterator[ScaleEvent]:
        schedule = self.schedule_for(options.height, options.width)
        params = self.params_for(options)
        params.per_scale(len(schedule))  # speak up before any work
        negatives = options.negatives(len(prompts))
        if negatives and not params.guided:
            why = "it is what guidance steers away from, and guidance is off: its scale is 1"
            raise UsageError(
                explain("The negative prompt would do nothing.", why, "give a guidance scale as well, say 3")
            )
        copies = options.num_images_per_prompt
        repeated = [prompt for prompt in prompts for _ in range(copies)]
        seeds = options.seeds(len(repeated))
        condition = self.encode_prompts(repeated)
        metadata = [
            self._describe(prompt, seed, schedule, params, negatives[i] if negatives else None)
            for i, (prompt, seed) in enumerate(zip(repeated, seeds, strict=True))
        ]
        results = generate(
            self.transformer,
            condition,
            schedule,
            params=params,
            generators=[torch.Generator().manual_seed(seed) for seed in seeds],
            negative=self.encode_prompts(negatives, what="negative prompt") if negatives else None,
            given_bits=self._given(options.given_bits, schedule, len(repeated)),
        )
        bits: tuple[Tensor, ...] = ()
        for result in results:
            bits = (*bits, result.bits)
            yield self._event(result, schedule, bits, seeds, metadata)

    def _event(
        self,
        result: ScaleResult,
        schedule: ScaleSchedule,
        bits: tuple[Tensor, ...],
        seeds: list[int],
        metadata: list[dict[str, Any]],
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
        )

    def schedule_for(self, height: int | None, width: int | None) -> ScaleSchedule:
        """The schedule nearest to a size in pixels; the model's own when none is asked for."""
        schedules = self.transformer.config.all_schedules()
        if height is None and width is None:
            return schedules[0]
        if height is None or width is None:
            raise UsageError(
                explain("Only one of height and width was given.", "a size needs both", "give both, or neither")
            )
        return nearest_schedule(schedules, height=height, width=width, stride=self.stride)

    def params_for(self, options: GenerationOptions) -> SamplingParams:
        """The options given, and the model's defaults for the rest."""
        defaults = self.index.defaults
        values = {
            name: getattr(options, name) if getattr(options, name) is not None else getattr(defaults, name)
            for name in ("guidance_scale", "temperature", "top_k", "top_p")
        }
        return SamplingParams(**values)

    def encode_prompts(self, prompts: Sequence[str], *, what: str = "prompt") -> TextCondition:
        """Prompts to a condition on the model's device; `what` names them in errors.

        Raises:
            UsageError: for no prompt, an empty one, or one that is too long.
        """
        if self.text_encoder is None:
            why = "its folder holds no text_encoder/"
            raise WeightsError(explain("The model has no text encoder.", why, "convert it with --text-encoder"))
        if not prompts:
            raise UsageError(explain(f"There is no {what}.", "the list is empty", "give at least one"))
        limit = self.transformer.config.max_text_tokens
        for prompt in prompts:
            if not isinstance(prompt, str) or not prompt.strip():
                raise UsageError(explain(f"The {what} is empty.", "it has no words", f"describe it, got {prompt!r}"))
            if (length := self.text_encoder.num_tokens(prompt)) > limit:
                why = f"this model reads at most {limit}; nothing is cut off in silence"
                raise UsageError(explain(f"The {what} is too long: {length} tokens.", why, f"shorten the {what}"))
        return self.text_encoder.encode(prompts)

    def _given(self, given: tuple[Tensor, ...], schedule: ScaleSchedule, batch: int) -> dict[int, Tensor]:
        """The same first bits for every picture, checked against the schedule."""
        grids = schedule.latent_grids(self.transformer.config.patch_size)
        for k, bits in enumerate(given):
            expected = (self.tokenizer.config.bits, *grids[k]) if k < len(grids) else None
            if tuple(bits.shape) != expected or bits.dtype != torch.bool:
                raise UsageError(
                    explain(
                        f"given_bits[{k}] is {bits.dtype} of shape {tuple(bits.shape)}.",
                        f"scale {k} of this size takes torch.bool of shape {expected}"
                        if expected
                        else f"this size has {len(grids)} scales",
                        "give the bits of a picture of the same model and size, coarse to fine, without the batch",
                    )
                )
        device = self.transformer.device
        return {k: bits.to(device).expand(batch, *bits.shape) for k, bits in enumerate(given)}

    def _describe(
        self, prompt: str, seed: int, schedule: ScaleSchedule, params: SamplingParams, negative: str | None
    ) -> dict[str, Any]:
        adapters = [adapter.model_dump() for adapter in self._adapters.used()]
        return {
            "prompt": prompt,
            "negative_prompt": negative,
            "seed": seed,
            "width": schedule[-1][1] * self.stride,
            "height": schedule[-1][0] * self.stride,
            "guidance_scale": params.guidance_scale,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "model": self.model_name,
            "dtype": str(self.transformer.dtype).removeprefix("torch."),
            "device": self.transformer.device.type,
            **({"lora": adapters} if adapters else {}),
        }


def to_pil(pixels: Float[Tensor, "b 3 H W"]) -> list[Image.Image]:
    """[-1, 1] to RGB images."""
    return [Image.fromarray(array) for array in _to_numpy(pixels)]


def _to_numpy(pixels: Float[Tensor, "b 3 H W"]) -> np.ndarray:
    return to_uint8(pixels).permute(0, 2, 3, 1).cpu().numpy()


def _as_form(event: ScaleEvent, form: str) -> Any:
    if form == "bits":
        return event.bits
    if form == "pt":
        return event.pixels
    return to_pil(event.pixels) if form == "pil" else _to_numpy(event.pixels)


def _fit(size: tuple[int, int], longer: int) -> tuple[int, int]:
    factor = longer / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
