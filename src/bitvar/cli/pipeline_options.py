"""The options of `bitvar generate` that choose a model and how it is loaded, here or in another process."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitvar.cli.control import ControlOptions, load_control
from bitvar.cli.memory_options import MemoryOptions

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline
    from bitvar.pipeline.record import ImageRecord


@dataclass(frozen=True)
class PipelineOptions:
    """What to load. It holds no model, and can cross processes.

    Attributes:
        model, revision, tokenizer, dtype, fast: As the options of those names.
        saving: Options that save memory.
        lora: Adapters to apply.
        control: Control adapter to load.
        record: Record of the image that is made again; None for new images.
        path: File of that image.
    """

    model: str | None
    revision: str | None
    tokenizer: str | None
    dtype: str | None
    fast: str | None
    saving: MemoryOptions
    lora: tuple[str, ...]
    control: ControlOptions
    record: "ImageRecord | None" = None
    path: Path | None = None

    def load(self, device: str) -> "InfinityPipeline":
        """Load the model with its adapters on a device.

        Raises:
            UsageError: An option can't be used.
            WeightsError: Files are missing, altered or don't belong together.
        """
        from bitvar.cli.generate import load_adapters, load_pipeline
        from bitvar.cli.threads import settle

        pipeline = load_pipeline(
            self.model,
            self.revision,
            self.tokenizer,
            self.dtype,
            device,
            self.fast,
            self.saving,
            record=self.record,
            path=self.path,
        )
        load_adapters(pipeline, list(self.lora), self.record)
        load_control(pipeline, self.control, self.record, self.path)
        settle(pipeline)
        return pipeline
