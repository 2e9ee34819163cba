"""Editing images by instructions: a pipeline whose model reads a source image before it draws."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar import arguments
from bitvar.errors import UsageError
from bitvar.finite import require_finite
from bitvar.imaging.convert import from_pil, to_pil
from bitvar.imaging.fitting import Fit
from bitvar.imaging.open import ImageLimits, RefusedError, as_rgb, require_image
from bitvar.instruction.decoder import SourceDecoder
from bitvar.pipeline.request import GenerationRequest
from bitvar.pipeline.text_to_image import InfinityPipeline
from bitvar.runtime.out_of_memory import explained_memory
from bitvar.sampling.generate import ScaleResult, generate_apart
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule, schedule_of_ratio
from bitvar.weights.hub import EMBEDDED_EDITOR, resolve_model
from bitvar.weights.instruction import INSTRUCTION, InstructionSettings, load_instruction_settings

ImageSource: TypeAlias = str | Path | Image.Image
"""An image's file, or the image."""

LIMITS: Final = ImageLimits(min_side=1, max_ratio=64.0)
_OPTIONS: Final = ("seed", "guidance_scale", "temperature", "top_k", "top_p", "num_images_per_prompt")


@dataclass(frozen=True)
class EditedImages:
    """The images of a call.

    Attributes:
        images: Edited images, in the order of the instructions.
        seeds: Seed of each image.
    """

    images: list[Image.Image]
    seeds: list[int]


@dataclass(frozen=True)
class Frame:
    """An image, and the part of it that the user gave.

    Attributes:
        image: Image that the model reads, RGB.
        width, height: Shares of its sides that the user's image takes, from the upper left corner.
    """

    image: Image.Image
    width: float = 1.0
    height: float = 1.0

    @staticmethod
    def of(image: Image.Image, *, square: bool) -> "Frame":
        """Take an RGB image as it is, or lay it on a white square."""
        side = max(image.size)
        if not square or image.width == image.height:
            return Frame(image)
        whole = Image.new("RGB", (side, side), "white")
        whole.paste(image, (0, 0))
        return Frame(whole, image.width / side, image.height / side)

    def cut_out(self, edited: Image.Image) -> Image.Image:
        """Cut the user's part out of an edited image of any size."""
        sides = max(1, round(self.width * edited.width)), max(1, round(self.height * edited.height))
        return edited if sides == edited.size else edited.crop((0, 0, *sides))


