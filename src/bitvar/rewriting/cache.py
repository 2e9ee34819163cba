"""Answers of rewriters on disk, one file each, by prompt and settings. Several processes may use one folder.

An answer is asked for under a lock of its own, so two processes never ask for the same one. A process that is killed
while it waits leaves no lock and no file.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.files import write_text


class CachedAnswer(Config):
    """The content of one file.

    Attributes:
        prompt: Prompt that was asked.
        settings: Settings of the rewriter.
        rewritten: Its answer.
    """

    prompt: str
    settings: dict[str, Any]
    rewritten: str


class RewriteCache:
    """A folder of answers.

    Args:
        folder: The folder; made when the first answer is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answer(self, prompt: str, settings: Mapping[str, Any], ask: Callable[[], str]) -> str:
        """Return the answer to a prompt: the one that is kept, else the one that `ask` gives, which is then kept.

        Raises:
            UsageError: The file of the answer is damaged.
        """
        path = self._path(prompt, settings)
        if (known := _read(path)) is not None:
            return known
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_path = path.with_suffix(".lock")
        with FileLock(lock_path, poll_interval=0.05):
            if (known := _read(path)) is None:  # nobody else has asked meanwhile
                known = ask()
                write_text(path, CachedAnswer(prompt=prompt, settings=dict(settings), rewritten=known).dump())
            with contextlib.suppress(OSError):  # whoever locks it next finds the answer
                lock_path.unlink()
        return known

    def _path(self, prompt: str, settings: Mapping[str, Any]) -> Path:
        text = json.dumps({"prompt": prompt, "settings": settings}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.json"


def _read(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return CachedAnswer.load(path).rewritten
    except UsageError as error:
        why = str(error).splitlines()[0]
        raise UsageError(f"Can't use the rewritten prompt in {path}.", why, "delete that file to ask again") from None
