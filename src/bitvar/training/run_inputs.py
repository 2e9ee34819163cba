"""What a run is given, by content, for its identity; and what is said when its last save fails."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bitvar.errors import UsageError
from bitvar.training.engine.checkpoint import is_checkpoint, require_resumable
from bitvar.training.engine.identity import FileDigests, describe_data
from bitvar.training.engine.loop import TrainerConfig
from bitvar.training.transformer.feature_cache import DIGESTS
from bitvar.weights.digests import digest, merged_digest, read_object
from bitvar.weights.hub import resolve_model


def find_text_encoder(folder: Path) -> Path:
    """Where the text encoder lies in a model folder; a text encoder's folder is its own."""
    return folder / "text_encoder" if (folder / "model_index.json").is_file() else folder


def find_start(name: str) -> Path:
    """The model or checkpoint that a transformer run begins from.

    Raises:
        UsageError: if there is none of that name, or it is a whole run, or a checkpoint of adapters.
    """
    folder = resolve_model(name)
    if is_checkpoint(folder):
        if read_object(folder / "config.json").get("lora"):
            todo = (
                "give the model that they were trained on; to train them further, use their run's command and --extend"
            )
            raise UsageError(f"{folder} holds adapters.", "they are no whole model to begin from", todo)
    elif (folder / "checkpoints").is_dir() and not (folder / "model_index.json").is_file():
        todo = f"give what came of it, such as {folder / 'model'}, or one of its checkpoints"
        raise UsageError(f"{folder} is a run.", "--init needs a model or a checkpoint", todo)
    return folder


def weights_digest(source: Path) -> str:
    """One digest of the weights that a run begins from: a model folder's transformer, a tokenizer, or a checkpoint."""
    inside = source / "transformer" if (source / "transformer").is_dir() else source
    paths = sorted(inside.glob("ema*.safetensors")) or sorted(inside.glob("*.safetensors"))
    return merged_digest({path.name: digest(path) for path in paths})


def identify_run(
    planned: TrainerConfig,
    data: Path,
    parts: Mapping[str, str],
    *,
    images: Callable[[], Sequence[Path]] = tuple,
) -> dict[str, str]:
    """The parts of a run's identity, the same on every rank; refused already here if its checkpoint has others.

    Args:
        planned: the run.
        data: what it reads.
        parts: digests of the frozen parts.
        images: the files of a folder of images.

    Raises:
        UsageError: if the newest checkpoint is of a run of another identity, or a file of the data can't be read.
    """
    text = ""
    if planned.ranks.is_main:
        planned.folder.mkdir(parents=True, exist_ok=True)
        found = describe_data(data, FileDigests(planned.folder / DIGESTS), images=images)
        text = json.dumps({**parts, **found})
        require_resumable(
            planned.folder / "checkpoints", planned.config, identity=json.loads(text), extend=planned.extend
        )
    return json.loads(planned.ranks.first(text))


@contextlib.contextmanager
def telling_failed_save(report: Callable[[str], None]) -> Iterator[None]:
    """When what comes out of a finished run can't be written, say that nothing is lost."""
    try:
        yield
    except OSError:
        report("WARNING: the run is finished and its last checkpoint saved, but its result could not be written;"
               " the same command writes it")  # fmt: skip
        raise
