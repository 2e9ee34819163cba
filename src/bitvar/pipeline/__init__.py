"""Text to image: the pipeline, requests, results, and the records inside image files.

The names below load on first use, so that a request can be made without loading torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitvar.pipeline.control import Control as Control
    from bitvar.pipeline.request import GenerationRequest as GenerationRequest
    from bitvar.pipeline.results import GenerationOutput as GenerationOutput
    from bitvar.pipeline.results import ScaleEvent as ScaleEvent
    from bitvar.pipeline.text_to_image import InfinityPipeline as InfinityPipeline

_HOMES = {
    "Control": "control",
    "GenerationOutput": "results",
    "GenerationRequest": "request",
    "InfinityPipeline": "text_to_image",
    "ScaleEvent": "results",
}

__all__ = ["Control", "GenerationOutput", "GenerationRequest", "InfinityPipeline", "ScaleEvent"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitvar.pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bitvar.pipeline.{_HOMES[name]}"), name)
