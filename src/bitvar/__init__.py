"""bitvar: bitwise visual autoregressive image generation (Infinity), from prompt to image.

The names below load on first use, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitvar.codec import BitFile as BitFile
    from bitvar.codec import ImageCodec as ImageCodec
    from bitvar.errors import UsageError as UsageError
    from bitvar.errors import WeightsError as WeightsError
    from bitvar.pipeline import GenerationOutput as GenerationOutput
    from bitvar.pipeline import InfinityPipeline as InfinityPipeline
    from bitvar.pipeline import ScaleEvent as ScaleEvent
    from bitvar.pipeline.instruction_editor import InstructionEditor as InstructionEditor
    from bitvar.sampling.params import SamplingParams as SamplingParams
    from bitvar.scales import ScaleSchedule as ScaleSchedule
    from bitvar.tokenizer import InfinityTokenizer as InfinityTokenizer
    from bitvar.tokenizer import TokenizerConfig as TokenizerConfig
    from bitvar.training.assemble import train as train
    from bitvar.training.export import export_run as export_run
    from bitvar.transformer import InfinityTransformer as InfinityTransformer
    from bitvar.transformer import TransformerConfig as TransformerConfig

__version__ = "0.2.0"

_HOMES = {
    "BitFile": "codec",
    "GenerationOutput": "pipeline",
    "InfinityPipeline": "pipeline",
    "InfinityTokenizer": "tokenizer",
    "InfinityTransformer": "transformer",
    "InstructionEditor": "pipeline.instruction_editor",
    "ImageCodec": "codec",
    "SamplingParams": "sampling.params",
    "ScaleEvent": "pipeline",
    "ScaleSchedule": "scales",
    "TokenizerConfig": "tokenizer",
    "TransformerConfig": "transformer",
    "UsageError": "errors",
    "WeightsError": "errors",
    "export_run": "training.export",
    "train": "training.assemble",
}

__all__ = [
    "BitFile",
    "GenerationOutput",
    "ImageCodec",
    "InfinityPipeline",
    "InfinityTokenizer",
    "InfinityTransformer",
    "InstructionEditor",
    "SamplingParams",
    "ScaleEvent",
    "ScaleSchedule",
    "TokenizerConfig",
    "TransformerConfig",
    "UsageError",
    "WeightsError",
    "export_run",
    "train",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitvar' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bitvar.{_HOMES[name]}"), name)
