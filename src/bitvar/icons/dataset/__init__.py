"""A captioned set of emoji scenes, built from openly licensed icon packages."""

from bitvar.icons.dataset.build import IconSetSummary, build_icon_set

__all__ = ["IconSetSummary", "build_icon_set"]
