"""Options for several prompts in one image, and for images between two seeds."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bitvar.editing.spec import MixedPrompt, MixedSeed
from bitvar.errors import UsageError

Value = TypeVar("Value")


def read_mix(regions: Sequence[str], switches: Sequence[str], towards: Sequence[str]) -> tuple[MixedPrompt, ...] | None:
    """Read the values of `--region`, `--switch` and `--towards`; None if there are none.

    Raises:
        UsageError: A value can't be read, or is out of range.
    """
    mix = [
        *(_read("--region", text, _region, "0.5,0,0.5,1:a blue fish") for text in regions),
        *(_read("--switch", text, _switch, "3:a blue fish") for text in switches),
        *(_read("--towards", text, _towards, "0.5:a blue fish") for text in towards),
    ]
    return tuple(mix) or None


def read_mixed_seed(text: str | None) -> MixedSeed | None:
    """Read the value of `--towards-seed`, such as 7 or 7:0.3.

    Raises:
        UsageError: The value can't be read, or is out of range.
    """
    return None if text is None else _read("--towards-seed", text, _mixed_seed, "7:0.3")


def _read(option: str, text: str, read: Callable[[str, str], Value], example: str) -> Value:
    try:
        return read(option, text)
    except UsageError:
        raise
    except ValueError:
        raise UsageError(f"Can't read {option} {text!r}.", fix=f"write {example!r}") from None


def _region(option: str, text: str) -> MixedPrompt:
    box, prompt = _split(text)
    return MixedPrompt.parse({"box": _numbers(box), "prompt": prompt}, source=f"{option} {text!r}")


def _switch(option: str, text: str) -> MixedPrompt:
    scale, prompt = _split(text)
    number = int(scale)
    if number < 1:
        raise UsageError(f"{option} {text!r} names no scale.", "scales are counted from 1", "write 3:a blue fish")
    return MixedPrompt.parse({"first_scale": number - 1, "prompt": prompt}, source=f"{option} {text!r}")


def _towards(option: str, text: str) -> MixedPrompt:
    weight, prompt = _split(text)
    return MixedPrompt.parse({"weight": _weight(weight), "prompt": prompt}, source=f"{option} {text!r}")


def _mixed_seed(option: str, text: str) -> MixedSeed:
    seed, _, weight = text.partition(":")
    values: dict[str, Any] = {"seed": int(seed), **({"weight": _weight(weight)} if weight else {})}
    return MixedSeed.parse(values, source=f"{option} {text!r}")


def _split(text: str) -> tuple[str, str]:
    left, colon, right = text.partition(":")
    if not colon or not right.strip():
        raise ValueError("there is no prompt behind a colon")
    return left, right.strip()


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _weight(text: str) -> float | tuple[float, ...]:
    values = _numbers(text)
    return values[0] if len(values) == 1 else values
