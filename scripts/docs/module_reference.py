"""Write a page of the API reference for each room of the package, and one for the public names.

Pages hold only directives; Sphinx's autodoc fills them from the docstrings. The file knows nothing of Sphinx's run.
"""

import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import bitvar

PACKAGE: Final = Path(bitvar.__file__).parent
CORE: Final = "core"
ROOMS: Final = (
    CORE, "nn", "tokenizer", "transformer", "sampling", "editing", "pipeline", "codec", "weights", "lora", "metrics",
)  # fmt: skip
"""Rooms with a page: whoever builds on the model calls these."""
FURTHER: Final = {
    "training": (
        "bitvar.training.config", "bitvar.training.recipes", "bitvar.training.transformer.self_correction",
        "bitvar.training.engine.loop", "bitvar.training.engine.optim",
    ),
    "evaluation": ("bitvar.evaluation.benchmarks.base", "bitvar.evaluation.generation.evaluate",
                   "bitvar.evaluation.reconstruction.evaluate"),
    "data": ("bitvar.data.samples", "bitvar.data.records", "bitvar.data.index", "bitvar.data.order"),
}  # fmt: skip
"""Modules of other rooms that docs/python.md and docs/model.md send their readers to."""

INDEX: Final = """# Modules

The rooms of the package that programs build on. [Structure](../../structure.md) is the map of all of them: what each is
for, and who may import whom. Only the [public API](../public-api.md) is promised to stay.

```{{toctree}}
{rooms}
```
"""


@functools.cache
def public_names() -> dict[str, str]:
    """Return the dotted name behind each public name: `bitvar.train` is `bitvar.training.assemble.train`."""
    homes = {}
    for name in bitvar.__all__:
        value = getattr(bitvar, name)
        if hasattr(value, "__module__"):
            homes[f"{value.__module__}.{value.__qualname__}"] = f"bitvar.{name}"
    return homes


def modules() -> dict[str, list[str]]:
    """Return the modules of each room, by their dotted names."""
    rooms: dict[str, list[str]] = {room: [] for room in ROOMS}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PACKAGE).with_suffix("").parts
        if names == ("__init__",):
            continue
        room = names[0] if len(names) > 1 else CORE
        if room in rooms:
            rooms[room].append(".".join(("bitvar", *names)).removesuffix(".__init__"))
    return rooms | {room: list(names) for room, names in FURTHER.items()}


def public_page() -> str:
    """Return the page of the names that `bitvar` itself exports."""
    classes, functions = [], []
    for name in bitvar.__all__:
        value = getattr(bitvar, name)
        if isinstance(value, type):
            classes.append(name)
        elif callable(value):
            functions.append(name)
    lines = [
        "# The public API",
        "",
        "These names can be imported from `bitvar` itself: `from bitvar import InfinityPipeline`. Everything else is",
        "documented by [room](api/index.md); [from Python](../python.md) shows the calls in use.",
        "",
    ]
    lines += [block for name in functions for block in _directive("autofunction", f"bitvar.{name}")]
    lines += [block for name in classes for block in _directive("autoclass", f"bitvar.{name}")]
    return "\n".join(lines)


def room_page(room: str, names: list[str]) -> str:
    """Return the page of a room: every module with its docstring and its public members."""
    module = importlib.import_module(f"bitvar.{room}") if room != CORE else None
    title = f"bitvar.{room}" if module else "The core"
    lines = [f"# {title}", ""]
    for name in names:
        if module is not None and name == module.__name__:
            lines += _directive("automodule", name, "no-members")
            continue
        lines += [f"## {name}", "", *_directive("automodule", name)]
    return "\n".join(lines)


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every page, below the folder of generated pages."""
    yield "public-api.md", public_page()
    rooms = modules()
    listed = "\n".join(rooms)
    yield "api/index.md", INDEX.format(rooms=listed)
    for room, names in rooms.items():
        yield f"api/{room}.md", room_page(room, names)


def _directive(directive: str, name: str, *options: str) -> list[str]:
    inside = [f".. {directive}:: {name}", *(f"   :{option}:" for option in options)]
    return ["```{eval-rst}", *inside, "```", ""]
