"""Rewrites a list of prompts, each once: what the cache knows is never asked again."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
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
    different, settings, name = list(dict.fromkeys(prompts)), rewriter.settings, rewriter.name
    done, failures = dict[str, Rewritten](), dict[str, RewriteError]()

    def ask(prompt: str) -> str | Exception:
        try:
            return cache.answer(prompt, settings, lambda: rewriter.rewrite(prompt))
        except Exception as error:  # raised below, in the caller's thread
            return error

    answers = _asked_in_turn(different, ask) if threads == 1 else _asked_at_once(different, ask, threads)
    with contextlib.closing(answers) as given:  # an error here stops the threads
        for number, (prompt, answer) in enumerate(given, 1):
            if isinstance(answer, str):
                done[prompt] = Rewritten(prompt, answer, name)
            elif isinstance(answer, RewriteError) and not answer.is_general and len(different) > 1:
                failures[prompt] = answer
            else:
                raise answer
            if number % _REPORTED == 0 or number == len(different):
                log(f"{number - len(failures)} of {len(different)} prompts rewritten")
    if failures:
        what = f"{len(failures)} of {len(different)} prompts can't be rewritten; the others are kept."
        first = next(failures[prompt] for prompt in different if prompt in failures)
        raise RewriteError(what, _reason(first), "correct them, or try another model")
    return {prompt: done[prompt] for prompt in different}


_Answers = Generator[tuple[str, str | Exception], None, None]


def _asked_in_turn(prompts: Sequence[str], ask: Callable[[str], str | Exception]) -> _Answers:
    """Ask in the caller's thread, which an interrupt stops wherever it is."""
    for prompt in prompts:
        yield prompt, ask(prompt)


def _asked_at_once(prompts: Sequence[str], ask: Callable[[str], str | Exception], threads: int) -> _Answers:
    """Ask from daemon threads, and give answers as they come. Nothing waits for a thread, not even the exit.

    When the caller takes no more answers, no thread begins with another prompt.
    """
    waiting, stop = queue.SimpleQueue[str](), threading.Event()
    answers = queue.SimpleQueue[tuple[str, str | Exception]]()
    for prompt in prompts:
        waiting.put(prompt)

    def ask_next() -> None:
        while not stop.is_set():
            try:
                prompt = waiting.get_nowait()
            except queue.Empty:
                return
            answers.put((prompt, ask(prompt)))

    try:
        for number in range(min(threads, len(prompts))):
            threading.Thread(target=ask_next, name=f"rewriter {number}", daemon=True).start()
        for _ in prompts:
            yield answers.get()
    finally:
        stop.set()


def _reason(error: RewriteError) -> str:
    return "the first: " + next(line.strip().removeprefix("why: ") for line in str(error).splitlines()[1:])
