"""Image requests as real clients send them, by client, and cards of models to plan them with."""

from typing import Any, Final

from bitvar.official_schedules import BUDGETS, official_schedules
from bitvar.sampling.params import SamplingParams
from bitvar.serving.engine.model_card import ModelCard, NativeSize

GENERATIONS: Final[dict[str, dict[str, Any]]] = {
    "openai for Python": {"prompt": "a red circle", "model": "icons"},
    "openai for Python, all fields": {
        "prompt": "a red circle",
        "background": "opaque",
        "model": "icons",
        "moderation": "low",
        "n": 2,
        "output_compression": 80,
        "output_format": "webp",
        "quality": "low",
        "response_format": "b64_json",
        "size": "1536x1024",
        "style": "natural",
        "user": "user-1",
    },
    "openai for Python, stream": {
        "prompt": "a red circle",
        "model": "icons",
        "partial_images": 3,
        "stream": True,
    },
    "openai for Python, extra_body": {
        "prompt": "a red circle",
        "model": "icons",
        "n": 2,
        "seed": [7, 8],
        "guidance_scale": 3,
        "negative_prompt": "blue",
    },
    "openai for npm, stream": {"model": "icons", "prompt": "a red circle", "stream": True, "partial_images": 2},
    "AI SDK, openai provider": {
        "model": "icons",
        "prompt": "a red circle",
        "n": 1,
        "size": "1024x1024",
        "response_format": "b64_json",
    },
    "AI SDK, compatible provider": {
        "model": "icons",
        "prompt": "a red circle",
        "n": 3,
        "size": "512x512",
        "seed": 42,
        "response_format": "b64_json",
    },
    "LangChain JS": {
        "model": "dall-e-3",
        "prompt": "a red circle",
        "n": 1,
        "size": "1024x1024",
        "response_format": "url",
        "style": "vivid",
        "quality": "standard",
    },
    "langchain-community": {"model": "dall-e-2", "prompt": "a red circle", "n": 1, "size": "1024x1024"},
    "LiteLLM": {"model": "icons", "prompt": "a red circle", "size": "256x256", "seed": 5, "guidance_scale": 2.5},
    "Open WebUI": {
        "model": "dall-e-2",
        "prompt": "a red circle",
        "n": 1,
        "size": "512x512",
        "response_format": "b64_json",
    },
    "Open WebUI, gpt-image": {"model": "gpt-image-1", "prompt": "a red circle", "n": 1, "size": "512x512"},
    "Open WebUI, not configured": {"model": "", "prompt": "a red circle", "n": 1, "response_format": "b64_json"},
    "LibreChat": {
        "model": "gpt-image-1",
        "prompt": "a red circle",
        "n": 1,
        "background": "auto",
        "output_format": "png",
        "output_compression": 100,
        "quality": "auto",
        "size": "auto",
    },
    "LibreChat, webp": {
        "model": "gpt-image-1",
        "prompt": "a red circle",
        "n": 1,
        "background": "opaque",
        "output_format": "webp",
        "output_compression": 70,
        "quality": "auto",
        "size": "auto",
    },
    "a fork of LibreChat, stream": {
        "model": "gpt-image-1",
        "prompt": "a red circle",
        "n": 1,
        "quality": "auto",
        "size": "auto",
        "stream": True,
        "partial_images": 3,
    },
    "nulls": {
        "prompt": "a red circle",
        "model": None,
        "n": None,
        "size": None,
        "quality": None,
        "output_format": None,
        "output_compression": None,
        "background": None,
        "moderation": None,
        "stream": None,
        "partial_images": None,
        "response_format": None,
        "style": None,
    },
}

IMG2IMG: Final[dict[str, dict[str, Any]]] = {
    "A1111's own page": {
        "init_images": ["data:image/png;base64,IMAGE"],
        "prompt": "a green pear",
        "negative_prompt": "",
        "resize_mode": 0,
        "denoising_strength": 0.75,
        "mask": "MASK",
        "mask_blur": 4,
        "inpainting_fill": 1,
        "inpaint_full_res": True,
        "inpaint_full_res_padding": 32,
        "inpainting_mask_invert": 0,
        "sampler_index": "Euler",
        "steps": 20,
        "cfg_scale": 7,
        "width": 64,
        "height": 64,
        "seed": 7,
        "include_init_images": False,
        "override_settings": {},
        "alwayson_scripts": {},
    },
    "webuiapi": {
        "init_images": ["IMAGE"],
        "prompt": "a green pear",
        "mask": None,
        "denoising_strength": 0.5,
        "width": 512,
        "height": 512,
        "batch_size": 2,
        "seed": -1,
        "steps": 20,
    },
    "Open WebUI": {"init_images": ["IMAGE"], "prompt": "", "width": 512, "height": 512},
}
"""Bodies of A1111's img2img by client; IMAGE and MASK stand for the base64 of files."""

A1111: Final[dict[str, dict[str, Any]]] = {
    "SillyTavern": {
        "url": "http://127.0.0.1:8000",
        "auth": "",
        "prompt": "a red apple",
        "negative_prompt": "blurry",
        "sampler_name": "DDIM",
        "scheduler": "normal",
        "steps": 20,
        "cfg_scale": 7,
        "width": 512,
        "height": 512,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 1,
        "hr_additional_modules": [],
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": -1,
        "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True,
        "clip_skip": 1,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
    },
    "Open WebUI": {"prompt": "a red apple", "batch_size": 1, "width": 512, "height": 512, "steps": 50},
    "LibreChat": {
        "prompt": "a red apple",
        "negative_prompt": "blurry",
        "cfg_scale": 4.5,
        "steps": 22,
        "width": 1024,
        "height": 1024,
    },
}
"""Bodies of A1111's txt2img by client."""


