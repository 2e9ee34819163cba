"""A `DiffusionPipeline` that generates with bitvar's model: diffusers' arguments, callbacks, offloading and files.

A step of diffusers is a scale here. A torch generator gives each image its seed, so that a seed can be read from the
output and used anywhere else in bitvar.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging
from diffusers.utils.outputs import BaseOutput
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.finite import require_finite
from bitvar.imaging.convert import RGBA_CHANNELS, to_pil
from bitvar.integrations.diffusers.arguments import LiveGuidance, conditions_of, draw_seeds, is_of_diffusers
from bitvar.integrations.diffusers.components import (
    InfinityAutoencoderModel,
    InfinityTextEncoderModel,
    InfinityTransformerModel,
)
from bitvar.pipeline import InfinityPipeline
from bitvar.sampling.generate import generate_apart
from bitvar.sampling.params import SamplingParams
from bitvar.sampling.steering import Steering
from bitvar.scales import ScaleSchedule, nearest_schedule
from bitvar.text import OffloadedTextEncoder
from bitvar.weights.identity import identify
from bitvar.weights.index import ModelIndex
from bitvar.weights.model_folder import Components

logger = logging.get_logger(__name__)

_FORMS: Final = ("pil", "np", "pt", "latent")
_OWN_OPTIONS: Final = ("revision", "tokenizer", "dtype", "torch_dtype", "device")

StepCallback = Callable[["InfinityDiffusionPipeline", int, int, dict[str, Tensor]], dict[str, Tensor]]
"""Called after each scale with the pipeline, the scale's index twice, and the tensors that were asked for."""


