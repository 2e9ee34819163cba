"""Rewrites a list of prompts, each once: what the cache knows is never asked again."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable

from bitvar.errors import explain
from bitvar.rewriting.cache import RewriteCache

_REPORTED: Final = 100  # prompts between two lines of progress


@runtime_checkable
class Rewriter(Protocol):
    """A language model that rewrites prompts. `rewrite` may be called from several threads."""

    @property
    def name(self) -> str:
        """Name of the model, as records show it."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Everything besides the prompt that decides the answer, as JSON values, with the instruction."""
        ...

    def rewrite(self, prompt: str) -> str:
        """Rewrite one prompt.

        Raises:
            RewriteError: There is no answer that can be used.
        """
        ...


class RewriteError(RuntimeError):
    """A prompt can't be rewritten. The message says what happened, why, and what to do, a line each.

    Args:
        what: What happened, as a sentence.
        why: The reason.
        fix: What the user can do about it.
        is_general: Whether every other prompt would fail as well.
    """

    def __init__(self, what: str, why: str, fix: str, *, is_general: bool = False) -> None:
        super().__init__(explain(what, why, fix))
        self.is_general = is_general


@dataclass(frozen=True)
class Rewritten:
    """A prompt and what became of it.

    Attributes:
        original: Prompt as the user gave it.
        prompt: Rewritten prompt.
        model: Name of the model that rewrote it.
    """

    original: str
    prompt: str
    model: str


def rewrite_prompts(
    prompts: Sequence[str],
    rewriter: Rewriter,
    cache: RewriteCache,
    *,
    threads: int = 1,
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Rewritten]:
    """Rewrite prompts. Equal prompts are asked once, and what the cache has isn't asked at all.

    Args:
        prompts: Prompts in any order.
        rewriter: Model that rewrites them.
        cache: Answers of this and of earlier calls.
        threads: Number of prompts to ask at the same time.
        log: Receives a line of progress from time to time.

    Returns:
        The result for each different prompt, in order.

    Raises:
        RewriteError: A prompt can't be rewritten. Every answer until then is in the cache.
    """
    different, failures = list(dict.fromkeys(prompts)), list[RewriteError]()
    ask, done = partial(cache.answer, settings=rewriter.settings), dict[str, Rewritten]()
    with ThreadPoolExecutor(threads) as pool:
        answers = [pool.submit(ask, prompt, ask=partial(rewriter.rewrite, prompt)) for prompt in different]
        try:
            for number, (prompt, answer) in enumerate(zip(different, answers, strict=True), 1):
                try:
                    done[prompt] = Rewritten(prompt, answer.result(), rewriter.name)
                except RewriteError as error:
                    if error.is_general or len(different) == 1:
                        raise
                    failures.append(error)
                if number % _REPORTED == 0 or number == len(different):
                    log(f"{number - len(failures)} of {len(different)} prompts rewritten")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        what = f"{len(failures)} of {len(different)} prompts can't be rewritten; the others are kept."
        raise RewriteError(what, _reason(failures[0]), "correct them, or try another model")
    return done


def _reason(error: RewriteError) -> str:
    return "the first: " + next(line.strip().removeprefix("why: ") for line in str(error).splitlines()[1:])