IMAGE: Final = "the image"
MASK: Final = "the mask"
"""Stand in the forms below for files, which clients name and type as they like."""

EDITS: Final[dict[str, tuple[str, list[tuple[str, str | tuple[str, str, str]]]]]] = {
    "openai for Python, edit": (
        "edits",
        [
            ("prompt", "a green pear"),
            ("model", "icons"),
            ("n", "2"),
            ("image", (IMAGE, "photo.png", "image/png")),
            ("mask", (MASK, "upload", "application/octet-stream")),
        ],
    ),
    "openai for Python, edit with all fields": (
        "edits",
        [
            ("prompt", "a green pear"),
            ("background", "opaque"),
            ("input_fidelity", "high"),
            ("model", "icons"),
            ("n", "1"),
            ("output_compression", "80"),
            ("output_format", "webp"),
            ("quality", "low"),
            ("response_format", "b64_json"),
            ("size", "512x512"),
            ("user", "user-1"),
            ("seed", "7"),
            ("image[]", (IMAGE, "upload", "application/octet-stream")),
        ],
    ),
    "openai for Python, edit as a stream": (
        "edits",
        [
            ("prompt", "a green pear"),
            ("partial_images", "2"),
            ("stream", "true"),
            ("image", (IMAGE, "photo.png", "image/png")),
        ],
    ),
    "openai for npm, edit": (
        "edits",
        [("image", (IMAGE, "a.png", "image/png")), ("prompt", "a green pear"), ("stream", "true")],
    ),
    "AI SDK, edit": (
        "edits",
        [
            ("model", "icons"),
            ("prompt", "a green pear"),
            ("image", (IMAGE, "blob", "image/png")),
            ("mask", (MASK, "blob", "image/png")),
            ("n", "1"),
        ],
    ),
    "LiteLLM, edit": (
        "edits",
        [("prompt", "a green pear"), ("model", "icons"), ("image[]", (IMAGE, "image.png", "image/png"))],
    ),
    "Open WebUI, edit": (
        "edits",
        [
            ("model", ""),
            ("prompt", "a green pear"),
            ("n", "1"),
            ("size", "512x512"),
            ("response_format", "b64_json"),
            ("image", (IMAGE, "blob.png", "image/png")),
        ],
    ),
    "LibreChat, edit": (
        "edits",
        [
            ("model", "gpt-image-1"),
            ("prompt", "a green pear"),
            ("quality", "auto"),
            ("size", "auto"),
            ("image[]", (IMAGE, "1.png", "image/png")),
        ],
    ),
    "openai for Python, variation": (
        "variations",
        [
            ("n", "2"),
            ("response_format", "b64_json"),
            ("size", "256x256"),
            ("user", "user-1"),
            ("image", (IMAGE, "photo.png", "image/png")),
        ],
    ),
    "LiteLLM, variation": ("variations", [("image", (IMAGE, "image.png", "image/png"))]),
}
"""Route and parts of forms by client: the name of each field, with its text, or a file's content, name and type."""


def form_of(client: str, image: bytes, mask: bytes) -> tuple[bytes, str]:
    """Write the form of a client of `EDITS`.

    Args:
        client: Name of the client.
        image: The image.
        mask: Its mask.

    Returns:
        Body and content type.
    """
    lines: list[bytes] = []
    for name, value in EDITS[client][1]:
        head = f'Content-Disposition: form-data; name="{name}"'
        if isinstance(value, str):
            lines += [b"--frontier", head.encode(), b"", value.encode()]
            continue
        content, file, kind = value
        data = image if content == IMAGE else mask
        lines += [b"--frontier", f'{head}; filename="{file}"'.encode(), f"Content-Type: {kind}".encode(), b"", data]
    return b"\r\n".join([*lines, b"--frontier--", b""]), "multipart/form-data; boundary=frontier"


def small_card(**more: Any) -> ModelCard:
    """The card of a model like the embedded one: 64x64 alone, guidance off by default."""
    sides = (1, 2, 4, 8)
    size = NativeSize(width=64, height=64, grids=tuple((side, side) for side in sides))
    values: dict[str, Any] = {
        "name": "icons",
        "digest": "icons@0123456789ab",
        "created": 1_790_000_000,
        "sizes": (size,),
        "defaults": SamplingParams(guidance_scale=1.0, temperature=0.25, top_k=0, top_p=0.0),
        "max_text_tokens": 64,
    }
    return ModelCard(**{**values, **more})


def large_card(**more: Any) -> ModelCard:
    """The card of a model with the 60 published sizes; 1024x1024 is its default."""
    sizes = [
        NativeSize(width=16 * grids[-1][1], height=16 * grids[-1][0], grids=grids)
        for grids in (tuple(schedule.grids) for schedule in official_schedules(tuple(reversed(BUDGETS))))
    ]
    values: dict[str, Any] = {
        "name": "large",
        "sizes": tuple(sizes),
        "defaults": SamplingParams(guidance_scale=4.0, temperature=1.0, top_k=0, top_p=0.0),
    }
    return small_card(**{**values, **more})
