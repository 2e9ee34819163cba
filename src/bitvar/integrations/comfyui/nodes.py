"""The nodes: load a model, generate, and edit or inpaint, with a preview and a check for interrupts at every scale.

ComfyUI's images are float tensors `(b, H, W, c)` in [0, 1], and its masks `(b, H, W)`, 1 where an image may change and
where it is transparent. Classes and their attributes are as ComfyUI reads them.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar import __version__
from bitvar.errors import UsageError
from bitvar.imaging.alpha import flatten
from bitvar.integrations.comfyui.host import Watcher, model_names, watch
from bitvar.pipeline import InfinityPipeline, ScaleEvent
from bitvar.pipeline.record import ImageRecord

_CATEGORY: Final = "bitvar"
_OWN: Final = -1.0
"""Value of a number that leaves it to the model."""

_SEED: Final = (
    "INT",
    {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True, "tooltip": "Seed of the first image."},
)
_PROMPT: Final = ("STRING", {"multiline": True, "dynamicPrompts": True, "tooltip": "What the image shows."})
_SAMPLING: Final[dict[str, Any]] = {
    "negative_prompt": ("STRING", {"multiline": True, "default": "", "tooltip": "What guidance steers away from."}),
    "guidance_scale": (
        "FLOAT",
        {"default": _OWN, "min": _OWN, "max": 100.0, "step": 0.1, "tooltip": "1 is off; -1 is the model's own."},
    ),
    "temperature": (
        "FLOAT",
        {"default": _OWN, "min": _OWN, "max": 100.0, "step": 0.05, "tooltip": "0 is greedy; -1 is the model's own."},
    ),
}


class LoadModel:
    """Load a model. ComfyUI keeps it until an input changes."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Loads a model of bitvar: one in the package, in the hub's cache, or a folder."
    RETURN_TYPES = ("BITVAR_MODEL",)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  (ComfyUI's name)
        """Describe the inputs."""
        return {
            "required": {
                "model": (model_names(), {"tooltip": "Models on this machine; `bitvar models pull` adds to them."}),
                "precision": (["auto", "fp32", "bf16", "fp16"],),
                "device": (["auto", "cuda", "mps", "cpu"],),
            },
            "optional": {
                "path": ("STRING", {"default": "", "tooltip": "A folder or a hub id, in place of the model."}),
                "fast": ("STRING", {"default": "auto", "tooltip": "Optimizations, separated by commas."}),
            },
        }

    def load(
        self, model: str, precision: str, device: str, path: str = "", fast: str = "auto"
    ) -> tuple[InfinityPipeline]:
        """Load the model."""
        names = [name.strip() for name in fast.split(",")]
        return (InfinityPipeline.from_pretrained(path.strip() or model, dtype=precision, device=device, fast=names),)


class Generate:
    """Generate images from a prompt."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Generates images, with a preview after every scale. The size is the model's nearest one."
    RETURN_TYPES = ("IMAGE", "MASK", "STRING")
    RETURN_NAMES = ("images", "transparent", "settings")
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  (ComfyUI's name)
        """Describe the inputs."""
        side = {"min": 0, "max": 16384, "step": 16, "default": 0, "tooltip": "Pixels; 0 is the model's own size."}
        return {
            "required": {
                "model": ("BITVAR_MODEL",),
                "prompt": _PROMPT,
                "width": ("INT", side),
                "height": ("INT", side),
                "seed": _SEED,
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 64}),
            },
            "optional": _SAMPLING,
        }

    def generate(
        self,
        model: InfinityPipeline,
        prompt: str,
        width: int,
        height: int,
        seed: int,
        batch_size: int,
        **sampling: Any,
    ) -> tuple[Tensor, Tensor, str]:
        """Generate the images."""
        options = {"width": width or None, "height": height or None, "seed": seed, **_sampling(**sampling)}
        return _draw(model, prompt, {**options, "num_images_per_prompt": batch_size}, watch())


class Edit:
    """Edit images: redraw them by a strength, within a mask, or where two prompts disagree."""

    CATEGORY = _CATEGORY
    DESCRIPTION = (
        "Edits each image. With a mask, redraws what is white. With a source prompt, changes only what the two"
        " prompts disagree on. Otherwise redraws the finer scales, by the strength."
    )
    RETURN_TYPES = ("IMAGE", "MASK", "STRING")
    RETURN_NAMES = ("images", "transparent", "settings")
    FUNCTION = "edit"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  (ComfyUI's name)
        """Describe the inputs."""
        return {
            "required": {
                "model": ("BITVAR_MODEL",),
                "image": ("IMAGE",),
                "prompt": _PROMPT,
                "seed": _SEED,
                "strength": (
                    "FLOAT",
                    {
                        "default": 0.5, "min": _OWN, "max": 1.0, "step": 0.05,
                        "tooltip": "Share of the scales drawn anew; -1 leaves it to the method.",
                    },
                ),
            },
            "optional": {
                "mask": ("MASK",),
                "source_prompt": ("STRING", {"multiline": True, "default": "", "tooltip": "What the image shows now."}),
                "exact": ("BOOLEAN", {"default": False, "tooltip": "Keep the image's size, and its other pixels."}),
                **_SAMPLING,
            },
        }  # fmt: skip

    def edit(
        self,
        model: InfinityPipeline,
        image: Tensor,
        prompt: str,
        seed: int,
        strength: float,
        mask: Tensor | None = None,
        source_prompt: str = "",
        exact: bool = False,
        **sampling: Any,
    ) -> tuple[Tensor, Tensor, str]:
        """Edit every image of the batch, each with a seed of its own."""
        spec: dict[str, Any] = {"exact": exact, "strength": None if strength < 0 else strength}
        if source_prompt.strip():
            spec["source_prompt"] = source_prompt
        progress, results = watch(len(image)), []
        for index, array in enumerate(_to_arrays(image)):
            each = dict(spec, image=Image.fromarray(array))
            if mask is not None:
                each["mask"] = _mask_for(mask, index, Image.fromarray(array).size)
            options = {"seed": seed + index, "edit": each, **_sampling(**sampling)}
            results.append(_draw(model, prompt, options, progress.drawing(index)))
        images, transparent, settings = zip(*results, strict=True)
        return torch.cat(images), torch.cat(transparent), json.dumps([json.loads(text)[0] for text in settings])


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "BitvarLoadModel": LoadModel,
    "BitvarGenerate": Generate,
    "BitvarEdit": Edit,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "BitvarLoadModel": "bitvar: load model",
    "BitvarGenerate": "bitvar: generate",
    "BitvarEdit": "bitvar: edit or inpaint",
}


def _sampling(negative_prompt: str = "", guidance_scale: float = _OWN, temperature: float = _OWN) -> dict[str, Any]:
    return {
        "negative_prompt": negative_prompt if negative_prompt.strip() else None,
        "guidance_scale": None if guidance_scale < 0 else guidance_scale,
        "temperature": None if temperature < 0 else temperature,
    }


def _draw(
    model: InfinityPipeline, prompt: str, options: dict[str, Any], watcher: Watcher
) -> tuple[Float[Tensor, "b H W 3"], Float[Tensor, "b H W"], str]:
    """Draw images and return them with what is transparent and their settings, as JSON."""
    last: ScaleEvent | None = None
    with _closing(model, prompt, options) as events:
        for last in events:
            watcher(last)
    assert last is not None, "a schedule has at least one scale"
    images = last.preview()
    pixels = np.stack([np.asarray(flatten(image).convert("RGB"), dtype=np.float32) / 255 for image in images])
    opacity = np.stack([np.asarray(image.convert("RGBA"), dtype=np.float32)[..., 3] / 255 for image in images])
    records = [ImageRecord.of(metadata, version=__version__) for metadata in last.metadata]
    settings = json.dumps([record.model_dump(mode="json", exclude_defaults=True) for record in records])
    return torch.from_numpy(pixels), torch.from_numpy(1 - opacity), settings


@contextlib.contextmanager
def _closing(model: InfinityPipeline, prompt: str, options: dict[str, Any]) -> Iterator[Iterator[ScaleEvent]]:
    """Stream a call, and end it at once if an interrupt leaves the loop."""
    events = model.stream(prompt, **options)
    try:
        yield events
    finally:
        events.close()  # type: ignore[attr-defined]


def _to_arrays(images: Tensor) -> list[np.ndarray]:
    """Convert images of ComfyUI to arrays of bytes, RGB or RGBA.

    Raises:
        UsageError: for a tensor of another shape.
    """
    if images.ndim != 4 or images.shape[-1] not in (3, 4):
        why = f"its shape is {tuple(images.shape)}"
        raise UsageError("An IMAGE has the shape (b, H, W, 3 or 4).", why, "connect an image")
    return list((images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def _mask_for(mask: Tensor, index: int, size: tuple[int, int]) -> Image.Image:
    """Return the mask of one image as an image of its size; one mask serves all images."""
    masks = mask if mask.ndim == 3 else mask[None]
    one = masks[min(index, len(masks) - 1)]
    grey = Image.fromarray((one.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    return grey if grey.size == size else grey.resize(size, Image.Resampling.BILINEAR)
