"""The text-to-image pipeline: text encoder, sampler and image tokenizer."""

import collections
import math
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Unpack

import torch
from PIL import Image
from torch import Tensor

from bitvar import arguments
from bitvar.condition import TextCondition
from bitvar.editing.images import file_bytes, open_rgba
from bitvar.editing.masks import read_mask
from bitvar.editing.source import Original
from bitvar.editing.spec import EditSpec, EncodedImage
from bitvar.errors import UsageError, WeightsError, explain
from bitvar.finite import require_finite
from bitvar.lora.adapters import Adapters
from bitvar.lora.file import LoraBase
from bitvar.lora.used import UsedAdapter
from bitvar.pipeline.control import Control, ControlSlot
from bitvar.pipeline.optimizations import Optimizations, choose
from bitvar.pipeline.request import Background, EditKwargs, GenerationKwargs, GenerationRequest
from bitvar.pipeline.results import GenerationOutput, ScaleEvent, as_form, side_in_range
from bitvar.pipeline.sharing import Sharing
from bitvar.pipeline.steered import Finish, HookBuilder
from bitvar.runtime.block_offload import place_around_blocks
from bitvar.runtime.out_of_memory import explained_memory
from bitvar.runtime.placement import move_model, resolve_device, resolve_dtype
from bitvar.sampling.constraint import BitConstraint, PrefixBits
from bitvar.sampling.generate import ScaleResult, generate, generate_apart
from bitvar.sampling.params import SamplingParams
from bitvar.sampling.watermark import Watermark
from bitvar.scales import ScaleSchedule, nearest_schedule
from bitvar.text import OffloadedTextEncoder
from bitvar.weights.hub import resolve_model
from bitvar.weights.hub_push import Pushed, push_folder
from bitvar.weights.index import ModelIndex
from bitvar.weights.model_folder import Components, load_folder, save_folder

_ANY_TEXT: Final = "an image"
"""Stands in for an empty prompt, whose features the transformer replaces by those of "no text"."""


