"""A benchmark's own scorer, run as a command in an environment of its own, so that its packages stay out of ours.

This file builds, shows and runs commands and pairs their results with images. It knows no benchmark.
"""

import json
import shlex
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalItem, GeneratedImage, Score
from bitvar.files import write_text

DRIVERS: Final = Path(__file__).parent / "drivers"
"""Scripts that call a published scorer's functions; each reads a list of images and prompts and writes scores."""


@dataclass(frozen=True)
class OwnScore:
    """What a published scorer says about an image.

    Attributes:
        prompt: Id of the prompt.
        number: Number of the image among those of its prompt.
        score: Value.
        correct: Decision; None if the scorer only gives a value.
        reasons: What it says is wrong.
        details: Further JSON values.
    """

    prompt: str
    number: int
    score: float
    correct: bool | None = None
    reasons: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnScorer:
    """A command and how to read what it writes.

    Attributes:
        name: Name for reports.
        argv: The command.
        read: Function that reads its results.
        needs: Files and folders that must be there.
        results: Files that it writes; they are removed before it runs.
        where: Folder to run it in; None for the current one.
    """

    name: str
    argv: tuple[str, ...]
    read: Callable[[], Iterable[OwnScore]]
    needs: tuple[Path, ...] = ()
    results: tuple[Path, ...] = ()
    where: Path | None = None

    @property
    def command(self) -> str:
        """The command as a line for a shell."""
        line = shlex.join(self.argv)
        return line if self.where is None else f"cd {shlex.quote(str(self.where))} && {line}"

    def prepare(self) -> None:
        """Check that everything it needs is there, and remove earlier results.

        Raises:
            UsageError: naming what is missing.
        """
        for path in self.needs:
            if not path.exists():
                raise UsageError(f"There is no {path}.", f"{self.name} needs it", "check the path; docs/benchmarks.md")
        for path in self.results:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)

    def run(self, images: Sequence[GeneratedImage]) -> list[Score]:
        """Run the command and pair its results with the images.

        Raises:
            UsageError: if the command can't start or fails, or has no result for an image.
        """
        self.prepare()
        try:
            done = subprocess.run(self.argv, check=False, cwd=self.where)
        except OSError as error:
            why = f"{self.argv[0]}: {error.strerror}"
            raise UsageError(
                f"Can't start {self.name}.", why, "install it, or run elsewhere: --print-command"
            ) from None
        if done.returncode != 0:
            fix = f"read its messages above; the command was: {self.command}"
            raise UsageError(f"{self.name} failed.", f"it ended with exit code {done.returncode}", fix)
        return self.collect(images)

    def collect(self, images: Sequence[GeneratedImage]) -> list[Score]:
        """Read the results of a run and pair them with the images.

        Raises:
            UsageError: if there are none, or none for an image.
        """
        try:
            results = {(entry.prompt, entry.number): entry for entry in self.read()}
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UsageError(f"Can't read the results of {self.name}.", repr(error), "run it again") from None
        scores = []
        for image in images:
            entry = results.get((image.prompt.id, image.seed))
            if entry is None:
                why = f"it says nothing about {image.path}"
                raise UsageError(f"{self.name} left images out.", why, "read its messages; then score again")
            item = EvalItem(image, image.prompt)
            if entry.correct is None:
                scores.append(item.graded(entry.score, entry.reasons, **entry.details))
            else:
                scores.append(item.judged(entry.correct, entry.reasons, **entry.details))
        return scores


def uv_command(python: str, packages: Sequence[str]) -> tuple[str, ...]:
    """Begin a command that runs Python in an environment which uv makes for it alone.

    Args:
        python: Version of Python.
        packages: Packages with their versions.
    """
    return ("uv", "run", "--isolated", "--no-project", "--python", python,
            *(word for name in packages for word in ("--with", name)), "python")  # fmt: skip


def driven_scorer(
    name: str,
    driver: str,
    images: Sequence[GeneratedImage],
    scratch: Path,
    *,
    prefix: Sequence[str],
    scale: float = 1.0,
) -> OwnScorer:
    """Make the command of a driver, which scores a list of images and prompts with a published package.

    Args:
        name: Name for reports.
        driver: File in `DRIVERS`.
        images: Images to score.
        scratch: Folder for the list and the results.
        prefix: Command that runs Python with the package.
        scale: Factor of the scores in reports.
    """
    requests, answers = scratch / "requests.json", scratch / "answers.json"
    rows = [{"image": str(image.path.absolute()), "prompt": image.prompt.text} for image in images]
    scratch.mkdir(parents=True, exist_ok=True)
    write_text(requests, json.dumps(rows, indent=1))

    def read() -> list[OwnScore]:
        values = json.loads(answers.read_bytes())
        if not isinstance(values, list) or len(values) != len(images):
            raise ValueError(f"{answers} doesn't hold one score for each image")
        pairs = zip(images, values, strict=True)
        return [OwnScore(image.prompt.id, image.seed, scale * float(value)) for image, value in pairs]

    argv = (*prefix, str(DRIVERS / driver), str(requests), str(answers))
    return OwnScorer(name, argv, read, results=(answers,))
