"""A pipeline of diffusers (extra `diffusers`) that generates with bitvar's model. Its names load on first use."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitvar.integrations.diffusers.pipeline import InfinityDiffusionPipeline as InfinityDiffusionPipeline
    from bitvar.integrations.diffusers.pipeline import InfinityPipelineOutput as InfinityPipelineOutput

__all__ = ["InfinityDiffusionPipeline", "InfinityPipelineOutput"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.pipeline"), name)