@dataclass
class InfinityPipelineOutput(BaseOutput):
    """The images of a call.

    Attributes:
        images: A list of PIL images, an array `(b, H, W, c)` or a tensor `(b, c, H, W)` in [0, 1], or the latent
            `(b, d, h, w)`.
        seeds: Seed of each image, which draws it again with `InfinityPipeline` and `bitvar generate --seed`.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    seeds: list[int]


class InfinityDiffusionPipeline(DiffusionPipeline):
    """Text to image with diffusers' interface.

    Args:
        transformer: Transformer.
        vae: Image tokenizer.
        text_encoder: Text encoder with its vocabulary; None for a pipeline that is given `prompt_embeds`.
        index: Content of the model's `model_index.json`, for its name and its default settings.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012  (as diffusers declares it)

    def __init__(
        self,
        transformer: InfinityTransformerModel,
        vae: InfinityAutoencoderModel,
        text_encoder: InfinityTextEncoderModel | None,
        index: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, text_encoder=text_encoder)
        self.register_to_config(index=index)
        self._guidance_scale: float | Sequence[float] = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None = None, **options: Any
    ) -> "InfinityDiffusionPipeline":
        """Load a model: bitvar's folders, whose digests are verified, or what `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: A folder, a name in the package, a hub id `owner/name`, or None for the model
                that comes with the package.
            options: `revision`, `tokenizer`, `dtype` (or `torch_dtype`) and `device` as in
                `InfinityPipeline.from_pretrained`; for what `save_pretrained` wrote, diffusers' own.

        Raises:
            UsageError: for a model that can't be found, or an option that bitvar's folders don't take.
            WeightsError: for missing, altered or mismatched files.
        """
        given = pretrained_model_name_or_path
        name = None if given is None else os.fspath(given)
        if name is not None and is_of_diffusers(name, options.get("revision")):
            return super().from_pretrained(name, **options)
        unknown = [option for option in options if option not in _OWN_OPTIONS]
        if unknown:
            why = f"a model folder of bitvar takes {', '.join(_OWN_OPTIONS)}"
            raise UsageError(f"Unknown option {unknown[0]!r}.", why, "leave it out")
        dtype = options.pop("torch_dtype", None) or options.pop("dtype", None) or torch.float32
        device = options.pop("device", "cpu")
        return cls.from_infinity(
            InfinityPipeline.from_pretrained(name, dtype=dtype, device=device, fast="off", **options)
        )

    @classmethod
    def from_infinity(cls, pipeline: InfinityPipeline) -> "InfinityDiffusionPipeline":
        """Make a pipeline of diffusers that shares the weights of an `InfinityPipeline`.

        Raises:
            UsageError: for one whose text encoder is offloaded, or that uses optimizations, which change its weights.
        """
        if isinstance(pipeline.text_encoder, OffloadedTextEncoder):
            raise UsageError("The text encoder is offloaded.", fix="load the model without offload_text")
        if pipeline.optimizations:
            why = f"it uses {', '.join(pipeline.optimizations)}, which diffusers would move and save"
            raise UsageError("The pipeline is optimized.", why, 'call pipe.optimize("off") first')
        encoder = pipeline.text_encoder
        return cls(
            InfinityTransformerModel.around(pipeline.transformer),
            InfinityAutoencoderModel.around(pipeline.tokenizer),
            InfinityTextEncoderModel.around(encoder) if encoder is not None else None,
            index=pipeline.index.model_dump(mode="json"),
        )

    def to_infinity(self) -> InfinityPipeline:
        """Make an `InfinityPipeline` that shares the weights: for adapters, editing, and model folders."""
        vae = self.vae.ready()
        encoder = self.text_encoder.ready() if self.text_encoder is not None else None
        return InfinityPipeline(Components(self.transformer.ready(), vae, encoder, self._index(), ""))

    @property
    def guidance_scale(self) -> float | Sequence[float]:
        """Guidance scale of the next scale. A callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the call is guided."""
        return SamplingParams(guidance_scale=self._guidance_scale).guided  # type: ignore[arg-type]

    @property
    def num_timesteps(self) -> int:
        """Number of scales of the call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the call stops after the present scale. A callback may set `_interrupt`."""
        return self._interrupt

    @torch.no_grad()
    def __call__(  # noqa: PLR0913, PLR0917  (diffusers' arguments)
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        temperature: float | Sequence[float] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> InfinityPipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            prompt: One prompt or several. A longer one than the model reads is cut, with a warning.
            height, width: Requested size in pixels, both or neither; the nearest size that the model knows is used.
            num_inference_steps: The number of scales of that size, if given; the model has no other.
            guidance_scale, temperature: One value, or one a scale; None for the model's default.
            negative_prompt: Text that guidance steers away from, one for all prompts or one a prompt.
            num_images_per_prompt: Number of images of each prompt.
            generator: Source of the seeds, one for all images or one an image.
            prompt_embeds, prompt_attention_mask: Features `(b, t, w)` in place of a prompt, and their mask.
            negative_prompt_embeds, negative_prompt_attention_mask: The same in place of a negative prompt.
            top_k, top_p: As in `SamplingParams`.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: Whether to return an `InfinityPipelineOutput`; else a tuple of its images.
            callback_on_step_end: Called after each scale. It may set `_interrupt` and `_guidance_scale` of the
                pipeline, and replace the latent of the last scale.
            callback_on_step_end_tensor_inputs: Tensors that the callback gets: "latents".

        Raises:
            UsageError: for arguments that contradict each other or are out of range.
            ComputationError: when logits or pixels are NaN or infinite.
        """
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown or output_type not in _FORMS:
            what = f"tensor input {unknown[0]!r}" if unknown else f"output_type {output_type!r}"
            known = self._callback_tensor_inputs if unknown else _FORMS
            raise UsageError(f"Unknown {what}.", fix=f"choose from {', '.join(known)}")
        schedule = self._schedule(height, width, num_inference_steps)
        params = SamplingParams.parse(
            {"guidance_scale": guidance_scale, "temperature": temperature, "top_k": top_k, "top_p": top_p},
            source="this call",
        )
        params = params.over(self._index().defaults).complete()
        params.scales(len(schedule))  # raises before any work
        self._guidance_scale = params.guidance_scale  # type: ignore[assignment]
        self._num_timesteps, self._interrupt = len(schedule), False
        embedded = self.encode_prompt(
            prompt,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
        )
        condition, negative = conditions_of(*embedded)
        seeds = draw_seeds(generator, condition.batch)
        latents = self._generate(
            (condition, negative), schedule, params=params, seeds=seeds,
            callback=callback_on_step_end, names=callback_on_step_end_tensor_inputs,
        )  # fmt: skip
        images = latents if output_type == "latent" else self._decode(latents, output_type)
        self.maybe_free_model_hooks()
        return InfinityPipelineOutput(images, seeds) if return_dict else (images,)

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Encode prompts, one row for each image.

        Returns:
            Features `(b, t, w)` of the prompts with their mask `(b, t)`, and those of the negative prompts; None where
            the model's own "no text" is meant.

        Raises:
            UsageError: for a prompt and features at once, for neither, or for features without their mask.
        """
        if (prompt is None) == (prompt_embeds is None):
            raise UsageError("A call takes a prompt or prompt_embeds.", fix="give one of them")
        if prompt is not None:
            prompt_embeds, prompt_attention_mask = self._encode(prompt, num_images_per_prompt)
        if negative_prompt is not None:
            texts = [negative_prompt] if isinstance(negative_prompt, str) else list(negative_prompt)
            count = len(prompt_embeds) // num_images_per_prompt if prompt is not None else len(prompt_embeds)  # type: ignore[arg-type]
            texts = texts * count if len(texts) == 1 else texts
            if len(texts) != count:
                raise UsageError(
                    f"{len(texts)} negative prompts for {count} prompts.", fix="give one for all, or one each"
                )
            if any(text.strip() for text in texts):
                negative_prompt_embeds, negative_prompt_attention_mask = self._encode(texts, num_images_per_prompt)
        for features, mask in (
            (prompt_embeds, prompt_attention_mask),
            (negative_prompt_embeds, negative_prompt_attention_mask),
        ):
            if (features is None) != (mask is None):
                raise UsageError("Features come with their mask.", fix="give both, as encode_prompt returns them")
        return prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask  # type: ignore[return-value]

    def _encode(self, prompt: str | Sequence[str], repeats: int) -> tuple[Tensor, Tensor]:
        if self.text_encoder is None:
            raise UsageError("The pipeline has no text encoder.", fix="give prompt_embeds, or load it with one")
        texts = [self._cut(text) for text in ([prompt] if isinstance(prompt, str) else prompt)]
        encoder = self.text_encoder.ready()
        rows = [row for text in texts for row in [encoder.encode([text])] * repeats]
        joined = TextCondition.join(rows)
        return joined.features.clone(), joined.mask.clone()

    def _cut(self, text: str) -> str:
        """Cut a prompt to the tokens that the model reads, as diffusers' pipelines do, with a warning."""
        encoder = self.text_encoder.encoder
        limits = [encoder.max_tokens]
        if self.transformer is not None:
            limits.append(self.transformer.network.config.max_text_tokens)
        limit = min((limit for limit in limits if limit is not None), default=None)
        if not text.strip():
            raise UsageError("The prompt is empty.", fix="say what to draw")
        if limit is None or encoder.num_tokens(text) <= limit:
            return text
        low, high = 1, len(text)
        while low < high:  # the longest beginning that fits
            middle = (low + high + 1) // 2
            low, high = (middle, high) if encoder.num_tokens(text[:middle]) <= limit else (low, middle - 1)
        logger.warning(f"The prompt has more than the {limit} tokens that the model reads; cut: {text[low:]!r}")
        return text[:low]

    def _generate(
        self,
        conditions: tuple[TextCondition, TextCondition | None],
        schedule: ScaleSchedule,
        *,
        params: SamplingParams,
        seeds: Sequence[int],
        callback: StepCallback | None,
        names: Sequence[str],
    ) -> Float[Tensor, "b d h w"]:
        """Run the loop, scale by scale, and return the latent so far when it ends or is interrupted."""
        device = self._execution_device
        condition, negative = (None if part is None else part.to(device) for part in conditions)
        assert condition is not None, "encode_prompt returns features"
        steering = Steering(processor=LiveGuidance(self)) if isinstance(self._guidance_scale, float | int) else None
        results = generate_apart(
            self.transformer.ready(), condition, schedule,
            params=params, seeds=seeds, negative=negative, steering=steering,
        )  # fmt: skip
        latents = torch.empty(0)
        with self.progress_bar(total=len(schedule)) as bar:  # pyright: ignore[reportCallIssue]
            for result in results:
                latents = result.latent
                if callback is not None:
                    given = {name: latents.clone() for name in names}
                    changed = callback(self, result.k, result.k, dict(given)).get("latents", latents)
                    latents = self._replaced(given.get("latents", latents), changed, result.k)
                bar.update()
                if self._interrupt:
                    break
        return latents

    def _replaced(self, before: Tensor, after: Tensor, k: int) -> Tensor:
        if k < self._num_timesteps - 1 and not torch.equal(before, after):
            why = "the bits of each scale decide what the next one reads"
            raise UsageError("Only the last scale's latents can be replaced.", why, "set _interrupt to stop earlier")
        return after

    def _decode(self, latents: Float[Tensor, "b d h w"], form: str) -> list[Image.Image] | np.ndarray | Tensor:
        network = self.vae.ready()
        with torch.inference_mode():
            pixels = torch.cat([network.reconstruct(row.clone()) for row in latents.split(1)])
        require_finite(pixels, "the decoder's pixels", precision=network.dtype)
        pixels = pixels.clamp(-1, 1).clone()
        if form == "pil":
            return to_pil(pixels)
        if pixels.shape[1] == RGBA_CHANNELS:
            straight = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in to_pil(pixels)])
            return straight if form == "np" else torch.from_numpy(straight).movedim(-1, 1)
        shares = (pixels.float() + 1) / 2
        return shares if form == "pt" else shares.movedim(1, -1).cpu().numpy()

    def _schedule(self, height: int | None, width: int | None, steps: int | None) -> ScaleSchedule:
        config = self.transformer.network.config
        schedules = config.all_schedules()
        if (height is None) != (width is None):
            raise UsageError("Only one of height and width was given.", fix="give both, or neither")
        chosen = schedules[0]
        if height is not None and width is not None:
            stride = self.vae.network.config.stride * config.patch_size
            chosen = nearest_schedule(schedules, height=height, width=width, stride=stride)
        if steps not in (None, len(chosen)):
            why = f"this size is generated in {len(chosen)} scales"
            raise UsageError(f"The model can't draw in {steps} steps.", why, "leave num_inference_steps out")
        return chosen

    def _index(self) -> ModelIndex:
        if self.config["index"] is not None:
            return ModelIndex.parse(dict(self.config["index"]), source="the pipeline's index")
        return ModelIndex(name="unnamed", tokenizer=identify("unnamed", self.vae.network.state_dict()))
