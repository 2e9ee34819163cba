"""The safety hook: what a checker of prompts and images is, and how checkers are asked.

A checker that fails blocks. So a crash, a missing result or a result of another kind never lets anything through. This
module knows no checker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from PIL import Image

from bitvar import arguments
from bitvar.errors import UsageError
from bitvar.imaging.alpha import flatten

CHECK_FAILED: Final = "check_failed"
"""Category of what is blocked because a checker failed."""


@dataclass(frozen=True)
class SafetyDecision:
    """What a checker decided. It never holds the prompt.

    Attributes:
        allowed: Whether the prompt or the image may pass.
        category: Reason for blocking, in one word such as "violence"; None if it may pass.
    """

    allowed: bool
    category: str | None = None


ALLOWED: Final = SafetyDecision(allowed=True)


@runtime_checkable
class SafetyChecker(Protocol):
    """Decides about prompts before anything is drawn, and about images before anyone sees them."""

    def check_prompt(self, prompt: str) -> SafetyDecision:
        """Decide about a prompt, or a negative prompt."""
        ...

    def check_image(self, image: Image.Image) -> SafetyDecision:
        """Decide about an RGB image: a finished one, or a preview."""
        ...


class SafetyChecks:
    """Several checkers as one, which blocks what any of them blocks or fails at. Without checkers it allows everything.

    Args:
        checkers: `SafetyChecker`s, asked in order until one blocks.

    Raises:
        UsageError: for an object that isn't a checker.
    """

    def __init__(self, checkers: Sequence[Any] = ()) -> None:
        for checker in checkers:
            if not isinstance(checker, SafetyChecker):
                why = f"got {arguments.shown(checker)}"
                raise UsageError("A safety checker has check_prompt and check_image.", why, "give one that has both")
        self.checkers: tuple[SafetyChecker, ...] = tuple(checkers)

    def check_prompt(self, prompt: str) -> SafetyDecision:
        """Decide about a prompt, or a negative prompt."""
        return self._first_block("check_prompt", prompt)

    def check_image(self, image: Image.Image) -> SafetyDecision:
        """Decide about an image. Each checker gets an RGB copy, so none can change what the others or the user see.

        A transparent image is judged as it looks on white.
        """
        return self._first_block("check_image", flatten(image))

    def _first_block(self, method: str, subject: str | Image.Image) -> SafetyDecision:
        for checker in self.checkers:
            given = subject if isinstance(subject, str) else subject.copy()
            try:
                decision = getattr(checker, method)(given)
            except Exception:  # whatever a checker runs into; its text might quote the prompt
                return SafetyDecision(allowed=False, category=CHECK_FAILED)
            if not isinstance(decision, SafetyDecision) or not isinstance(decision.allowed, bool):
                return SafetyDecision(allowed=False, category=CHECK_FAILED)
            if not decision.allowed:
                return decision
        return ALLOWED
