"""Reports on captioned images, as text and as JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitvar.data.records import Rejected
    from bitvar.data.validation import Summary

_EXAMPLES = 3


def as_json(summary: "Summary") -> dict[str, Any]:
    """Return counts by split, ratio and reason, and quantiles of image sizes and caption lengths."""
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
    """Return the same as text, without the reasons."""
    total = f"{summary.accepted:,} samples accepted, {summary.num_rejected:,} rejected ({summary.bad_fraction:.1%})"
    other_files = other_files_text(summary)
    return "\n".join([total, *_counts(summary), *([other_files] if other_files else [])])


def other_files_text(summary: "Summary") -> str:
    """Return the files that belong to no sample by kind, as text; empty for none."""
    from bitvar.data.layouts import kinds_text

    return _shown(kinds_text(summary.other_files))


def check_text(summary: "Summary", rejected: "Sequence[Rejected]", *, everything_is_reported: bool) -> str:
    """Return the report as text, with the first few rejected samples for each reason."""
    first, *rest = as_text(summary).splitlines()
    lines = [first]
    for reason, count in summary.rejected.most_common():
        lines.append(f"  {reason}: {count:,}")
        examples = [rejection for rejection in rejected if rejection.reason == reason][:_EXAMPLES]
        lines += [f"    {_shown(rejection.name)}: {_shown(rejection.detail)}" for rejection in examples]
    if any(count > _EXAMPLES for count in summary.rejected.values()) and not everything_is_reported:
        lines.append("  to list all of them: --report FILE")
    return "\n".join([*lines, *rest])


def _counts(summary: "Summary") -> list[str]:
    from bitvar.data.validation import quantiles

    lines = []
    for title, counts in (("shorter side, pixels", summary.sides), ("words per caption", summary.captions)):
        if counts:
            lines.append(f"{title}: " + ", ".join(f"{name} {value}" for name, value in quantiles(counts).items()))
    for title, named in (("nearest ratio (height / width)", summary.ratios), ("split", _named(summary.splits))):
        if named:
            lines.append(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in named.most_common()))
    return lines


def _named(splits: Counter[str]) -> Counter[str]:
    return Counter({name or "(none)": count for name, count in splits.items()})


def _shown(text: str) -> str:
    """Escape an untrusted text to one line that any terminal can show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def written_text(summary: "Summary", size: tuple[int, int]) -> str:
    """Return a line on a captioned set that was written, such as "40 images of 64x64 pixels: 38 train, 2 val"."""
    splits = ", ".join(f"{count:,} {name}" for name, count in summary.splits.most_common())
    return f"{summary.accepted:,} images of {size[0]}x{size[1]} pixels: {splits}"