class InstructionEditor:
    """A model that edits an image as an instruction says, such as "make the car green".

    It draws the whole image again, so that what the instruction leaves alone comes out nearly, but not exactly, as it
    was.

    Args:
        pipeline: Pipeline of an instruction editor's model, with its adapter loaded if it has one.
        settings: How the model reads its source; None for those in the model's folder.

    Raises:
        UsageError: If there are no settings, and the model is no instruction editor.
    """

    def __init__(self, pipeline: InfinityPipeline, settings: InstructionSettings | None = None) -> None:
        found = settings or pipeline.components.instruction
        if found is None:
            why = "it was not trained to read a source image, and would ignore or misread it"
            raise UsageError(
                f"{pipeline.model_name!r} is no instruction editor.", why, "give the folder of an editor's adapter"
            )
        self.pipeline, self.settings = pipeline, found

    @classmethod
    def from_pretrained(
        cls,
        editor: str | Path | None = None,
        *,
        model: str | Path | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
    ) -> "InstructionEditor":
        """Load an instruction editor and verify every digest.

        Args:
            editor: Folder or hub id of an adapter that `train_instruction_editor` wrote. None with a model stands for a
                whole model that is an instruction editor, such as a converted VAREdit; None without one, for the editor
                in the package.
            model: Model that the adapter was trained for, as for `InfinityPipeline.from_pretrained`.
            dtype, device: As for `InfinityPipeline.from_pretrained`.

        Raises:
            UsageError: If there is no such editor, or the model is none.
            WeightsError: For missing, altered or mismatched files.
        """
        if editor is None and model is not None:
            return cls(InfinityPipeline.from_pretrained(model, dtype=dtype, device=device))
        name = EMBEDDED_EDITOR.name if editor is None else arguments.checked("editor", editor, arguments.path)
        folder = resolve_model(name, what="instruction editor")
        settings = load_instruction_settings(folder)
        if settings is None:
            why = f"it has no {INSTRUCTION}"
            raise UsageError(f"{folder} is no instruction editor.", why, "give the folder that its training wrote")
        pipeline = InfinityPipeline.from_pretrained(model, dtype=dtype, device=device)
        pipeline.load_lora_weights(folder, "instruction")
        return cls(pipeline, settings)

    def __call__(self, instruction: str | Sequence[str], image: ImageSource, **options: Any) -> EditedImages:
        """Edit an image.

        Args:
            instruction: One instruction, or several that are each applied to the image.
            image: Image to edit. Its middle is used if the model draws no images of its ratio.
            options: `seed`, `num_images_per_prompt`, `guidance_scale`, `temperature`, `top_k` and `top_p`, as for
                `InfinityPipeline`.

        Raises:
            UsageError: For an empty or over-long instruction, an image that can't be read, or an unknown option.
            OutOfMemoryError: When the call does not fit the memory.
            ComputationError: When text features, logits or pixels are NaN or infinite.
        """
        if unexpected := sorted(set(options) - set(_OPTIONS)):
            why = f"an instruction editor takes {', '.join(_OPTIONS)}"
            raise UsageError(f"Unknown option {unexpected[0]!r}.", why, "leave it out")
        request = GenerationRequest.from_options(instruction, options, source="the options of this call")
        seeds = request.seeds()
        frame = Frame.of(_open(image), square=self.settings.square)
        schedule = self.schedule_for(frame.image)
        with explained_memory("the model and its activations"):
            last = self.edit_features(
                self.encode_source(frame.image, schedule),
                schedule,
                instructions=request.repeated_prompts(),
                seeds=seeds,
                params=request.params,
            )
            pixels = self._decode(last.latent)
        return EditedImages([frame.cut_out(edited) for edited in to_pil(pixels)], seeds)

    def schedule_for(self, image: Image.Image) -> ScaleSchedule:
        """Find the largest schedule of the ratio nearest to an image's."""
        schedules = self.pipeline.transformer.config.all_schedules()
        return schedules[schedule_of_ratio(schedules, image.height / image.width)]

    def encode_source(self, image: Image.Image, schedule: ScaleSchedule) -> Float[Tensor, "1 d h w"]:
        """Compute the features of an image, resized and cropped to the size of a schedule."""
        stride, tokenizer = self.pipeline.stride, self.pipeline.tokenizer
        rows, columns = schedule[-1]
        fitted = Fit().apply(image, (columns * stride, rows * stride))
        pixels = from_pil([fitted], channels=tokenizer.config.image_channels)
        with torch.inference_mode():
            features = tokenizer.features(pixels.to(tokenizer.device, tokenizer.dtype))
        require_finite(features, "the tokenizer's features of the source image", precision=tokenizer.dtype)
        return features

    def edit_features(
        self,
        features: Float[Tensor, "1 d h w"],
        schedule: ScaleSchedule,
        *,
        instructions: Sequence[str],
        seeds: Sequence[int],
        params: SamplingParams,
    ) -> ScaleResult:
        """Draw the bits of edited images, and return the last scale.

        Args:
            features: Features of the source image, which all instructions share.
            schedule: Schedule of the edited images.
            instructions: One instruction an image.
            seeds: One seed an image.
            params: Settings of the draw; where one is None, the editor's own apply, then the model's.
        """
        pipeline = self.pipeline
        decoder = SourceDecoder(pipeline.transformer, features, positions=self.settings.positions)
        results = generate_apart(
            decoder,
            pipeline.encode_prompts(instructions, what="instruction"),
            schedule,
            params=pipeline.params_for(params.over(self.settings.defaults)),
            seeds=seeds,
            streamed=pipeline.device.type == "cpu",
        )
        return deque(results, maxlen=1).pop()

    def _decode(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        tokenizer = self.pipeline.tokenizer
        with torch.inference_mode():
            pixels = torch.cat([tokenizer.reconstruct(row.clone()) for row in latent.split(1)])
        require_finite(pixels, "the decoder's pixels", precision=tokenizer.dtype)
        return pixels.clamp(-1, 1)


def _open(image: ImageSource) -> Image.Image:
    """Read an image as viewers show it, on white where it is transparent."""
    if not isinstance(image, Image.Image):
        path = Path(arguments.checked("image", image, arguments.path))
        return require_image(path, LIMITS, todo="give a PNG, JPEG or WebP image")
    try:
        return as_rgb(image)
    except RefusedError as error:
        raise UsageError("The image can't be used.", str(error), "give an RGB image") from None
