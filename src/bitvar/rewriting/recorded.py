"""Rewritten prompts in a file, which anyone can draw from again without the model that wrote them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.files import read_plain, write_text
from bitvar.rewriting.instruction import holds_half_characters
from bitvar.rewriting.rewrite import RewriteError, Rewritten


class RecordedRewrite(Config):
    """A line of the file.

    Attributes:
        prompt: Prompt as it was given.
        rewritten: What became of it.
        model: Name of the model that rewrote it.
    """

    prompt: str
    rewritten: str
    model: str


class RecordedRewriter:
    """A `Rewriter` that looks prompts up.

    Args:
        rewrites: Result for each prompt.
        source: Where they come from, for errors.
    """

    def __init__(self, rewrites: dict[str, Rewritten], source: str) -> None:
        self._rewrites, self._source = rewrites, source

    def look_up(self, prompts: Iterable[str]) -> dict[str, Rewritten]:
        """Return the result for each prompt.

        Raises:
            RewriteError: A prompt isn't there.
        """
        wanted = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in wanted if prompt not in self._rewrites]
        if missing:
            what = f"{self._source} lacks {len(missing)} of {len(wanted)} prompts."
            fix = "rewrite them with --rewriter-url or --rewriter-model, or correct the file"
            raise RewriteError(what, f"the first is {missing[0]!r}", fix, is_general=True)
        return {prompt: self._rewrites[prompt] for prompt in wanted}


def write_rewrites(path: Path, rewrites: Iterable[Rewritten]) -> None:
    """Write rewritten prompts as JSON lines, atomically."""
    lines = [
        json.dumps({"prompt": one.original, "rewritten": one.prompt, "model": one.model}, ensure_ascii=False)
        for one in rewrites
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_rewrites(path: Path) -> dict[str, Rewritten]:
    """Read the file that `write_rewrites` writes: the result for each prompt.

    Raises:
        UsageError: The file can't be read, a line is bad, or a prompt has two results.
    """
    try:
        lines = read_plain(path).decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
        raise UsageError(f"Can't read the rewritten prompts in {path}.", why, "check the path") from None
    rewrites: dict[str, Rewritten] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values: Any = json.loads(line)
            read = RecordedRewrite.parse(values if isinstance(values, dict) else {"": values}, source="it")
            if holds_half_characters(read.prompt + " " + read.rewritten + " " + read.model):
                raise ValueError("it holds half a character, a surrogate without its other half")
            if not read.rewritten.strip():
                raise ValueError("the rewritten prompt is empty")
            one = Rewritten(read.prompt, read.rewritten, read.model)
            if rewrites.setdefault(read.prompt, one) != one:
                raise ValueError("its prompt was there before, with another result")
        except (ValueError, RecursionError) as error:
            why = f"line {number}: {str(error).splitlines()[0]}"
            fix = 'write {"prompt": "a cat", "rewritten": "a grey cat on a sofa", "model": "NAME"}'
            raise UsageError(f"Can't read the rewritten prompts in {path}.", why, fix) from None
    return rewrites
