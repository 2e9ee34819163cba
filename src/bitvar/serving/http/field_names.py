"""Names of request fields: those of other servers that this one refuses, each with the nearest of ours, and typos."""

import difflib
from collections.abc import Collection, Mapping
from typing import Final

from bitvar.serving.http.errors import ApiError, shortened, shown

_STEPS: Final = "the model draws an image in a fixed number of scales, not in steps; leave it out"
_GUIDANCE: Final = "send guidance_scale"
_NO_INPUT: Final = "this route draws from text alone; send images as a form to /v1/images/edits"
_NO_URL: Final = "this server fetches no URL"
_ADAPTER: Final = "send lora with the name and scale of an adapter of this server"
_CLIENT: Final = "that is an argument of the client library; send what is in it as fields of the body"
_SAMPLER: Final = "the model has one sampler; temperature and top_p change how it draws"
_STILL: Final = "this server draws still images"

REFUSED: Final[Mapping[str, str]] = {
    "complexity": "it isn't supported by this server; quality chooses how large the model draws",
    "svg": "it isn't supported by this server; choose output_format png, webp or jpeg",
    "frame_count": _STILL,
    "frame_duration_ms": _STILL,
    "num_frames": _STILL,
    "fps": _STILL,
    "num_inference_steps": _STEPS,
    "steps": _STEPS,
    "true_cfg_scale": _GUIDANCE,
    "cfg_scale": _GUIDANCE,
    "cfg": _GUIDANCE,
    "guidance": _GUIDANCE,
    "guidance_scale_2": "send guidance_schedule, a list with a value for each scale",
    "flow_shift": "the model has no noise schedule to shift; leave it out",
    "scheduler": _SAMPLER,
    "sampler": _SAMPLER,
    "sampler_name": _SAMPLER,
    "generator_device": "a seed gives the same image wherever its random numbers are drawn; send seed alone",
    "strength": _NO_INPUT,
    "image": _NO_INPUT,
    "images": _NO_INPUT,
    "mask": _NO_INPUT,
    "markup": _NO_INPUT,
    "input_fidelity": _NO_INPUT,
    "url": _NO_URL,
    "image_url": _NO_URL,
    "aspect_ratio": "send size, such as 1536x1024",
    "ratio": "send size, such as 1536x1024",
    "num_images": "send n",
    "num_images_per_prompt": "send n",
    "batch_size": "send n",
    "num_outputs_per_prompt": "send n",
    "seeds": "send seed, which may be a list",
    "loras": "send lora, which may be a list",
    "lora_name": _ADAPTER,
    "lora_path": _ADAPTER,
    "lora_scale": _ADAPTER,
    "lora_weight": _ADAPTER,
    "format": "send output_format",
    "extra_body": _CLIENT,
    "extra_args": _CLIENT,
    "providerOptions": _CLIENT,
}
"""Fields that other servers or libraries know, with what to do about each here."""


_REFUSED_IN_EDITS: Final[Mapping[str, str]] = {
    "markup": "it isn't supported by this server; paint the part to change into mask",
    "images": "send image",
    "init_image": "send image",
    "init_images": "send image",
    "mask_image": "send mask",
    "denoising_strength": "send strength",
    "image_strength": "send strength, the share of the scales that is drawn anew",
}


def check_names(names: Collection[str], known: Collection[str], *, edits: bool = False) -> None:
    """Refuse the first name that is not a field.

    Args:
        names: Names that were given.
        known: Names of fields.
        edits: Whether the route takes images.

    Raises:
        ApiError: A name is of another server, or unknown; the error names the nearest field.
    """
    for name in names:
        if name in known:
            continue
        refused = {**REFUSED, **_REFUSED_IN_EDITS} if edits else REFUSED
        if name in refused:
            message = f"{name} is not supported: {refused[name]}."
            raise ApiError(400, message, param=name, code="unsupported_parameter")
        near = difflib.get_close_matches(shortened(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}."
        message = f"Unknown field {shown(name)}; {hint}"
        raise ApiError(400, message, param=name, code="unknown_parameter")
