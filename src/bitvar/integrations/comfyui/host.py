"""What the nodes ask of ComfyUI: a progress bar with previews, whether to stop, and where models may be."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bitvar.errors import WeightsError
from bitvar.pipeline import ScaleEvent
from bitvar.weights.describe import describe
from bitvar.weights.hub_cache import default_cache
from bitvar.weights.local_models import find_models

_PREVIEW: Final = 512
"""Longest side of a preview in pixels."""


@dataclass(frozen=True)
class Watcher:
    """Shows each scale in ComfyUI, and raises ComfyUI's exception once the user interrupts.

    Attributes:
        bar: Progress bar of ComfyUI.
        stop_if_interrupted: Function of ComfyUI that raises if the user interrupted.
        drawings: Number of drawings that share the bar.
        index: Index of this drawing.
    """

    bar: Any
    stop_if_interrupted: Callable[[], None]
    drawings: int = 1
    index: int = 0

    def __call__(self, event: ScaleEvent) -> None:
        """Show a scale: its share of the work, and a preview of the first image."""
        self.stop_if_interrupted()
        done, total = self.index * event.tokens_total + event.tokens_done, self.drawings * event.tokens_total
        image = event.only(0).preview()[0].convert("RGB")
        self.bar.update_absolute(done, total, ("JPEG", image, _PREVIEW))
        self.stop_if_interrupted()

    def drawing(self, index: int) -> "Watcher":
        """Return the watcher of one of the drawings."""
        return Watcher(self.bar, self.stop_if_interrupted, self.drawings, index)


def watch(drawings: int = 1) -> Watcher:
    """Make a watcher for the node that runs now."""
    from comfy.model_management import throw_exception_if_processing_interrupted  # pyright: ignore[reportMissingImports]
    from comfy.utils import ProgressBar  # pyright: ignore[reportMissingImports]

    return Watcher(ProgressBar(1), throw_exception_if_processing_interrupted, drawings)


def model_names() -> list[str]:
    """List the models that can draw: in the package, in the hub's cache, and in ComfyUI's folder `models/bitvar`."""
    roots: list[Path] = []
    try:
        import folder_paths  # pyright: ignore[reportMissingImports]

        roots = [folder for folder in [Path(folder_paths.models_dir) / "bitvar"] if folder.is_dir()]
    except ImportError:  # outside ComfyUI
        pass
    names = []
    for model in find_models(roots, default_cache()):
        try:
            drawable = describe(model.folder).kind == "model" and not model.missing
        except WeightsError:
            drawable = False
        if drawable:
            names.append(model.name)
    return names
