"""What going through captioned images found, as text for people and as JSON for programs."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitvar.data.records import Rejected
    from bitvar.data.validation import Summary

_EXAMPLES = 3


def as_json(summary: "Summary") -> dict[str, Any]:
    """Counts by split, ratio and reason, and quantiles of sizes and captions."""
    from bitvar.data.validation import quantiles

    return {
        "accepted": summary.accepted,
        "rejected": dict(summary.rejected.most_common()),
        "splits": dict(summary.splits.most_common()),
        "ratios": dict(summary.ratios.most_common()),
        "shorter_side": quantiles(summary.sides),
        "caption_words": quantiles(summary.captions),
        "other_files": dict(summary.other_files.most_common()),
    }


def as_text(summary: "Summary") -> str:
    """The same for people, without the reasons."""
    total = f"{summary.accepted:,} samples accepted, {summary.num_rejected:,} rejected ({summary.bad_fraction:.1%})"
    other_files = other_files_text(summary)
    return "\n".join([total, *_counts(summary), *([other_files] if other_files else [])])


def other_files_text(summary: "Summary") -> str:
    """Files that are no part of any sample, by kind; nothing for none."""
    from bitvar.data.layouts import kinds_text

    return _shown(kinds_text(summary.other_files))


def found_text(summary: "Summary", rejected: "Sequence[Rejected]", *, everything_is_reported: bool) -> str:
    """The same for people, with the first few rejected samples of every reason."""
    first, *rest = as_text(summary).splitlines()
    lines = [first]
    for reason, count in summary.rejected.most_common():
        lines.append(f"  {reason}: {count:,}")
        examples = [rejection for rejection in rejected if rejection.reason == reason][:_EXAMPLES]
        lines += [f"    {_shown(rejection.name)}: {_shown(rejection.detail)}" for rejection in examples]
    if any(count > _EXAMPLES for count in summary.rejected.values()) and not everything_is_reported:
        lines.append("  all of them: --report FILE")
    return "\n".join([*lines, *rest])


def _counts(summary: "Summary") -> list[str]:
    from bitvar.data.validation import quantiles

    lines = []
    for title, counts in (("shorter side, pixels", summary.sides), ("words a caption", summary.captions)):
        if counts:
            lines.append(f"{title}: " + ", ".join(f"{name} {value}" for name, value in quantiles(counts).items()))
    for title, named in (("nearest ratio (height / width)", summary.ratios), ("split", _named(summary.splits))):
        if named:
            lines.append(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in named.most_common()))
    return lines


def _named(splits: Counter[str]) -> Counter[str]:
    return Counter({name or "none given": count for name, count in splits.items()})


def _shown(text: str) -> str:
    """A stranger's text as one line of characters that any terminal shows."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
