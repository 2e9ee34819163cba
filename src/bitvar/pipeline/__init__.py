"""Text to image: the pipeline, its options, its results, and the records inside image files."""

from bitvar.pipeline.text_to_image import GenerationOutput, InfinityPipeline, ScaleEvent

__all__ = ["GenerationOutput", "InfinityPipeline", "ScaleEvent"]
