"""Predicted memory of an image while it is drawn: its size's, and what an edit adds. It knows no model but its card."""

from typing import Final

from bitvar.pipeline.request import GenerationRequest
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.model_card import ModelCard, NativeSize

PIXEL_BYTES: Final = 120
"""Bytes of main memory that a pixel of an image takes while an exact edit is put into it; 95 were measured."""


def further_prompts(request: GenerationRequest) -> int:
    """Count the prompts that are decoded beside the first at every scale: mixed ones, and one that is compared."""
    compared = request.edit is not None and request.edit.chosen_method in ("difference", "tilt")
    return len(request.mix) + compared


def image_bytes(job: Job, size: NativeSize, card: ModelCard) -> int:
    """Predict the memory in bytes that one image of a job takes besides the weights, on the device that draws.

    Args:
        job: The job.
        size: Size at which the model draws it.
        card: The model.
    """
    worked = job.source_pixels * PIXEL_BYTES if card.device == "cpu" else 0
    return size.image_bytes + further_prompts(job.request) * size.prompt_bytes + worked
