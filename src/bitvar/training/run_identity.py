"""Identifying a run by the content of its data and models, before its first step."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bitvar.training.engine.checkpoint import require_resumable
from bitvar.training.engine.identity import FileDigests, describe_data
from bitvar.training.engine.loop import TrainerConfig
from bitvar.training.transformer.feature_cache import DIGESTS


def identify_run(
    run: TrainerConfig,
    data: Path,
    digests: Mapping[str, str],
    *,
    images: Callable[[], Sequence[Path]] = tuple,
) -> dict[str, str]:
    """Digests of everything that a run depends on, by name, the same on every rank.

    Args:
        run: The run, without its identity.
        data: Folder of the data.
        digests: Digests of the models that it builds on, by the option that named them.
        images: Lists the files of a folder of images.

    Raises:
        UsageError: If the newest checkpoint belongs to a run of another identity, or a file of the data can't be read.
    """
    text = ""
    if run.context.is_main:
        run.folder.mkdir(parents=True, exist_ok=True)
        described = describe_data(data, FileDigests(run.folder / DIGESTS), images=images)
        text = json.dumps({**digests, **described})
        require_resumable(run.folder / "checkpoints", run.config_json, identity=json.loads(text), extend=run.extend)
    return json.loads(run.context.broadcast_from_main(text))
