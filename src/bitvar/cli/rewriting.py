"""`--rewriter-url`, `--rewriter-model` and `--rewrites`: a language model expands prompts before they are drawn."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bitvar.cli.echo import say
from bitvar.cli.prompt_job import PromptJob
from bitvar.errors import UsageError
from bitvar.files import read_plain
from bitvar.rewriting import (
    INSTRUCTION,
    EndpointRewriter,
    RecordedRewriter,
    RewriteCache,
    Rewriter,
    Rewritten,
    check_url,
    read_rewrites,
    rewrite_prompts,
)

KEY_VARIABLE: Final = "BITVAR_REWRITER_KEY"
"""Variable of the environment with the key of `--rewriter-url`."""

THREADS: Final = 8
"""Prompts that an endpoint is asked at the same time."""


@dataclass(frozen=True)
class RewriteOptions:
    """How prompts are rewritten.

    Attributes:
        url: Address of an OpenAI-compatible API; None for a model on this machine.
        model: Name of the model there, or a folder or hub id.
        instruction: File with the instruction; None for ours.
        temperature: Temperature of an endpoint's answers; None for 0.
        cache: Folder of answers; None for the user's cache.
        rewrites: File with rewritten prompts, in place of a model.
    """

    url: str | None = None
    model: str | None = None
    instruction: Path | None = None
    temperature: float | None = None
    cache: Path | None = None
    rewrites: Path | None = None

    def __post_init__(self) -> None:
        given = {"--rewriter-url": self.url, "--rewriter-model": self.model}
        extra = {
            "--rewriter-instruction": self.instruction,
            "--rewriter-temperature": self.temperature,
            "--rewriter-cache": self.cache,
        }
        named = [name for name, value in (given | extra).items() if value is not None]
        if self.rewrites is not None and named:
            why = "the file has the rewritten prompts already"
            raise UsageError(f"--rewrites and {named[0]} were given.", why, "give one of them")
        if self.model is None and named:
            raise UsageError(f"{named[0]} needs --rewriter-model.", "no model is named", "add --rewriter-model NAME")
        if self.url is None and self.temperature is not None:
            why = "a model on this machine gives its likeliest answer"
            raise UsageError("--rewriter-temperature needs --rewriter-url.", why, "leave it out")
        if self.url is not None:  # before a model is loaded
            check_url(self.url)

    def applied_to(self, jobs: list[PromptJob], *, device: str) -> list[PromptJob]:
        """Rewrite the prompts of jobs; without these options, return them as they are.

        Args:
            jobs: Jobs to be drawn.
            device: Device for a model on this machine.

        Raises:
            UsageError: A prompt was rewritten before, or as `rewrite`.
            RewriteError: A prompt can't be rewritten.
        """
        if self.model is None and self.rewrites is None:
            return jobs
        if any(job.original_prompt is not None for job in jobs):
            why = "the image's file records what it became"
            raise UsageError("This prompt was rewritten before.", why, "leave the rewriter out, or give a new prompt")
        rewrites = self.rewrite([job.prompt for job in jobs if job.prompt.strip()], device=device)
        if len(rewrites) == 1:
            for one in rewrites.values():
                say(f"Rewritten by {one.model}: {one.prompt}", err=True)
        return [_rewritten(job, rewrites[job.prompt]) if job.prompt in rewrites else job for job in jobs]

    def rewrite(self, prompts: Sequence[str], *, device: str) -> dict[str, Rewritten]:
        """Rewrite prompts, each once.

        Args:
            prompts: Prompts in any order.
            device: Kind of device for a model on this machine.

        Raises:
            UsageError: A file can't be read, or the URL or the key can't be used.
            RewriteError: A prompt can't be rewritten.
        """
        if self.rewrites is not None:
            return RecordedRewriter(read_rewrites(self.rewrites), str(self.rewrites)).look_up(prompts)
        rewriter = self._rewriter(device)
        cache = RewriteCache(self.cache or _default_cache())
        threads = 1 if self.url is None else THREADS
        return rewrite_prompts(prompts, rewriter, cache, threads=threads, log=lambda text: say(text, err=True))

    def _rewriter(self, device: str) -> Rewriter:
        assert self.model is not None, "require that options are given first"
        instruction = INSTRUCTION if self.instruction is None else _read_instruction(self.instruction)
        if self.url is None:
            from bitvar.rewriting.local import LocalRewriter

            return LocalRewriter(self.model, instruction, device)
        key = os.environ.get(KEY_VARIABLE) or None
        return EndpointRewriter(self.url, self.model, instruction, key, temperature=self.temperature or 0.0)


def _rewritten(job: PromptJob, new: Rewritten) -> PromptJob:
    return replace(job, prompt=new.prompt, original_prompt=job.prompt, rewritten_by=new.model)


def _read_instruction(path: Path) -> str:
    try:
        text = read_plain(path).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
        raise UsageError(f"Can't read the instruction in {path}.", why, "check the path") from None
    if not text:
        raise UsageError(f"The instruction in {path} is empty.", fix="write what the model is to do with each prompt")
    return text


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bitvar" / "rewrites"
