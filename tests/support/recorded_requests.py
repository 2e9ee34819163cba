"""Bodies of image requests as real clients send them, by client, and cards of models to plan them with."""

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
