"""The layout of a published benchmark: which images it wants, under which names, and what lies beside them.

A layout knows its prompts and its files. It draws nothing and scores nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalPrompt, GeneratedImage
from bitvar.evaluation.benchmarks.prompt_sets import PromptSet
from bitvar.files import read_plain, write_text


@dataclass(frozen=True)
class Drawing:
    """One image to draw.

    Attributes:
        prompt: Prompt of the benchmark.
        number: Number of the image among those of its prompt, from 0.
        file: Path relative to the folder of the variant, with slashes.
    """

    prompt: EvalPrompt
    number: int
    file: str


@runtime_checkable
class Layout(Protocol):
    """Prompts and files of a published benchmark."""

    name: str
    """Its name on the command line."""

    title: str
    """Its name in reports, with its paper."""

    images_per_prompt: int
    """Number of images of a prompt that its authors use."""

    def read_prompts(self, given: Path | None) -> PromptSet:
        """Read the prompts: the user's file or folder, or those in the package without one.

        Raises:
            UsageError: for a file that can't be used, or if the package holds no prompts and none are given.
        """
        ...

    def drawings(self, prompts: Sequence[EvalPrompt], count: int) -> list[Drawing]:
        """List every image to draw, in order.

        Args:
            prompts: Prompts.
            count: Number of images of each.
        """
        ...

    def finish(self, folder: Path, prompts: Sequence[EvalPrompt], count: int) -> None:
        """Write what lies beside the images once all are drawn. Called again, it changes nothing.

        Args:
            folder: Folder of the variant, which has the files of `drawings`.
            prompts: Prompts.
            count: Number of images of each.
        """
        ...

    def find(self, images: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        """Find the images of these prompts in a folder that its own scorer reads. Prompts without images are left out.

        Args:
            images: Folder with the benchmark's layout.
            prompts: Prompts.
        """
        ...


IMAGES = "images"
"""Folder, in that of a variant, with exactly the layout that the benchmark's own scorer reads."""


def write_sidecar(path: Path, text: str) -> None:
    """Write a small text file beside the images, unless it is there already.

    Raises:
        UsageError: if a file of that name has another content.
    """
    try:
        if read_plain(path) != text.encode():
            raise UsageError(
                f"{path} is in the way.", "it has another content", "move it away, or choose another folder"
            )
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def seen_in_order(paths: Mapping[int, Path], prompt: EvalPrompt) -> list[GeneratedImage]:
    """List images by their number."""
    return [GeneratedImage(prompt, number, paths[number]) for number in sorted(paths)]
