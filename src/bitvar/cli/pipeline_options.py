"""The options of `bitvar generate` that choose a model and how it is loaded, here or in another process."""

from dataclasses import dataclass
from pathlib import Path

from bitvar.cli import lora
from bitvar.cli.control import ControlOptions, load_control
from bitvar.cli.echo import say
from bitvar.cli.memory_options import MemoryOptions
from bitvar.cli.threads import settle
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.record import ImageRecord
from bitvar.pipeline.reproduce import check_same_model, recorded_dtype, recorded_model, recorded_optimizations


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
    record: ImageRecord | None = None
    path: Path | None = None

    def load(self, device: str) -> InfinityPipeline:
        """Load the model with its adapters on a device.

        Raises:
            UsageError: An option can't be used.
            WeightsError: Files are missing, altered or don't belong together.
        """
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


def load_pipeline(
    model: str | None,
    revision: str | None,
    tokenizer: str | None,
    dtype: str | None,
    device: str,
    fast: str | None,
    saving: MemoryOptions,
    *,
    record: ImageRecord | None,
    path: Path | None,
) -> InfinityPipeline:
    """Load a model as the options say, or else as the record of the image that is made again says."""
    source: str | Path | None = model
    if model is None and record is not None and path is not None:
        source = recorded_model(record, path)
    if source is None:
        say("Using the small embedded model (icons, 64 px). Larger models: see README, 'Official weights'.", err=True)
    default_dtype = "auto" if record is None else recorded_dtype(record)
    default_fast = ("auto",) if record is None else recorded_optimizations(record)
    pipeline = InfinityPipeline.from_pretrained(
        source,
        revision=revision,
        tokenizer=tokenizer,
        dtype=default_dtype if dtype is None else dtype,
        device=device,
        fast=saving.added_to(default_fast if fast is None else [name.strip() for name in fast.split(",")]),
        offload_text=saving.offload_text,
    )
    for note in [] if record is None else check_same_model(record, pipeline):
        say(f"Note: {note}.", err=True)
    return pipeline


def load_adapters(pipeline: InfinityPipeline, options: list[str], record: ImageRecord | None) -> None:
    """Load the adapters of the image that is made again, or those of the options."""
    if not options and not (record and record.lora):
        return
    if record is not None:
        lora.load_adapters_of_record(pipeline, options, record.lora)
    else:
        lora.load_adapters(pipeline, options)