class InfinityPipeline:
    """A model that generates images from text.

    A pipeline keeps no state of a call, so calls may run concurrently, in threads or as streams that are read in turn.
    Operations that change the model (adapters, `to`) are refused while a call runs.

    Args:
        components: Transformer, tokenizer, text encoder and index, on one device.
    """

    def __init__(self, components: Components) -> None:
        if not isinstance(components, Components):
            why = f"got {arguments.shown(components)}"
            raise UsageError("A pipeline takes Components.", why, "use InfinityPipeline.from_pretrained")
        self.components = components
        self.transformer = components.transformer
        self.tokenizer = components.tokenizer
        self.text_encoder = components.text_encoder
        self._adapters = Adapters(components.transformer)
        self._control = ControlSlot(components.transformer.config)
        self._sharing = Sharing()
        self._optimizations = Optimizations(components.transformer, components.tokenizer, components.text_encoder)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{width}x{height}" for width, height in self.sizes[:3]) + (
            ", ..." if len(self.sizes) > 3 else ""
        )
        precision = str(self.dtype).removeprefix("torch.")
        return f"InfinityPipeline({self.model_name!r}, sizes={sizes}, dtype={precision}, device={self.device})"

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        tokenizer: str | Path | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        fast: str | Sequence[str] = "auto",
        offload_text: bool = False,
    ) -> "InfinityPipeline":
        """Load a model folder and verify every digest.

        Args:
            model: A folder, or a hub id `owner/name`; None is the small model that comes with the package.
            revision: Branch, tag or commit of a hub id.
            tokenizer: A folder or hub id of a tokenizer to use in place of the model's own. It must produce the same
                bits, so only its decoder may have been trained further.
            dtype: "fp32", "bf16", "fp16", a torch dtype, or "auto": bf16 on CUDA, else fp32.
            device: "cpu", "cuda", "mps", or "auto": the best one available.
            fast: Optimizations to apply, as names and words for `optimize`.
            offload_text: Whether the text encoder leaves the device after every prompt (`OffloadedTextEncoder`).

        Raises:
            UsageError: for an unknown device, dtype or optimization, or a model that can't be found.
            WeightsError: for missing, altered or mismatched files.
        """
        chosen = resolve_device(device)
        precision = resolve_dtype(dtype, chosen)
        optimizations = arguments.checked("fast", fast, _names)
        kinds = choose(optimizations, chosen.type)  # raises before any work
        if revision is not None:
            revision = arguments.checked("revision", revision, arguments.text)
        folder = resolve_model(None if model is None else arguments.checked("model", model, arguments.path), revision)
        other = None
        if tokenizer is not None:
            other = resolve_model(arguments.checked("tokenizer", tokenizer, arguments.path), what="tokenizer")
        with explained_memory("the model's weights"):
            blocks_wait = any(kind.takes_blocks_from_host for kind in kinds)
            place = torch.device("cpu") if blocks_wait else chosen
            components = load_folder(folder, dtype=precision, device=place, tokenizer=other)
            if blocks_wait:
                place_around_blocks(components.transformer, chosen)
                components.tokenizer.to(chosen)
                if components.text_encoder is not None:
                    components.text_encoder.to(chosen)
        if offload_text and components.text_encoder is not None:
            components.text_encoder = OffloadedTextEncoder(components.text_encoder, folder / "text_encoder", chosen)
        pipeline = cls(components)
        pipeline.optimize(*optimizations)
        return pipeline

    def optimize(self, *names: str) -> None:
        """Compute faster from now on, in place of the optimizations applied so far. No weights are changed.

        Args:
            names: Names of optimizations, such as "packed", or words. "exact" chooses all that work on the model's
                device and compute the same function, so that results differ by rounding alone: none of a model's bits
                changed in fp32 where it was tested. "auto" does so on a CPU, without copying weights larger than a
                quarter of its memory, and nothing elsewhere; "off" nothing at all. No name stands for "exact".

        Raises:
            UsageError: for an unknown name, or an optimization that doesn't work on the device. Nothing is changed.
        """
        chosen = arguments.checked("names", names or ("exact",), _names)
        with self._sharing.changing("change the optimizations"):
            self._optimizations.change(chosen)

    @property
    def optimizations(self) -> list[str]:
        """Names of the optimizations in use."""
        return self._optimizations.names

    @property
    def lossy_optimizations(self) -> list[str]:
        """Names of those optimizations in use that change results by more than rounding."""
        return self._optimizations.lossy

    @property
    def recorded_optimizations(self) -> list[str]:
        """Names of the optimizations that an image's record must name: all, unless fp32 and exact ones leave the bits.

        In half precision, every other order of summation changes bits.
        """
        return self.optimizations if self.lossy_optimizations or self.dtype != torch.float32 else []

    @contextmanager
    def _changing(self, change: str) -> Iterator[None]:
        """Hold the weights exclusively, and let the optimizations take over what has changed."""
        with self._sharing.changing(change):
            try:
                yield
            finally:
                self._optimizations.refresh()

    def to(
        self, device: str | torch.device | torch.dtype | None = None, dtype: str | torch.dtype | None = None
    ) -> "InfinityPipeline":
        """Move the model to another device or precision, in place, as if it had been loaded there.

        Rounding can't be undone: a model moved to bf16 and back to fp32 keeps the weights rounded to bf16.

        Args:
            device: A device as for `from_pretrained`; None leaves the model where it is. A dtype is accepted here too.
            dtype: A precision as for `from_pretrained`; None keeps the present one. Adapters are converted too.

        Raises:
            UsageError: for an unknown device or dtype, while adapters are fused, if the text encoder is offloaded, or
                if an optimization chosen by its name doesn't work on the device. Nothing is changed.
            WeightsError: for weights that fp16 can't hold. Nothing is changed.
        """
        if isinstance(device, torch.dtype):
            if dtype is not None:
                why = f"got {device} and {arguments.shown(dtype)}"
                raise UsageError("The precision is given twice.", why, "give a device and a dtype")
            device, dtype = None, device
        place = self.transformer.device if device is None else resolve_device(device)
        precision = None if dtype is None else resolve_dtype(dtype, place)
        encoder = None if self.text_encoder is None else self.text_encoder.model
        with self._changing("move the model"):
            self._refuse_if_fused()
            if isinstance(self.text_encoder, OffloadedTextEncoder):
                why = "its text encoder is offloaded, and belongs to the device that it was loaded for"
                raise UsageError("Can't move this model.", why, "load it for that device and precision")
            self._optimizations.require(place.type)
            move_model(
                [self.transformer, self.tokenizer, *([encoder] if encoder else [])], device=place, dtype=precision
            )
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a model folder atomically. It contains fused adapters, but no others."""
        with self._sharing.reading():
            save_folder(self.components, Path(arguments.checked("folder", folder, arguments.path)))

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = True,
        licence: str | None = None,
        revision: str | None = None,
        message: str | None = None,
    ) -> Pushed:
        """Publish the model on the hub, with a card, as `weights.hub_push.push_folder` does.

        Args:
            name: Hub id `owner/name`; the repository is created if it is missing.
            private: Whether a new repository is private.
            licence: Licence for the card, such as "apache-2.0"; None for the one that the card names.
            revision: Branch to push to; None for main.
            message: Message of the commit.

        Raises:
            UsageError: for a name that is no hub id, or a repository that holds other files.
            RuntimeError: if the hub refuses or can't be reached.
        """
        with tempfile.TemporaryDirectory(prefix="bitvar-") as place:
            folder = Path(place) / "model"
            self.save_pretrained(folder)
            return push_folder(folder, name, private=private, licence=licence, revision=revision, message=message)

    def load_lora_weights(
        self, source: str | Path, adapter_name: str = "default", *, revision: str | None = None
    ) -> None:
        """Load an adapter and make it the only active one, at weight 1. Others stay loaded but inactive.

        Args:
            source: A safetensors file, a folder with one, or a hub id `owner/name`.
            adapter_name: Name to load it under.
            revision: Branch, tag or commit of a hub id.

        Raises:
            UsageError: for a missing source, a name that is in use or invalid, or if PEFT is missing.
            WeightsError: for a damaged file, another format, or tensors that don't fit the model.

        Warns:
            UserWarning: if the adapter was made for another model of the same sizes.
        """
        source = arguments.checked("source", source, arguments.path)
        adapter_name = arguments.checked("adapter_name", adapter_name, arguments.text)
        if revision is not None:
            revision = arguments.checked("revision", revision, arguments.text)
        with self._changing("load an adapter"):
            made_for = self._adapters.load(source, name=adapter_name, revision=revision).base
        here = self._base
        if made_for and made_for.transformer and here.transformer not in ("", made_for.transformer):
            why = f"its layers fit, but it was made for {made_for}, and this is {here}"
            text = explain(
                f"The adapter {adapter_name!r} was made for another model.",
                why,
                "expect weaker results, or use it with that model",
            )
            warnings.warn(text, UserWarning, stacklevel=2)

    def set_adapters(self, adapter_names: str | Sequence[str], weights: float | Sequence[float] | None = None) -> None:
        """Make exactly these adapters active. Each is applied with its weight, 1 if none is given."""
        names = arguments.checked("adapter_names", adapter_names, _names)
        strength = 1.0 if weights is None else arguments.checked("weights", weights, arguments.per_scale)
        given = list(strength) if isinstance(strength, tuple) else [strength] * len(names)
        with self._changing("change the adapters"):
            self._adapters.choose(names, given)

    def get_active_adapters(self) -> list[str]:
        """List the active adapters."""
        return self._adapters.active

    def get_list_adapters(self) -> dict[str, list[str]]:
        """List the loaded adapters by the part of the model they change; empty if there are none."""
        return {"transformer": self._adapters.names} if self._adapters.names else {}

    def disable_lora(self) -> None:
        """Switch every adapter off until `enable_lora`."""
        with self._changing("change the adapters"):
            self._adapters.enable(False)

    def enable_lora(self) -> None:
        """Switch the active adapters on again."""
        with self._changing("change the adapters"):
            self._adapters.enable(True)

    def fuse_lora(self, *, lora_scale: float = 1.0) -> None:
        """Add the active adapters, times `lora_scale`, to the model's weights, where they cost no time."""
        with self._changing("fuse the adapters"):
            self._adapters.fuse(arguments.checked("lora_scale", lora_scale, arguments.real_number))

    def unfuse_lora(self) -> None:
        """Undo `fuse_lora`, restoring the weights bit for bit."""
        with self._changing("unfuse the adapters"):
            self._adapters.unfuse()

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Remove these adapters. Other active ones stay active."""
        with self._changing("delete adapters"):
            self._adapters.delete(arguments.checked("adapter_names", adapter_names, _names))

    def unload_lora_weights(self) -> None:
        """Remove all adapters, leaving the model bit for bit as it was before."""
        with self._changing("unload the adapters"):
            self._adapters.unload()

    def load_control(self, source: str | Path, *, revision: str | None = None) -> None:
        """Load a control adapter, in place of the one before. It acts in calls that have a `control`.

        Args:
            source: Name in the package ("lines"), a safetensors file, a folder with one, or a hub id `owner/name`.
            revision: Branch, tag or commit of a hub id.

        Raises:
            UsageError: for a missing source.
            WeightsError: for a damaged file, another format, or an adapter of another model.
        """
        source = arguments.checked("source", source, arguments.path)
        if revision is not None:
            revision = arguments.checked("revision", revision, arguments.text)
        with self._sharing.changing("load a control adapter"):
            self._control.load(source, base=self._base, revision=revision)

    def unload_control(self) -> None:
        """Remove the control adapter."""
        with self._sharing.changing("unload the control adapter"):
            self._control.clear()

    @property
    def control_sha256(self) -> str | None:
        """Digest of the loaded control adapter's file; None without one."""
        return self._control.sha256

    @property
    def _base(self) -> LoraBase:
        return LoraBase(name=self.index.name, transformer=self.components.transformer_digest)

    @property
    def index(self) -> ModelIndex:
        return self.components.index

    @property
    def model_name(self) -> str:
        """Name of the model, with the first digits of its folder's digest."""
        return f"{self.index.name}@{self.components.digest[:12]}" if self.components.digest else self.index.name

    @property
    def used_adapters(self) -> list[UsedAdapter]:
        """The active adapters, as records name them."""
        return list(self._adapters.used())

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's precision."""
        return self.transformer.dtype

    @property
    def stride(self) -> int:
        """Side of a token in pixels."""
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
            prompt: One prompt, or several.
            output_type: Form of the images: "pil", "np", "pt" (always the model's own channels) or "bits".
            options: Fields of `GenerationRequest` and `SamplingParams`; `constraint`, a `BitConstraint` that may
                replace the bits drawn at each scale, such as `PrefixBits`; `watermark`, a `Watermark` to draw the
                bits with; and `control`, an image of lines or a `Control`, which all images of the call follow.

        Raises:
            UsageError: for an empty or over-long prompt, an unknown option, or a value out of range.
            OutOfMemoryError: when the call does not fit the memory.
            ComputationError: when text features, logits or pixels are NaN or infinite.
        """
        forms = ("pil", "np", "pt", "bits")
        if not isinstance(output_type, str) or output_type not in forms:
            what = f"Unknown output_type {arguments.shown(output_type)}."
            raise UsageError(what, fix=f"choose from {', '.join(forms)}")
        control = Control.read(options.pop("control", None))
        request, constraint, watermark = _requested(prompt, options)
        if output_type == "pt" and request.edit is not None and request.edit.exact:
            why = "it has the size of the image that is edited, and its channels are not the model's"
            raise UsageError("An exact edit has no tensor.", why, "choose the output_type pil or np")
        streamed = self.device.type == "cpu"  # elsewhere, waiting for each scale's check would leave the device idle
        with self._sharing.reading(), explained_memory("the model and its activations"):
            events = self._stream(request, constraint, watermark, streamed=streamed, control=control)
            last = collections.deque(events, maxlen=1).pop()
        return GenerationOutput(as_form(last, output_type), last.seeds, last.metadata)

    def edit(
        self,
        prompt: str | Sequence[str] = "",
        *,
        image: str | Path | bytes | Image.Image,
        mask: str | Path | bytes | Image.Image | None = None,
        output_type: Literal["pil", "np", "pt", "bits"] = "pil",
        **options: Unpack[EditKwargs],
    ) -> GenerationOutput:
        """Make images from an image: image to image, inpainting within a mask, or what differs between two prompts.

        Args:
            prompt: What the result shows: one prompt, or several. Empty for "no text".
            image: Image to edit, of any size: a path, the bytes of a file, or a PIL image.
            mask: Where it may change, an image of its size: its transparent parts if it has some, else its white ones.
                None for everywhere.
            output_type: Form of the images, as for a call.
            options: Fields of `EditSpec`, and the options of a call.

        Raises:
            UsageError: for an image or a mask that can't be used, options that contradict each other, or as a call.
        """
        spec: dict[str, Any] = {"image": EncodedImage.of(image)}
        if mask is not None:
            given = open_rgba(file_bytes(mask), "the mask")
            size = open_rgba(spec["image"].decode(), "the image to edit").size
            spec["mask"] = read_mask(given, size, convention="auto")
        rest = dict(options)
        spec |= {name: rest.pop(name) for name in EditSpec.model_fields if name in rest}
        return self(prompt, output_type=output_type, edit=spec, **rest)  # type: ignore[arg-type]

    def stream(self, prompt: str | Sequence[str], **options: Unpack[GenerationKwargs]) -> Iterator[ScaleEvent]:
        """Generate images as a call does, yielding after each scale. Leaving the loop cancels the rest."""
        control = Control.read(options.pop("control", None))
        request, constraint, watermark = _requested(prompt, options)
        return self.stream_request(request, constraint=constraint, watermark=watermark, control=control)

    def stream_request(
        self,
        request: GenerationRequest,
        *,
        constraint: BitConstraint | None = None,
        watermark: Watermark | None = None,
        control: Control | None = None,
    ) -> Iterator[ScaleEvent]:
        """Generate the images of a request, yielding after each scale.

        Args:
            request: Prompts and settings.
            constraint: Hook that may replace the bits drawn at each scale, in place of the request's own prefix.
            watermark: Watermark to draw the bits with.
            control: Control that all images follow, through the loaded control adapter.
        """
        with self._sharing.reading(), explained_memory("the model and its activations"):
            yield from self._stream(request, constraint, watermark, streamed=True, control=control)

    def _stream(
        self,
        request: GenerationRequest,
        constraint: BitConstraint | None,
        watermark: Watermark | None,
        *,
        streamed: bool,
        control: Control | None = None,
    ) -> Iterator[ScaleEvent]:
        original = None if request.edit is None else Original.read(request.edit)
        schedule = self._schedule_of(request, original)
        params = self.params_for(request.sampling(len(schedule)))
        params.scales(len(schedule))  # raises before any work
        self.check_background(request.background)
        if watermark is not None and watermark.first_scale >= len(schedule):
            why = (
                f"it starts at scale {watermark.first_scale + 1}, and this size is generated in {len(schedule)} scales"
            )
            raise UsageError("The watermark would mark nothing.", why, "make a key with a smaller --first-scale")
        negatives, seeds = request.negatives(), request.seeds()
        if any(negatives) and not params.guided:
            why = "guidance steers away from it, but guidance is off: its scale is 1"
            raise UsageError("The negative prompt would do nothing.", why, "give a guidance scale as well, such as 3")
        prompts, apart = request.repeated_prompts(), request.batch_invariant
        constraint = constraint or request.constraint()
        if isinstance(constraint, PrefixBits):
            self._check_prefix(constraint, schedule, len(prompts))
        condition = self._condition(prompts, request)
        against = self._against(condition, negatives, batch_invariant=apart)
        decoder, followed = self._control.around(self._optimizations.decoder, control, schedule)
        hooks = HookBuilder(
            decoder=decoder,
            tokenizer=self.tokenizer,
            encode=lambda texts, what: self.encode_prompts(texts, what=what, batch_invariant=apart),
            schedule=schedule,
            params=params,
            condition=condition,
            negative=against,
            seeds=seeds,
        ).build(request, original)
        if hooks.constraint is not None and constraint is not None:
            why = "the edit keeps scales of its own image"
            raise UsageError("An edit takes no constraint.", why, "leave one of them out")
        metadata = [
            self._describe(prompt, seed, schedule, params, negative, request)
            | ({"watermark": watermark.key_id} if watermark else {})
            | dict(hooks.metadata)
            | followed
            for prompt, seed, negative in zip(prompts, seeds, negatives, strict=True)
        ]
        results = (generate_apart if apart else generate)(
            decoder,
            condition,
            schedule,
            params=params,
            seeds=seeds,
            negative=against,
            constraint=constraint or hooks.constraint,
            watermark=watermark,
            steering=hooks.steering,
            streamed=streamed,
        )
        bits: tuple[Tensor, ...] = ()
        for result in results:
            bits = (*bits, result.bits)
            yield self._event(result, schedule, bits, seeds, metadata, request, hooks.finish)

    def _schedule_of(self, request: GenerationRequest, original: Original | None) -> ScaleSchedule:
        """Choose the schedule of a request: an edit without a size takes the one nearest to its image."""
        if original is None or request.height is not None or request.width is not None:
            return self.schedule_for(request.height, request.width)
        return self.schedule_near(original.image.height, original.image.width)

    def _condition(self, prompts: list[str], request: GenerationRequest) -> TextCondition:
        """Encode the prompts. Those that an edit leaves empty become "no text"."""
        empty = torch.tensor([request.edit is not None and not prompt.strip() for prompt in prompts])
        texts = [_ANY_TEXT if is_empty else text for text, is_empty in zip(prompts, empty.tolist(), strict=True)]
        condition = self.encode_prompts(texts, batch_invariant=request.batch_invariant)
        return condition.drop(empty) if empty.any() else condition

    def _against(
        self, condition: TextCondition, negatives: Sequence[str | None], *, batch_invariant: bool
    ) -> TextCondition | None:
        """Encode what guidance steers away from: the negative prompt, or "no text" of the prompt's length."""
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
        request: GenerationRequest,
        finish: Finish | None,
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
            _tokenizer=self.tokenizer,
            _batch_invariant=request.batch_invariant,
            _background=request.background,
            _finish=finish,
        )

    def schedule_for(self, height: int | None, width: int | None) -> ScaleSchedule:
        """Find the schedule nearest to a size in pixels; the model's default if no size is given."""
        schedules = self.transformer.config.all_schedules()
        if height is None and width is None:
            return schedules[0]
        if height is None or width is None:
            raise UsageError("Only one of height and width was given.", fix="give both, or neither")
        height, width = (arguments.checked(*side, side_in_range) for side in (("height", height), ("width", width)))
        return nearest_schedule(schedules, height=height, width=width, stride=self.stride)

    def schedule_near(self, height: int, width: int) -> ScaleSchedule:
        """Find the schedule nearest to the size of an image in pixels, however far it is, first in aspect ratio."""
        schedules = self.transformer.config.all_schedules()
        return nearest_schedule(schedules, height=height, width=width, stride=self.stride, tolerance=math.inf)

    def params_for(self, params: SamplingParams) -> SamplingParams:
        """Complete the given settings with the model's defaults."""
        if not isinstance(params, SamplingParams):
            why = f"got {arguments.shown(params)}"
            raise UsageError("params_for takes SamplingParams.", why, "give SamplingParams(...)")
        return params.over(self.index.defaults).complete()

    def check_background(self, background: Background) -> None:
        """Refuse a transparent background for a model that draws no opacity.

        Raises:
            UsageError: if the model can't draw the background.
        """
        if background == "transparent" and not self.tokenizer.config.has_opacity:
            why = f"{self.model_name!r} draws colours, but no opacity"
            fix = "choose the background auto or opaque, or a model that draws transparency"
            raise UsageError("The model draws no transparent images.", why, fix)

    def check_prompt(self, text: str, *, what: str = "prompt") -> None:
        """Refuse a prompt that the model can't read.

        Args:
            text: Prompt to check.
            what: Name of the prompt in the error.

        Raises:
            UsageError: for a prompt without words, or with more tokens than the model reads.
        """
        if not text.strip():
            todo = "say what to draw, such as 'a red apple'"
            raise UsageError(f"The {what} is empty.", fix=todo)
        limit = self.transformer.config.max_text_tokens
        length = 0 if self.text_encoder is None else self.text_encoder.num_tokens(text)
        if length > limit:
            why = f"this model reads at most {limit}, and prompts are never truncated silently"
            raise UsageError(f"The {what} is too long: {length} tokens.", why, f"shorten the {what}")

    def encode_prompts(
        self, prompts: str | Sequence[str], *, what: str = "prompt", batch_invariant: bool = True
    ) -> TextCondition:
        """Encode prompts to a condition on the model's device. Equal prompts are encoded once.

        Args:
            prompts: One prompt, or several.
            what: Name of the prompts in errors.
            batch_invariant: Whether to encode each by itself, so that no other prompt changes the rounding of its
                features.

        Raises:
            UsageError: if there is no prompt, or one is empty, too long or not a string.
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
            raise UsageError(f"There is no {what}.", fix="give at least one")
        distinct = list(dict.fromkeys(texts))
        for text in distinct:
            self.check_prompt(text, what=what)
        parts = [[text] for text in distinct] if batch_invariant else [distinct]
        with self._sharing.reading():
            rows = [row for part in parts for row in self.text_encoder.encode(part).rows()]
        for row in rows:
            require_finite(row.features, f"the text encoder's features of the {what}")
        encoded = dict(zip(distinct, rows, strict=True))
        return TextCondition.join([encoded[text] for text in texts])

    def _check_prefix(self, prefix: PrefixBits, schedule: ScaleSchedule, batch: int) -> None:
        """Refuse a prefix whose bits don't fit the schedule."""
        grids = schedule.latent_grids(self.transformer.config.patch_size)
        for k, bits in enumerate(prefix.bits):
            expected = (self.tokenizer.config.bits, *grids[k]) if k < len(grids) else None
            if tuple(bits.shape[1:]) != expected or bits.dtype != torch.bool or len(bits) not in (1, batch):
                why = f"scale {k} of this size takes torch.bool of shape {expected}, for one image or for all {batch}"
                raise UsageError(
                    f"Scale {k} of the prefix is {bits.dtype} of shape {tuple(bits.shape)}.",
                    why if expected else f"this size has {len(grids)} scales",
                    "give the bits of an image of the same model and size, coarse to fine",
                )

    def _refuse_if_fused(self) -> None:
        if any(adapter.fused for adapter in self._adapters.used()):
            why = "the original weights that unfuse_lora() restores would not be moved"
            raise UsageError("Can't move a model with fused adapters.", why, "call unfuse_lora() first")

    def _describe(
        self,
        prompt: str,
        seed: int,
        schedule: ScaleSchedule,
        params: SamplingParams,
        negative: str | None,
        request: GenerationRequest,
    ) -> dict[str, Any]:
        adapters = [adapter.model_dump() for adapter in self._adapters.used()]
        optimizations = self.recorded_optimizations
        return {
            "prompt": prompt,
            "negative_prompt": negative,
            "seed": seed,
            "width": schedule[-1][1] * self.stride,
            "height": schedule[-1][0] * self.stride,
            "requested_width": request.width,
            "requested_height": request.height,
            "guidance_scale": params.guidance_scale,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "model": self.model_name,
            "dtype": str(self.transformer.dtype).removeprefix("torch."),
            "device": self.transformer.device.type,
            "batch_invariant": request.batch_invariant,
            **({} if request.background == "auto" else {"background": request.background}),
            **({"lora": adapters} if adapters else {}),
            **({"optimizations": optimizations} if optimizations else {}),
        }


def _names(value: Any) -> list[str]:
    return [arguments.text(entry) for entry in arguments.entries(value)]


def _requested(
    prompt: str | Sequence[str], options: GenerationKwargs
) -> tuple[GenerationRequest, BitConstraint | None, Watermark | None]:
    """Read the options of a call."""
    given = dict(options)
    constraint, watermark = given.pop("constraint", None), given.pop("watermark", None)
    if constraint is not None and not isinstance(constraint, BitConstraint):
        why = f"got {arguments.shown(constraint)}"
        raise UsageError("constraint takes a BitConstraint.", why, "give one, such as PrefixBits(bits)")
    if watermark is not None and not isinstance(watermark, Watermark):
        why = f"got a {type(watermark).__name__}"  # its value may be a secret
        raise UsageError("watermark takes a Watermark.", why, "read one with bitvar.provenance.read_key(file)")
    request = GenerationRequest.from_options(prompt, given, source="the options of this call")
    return request, constraint, watermark
