"""The public names of bitvar as text: what `docs/stability.md` promises to keep.

`python -m tests.support.public_api` writes the file again, after a change that was decided on.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

import bitvar
from bitvar.cli.main import app

ROOT = Path(bitvar.__file__).parent
FILE = Path(__file__).parent.parent / "unit" / "house" / "public_api.txt"

PYTHON = (
    "bitvar",
    "bitvar.integrations.comfyui",
    "bitvar.integrations.diffusers",
    "bitvar.pipeline",
    "bitvar.provenance",
)
"""Modules whose `__all__` is public."""


def public_api() -> str:
    """Describe the public API: Python names with their signatures, then commands with their options."""
    lines = [
        "# Public names of bitvar. A change here is a decision: see docs/stability.md.",
        "# Write it again: python -m tests.support.public_api",
    ]
    for module in PYTHON:
        lines += ["", f"## {module}", ""]
        for name in _exported(module):
            lines += _described(name, module)
    lines += ["", "## Commands", ""]
    lines += _commands(typer.main.get_command(app), "bitvar")
    return "\n".join(lines) + "\n"


def _described(name: str, module: str) -> Iterator[str]:
    node = _find(module, name)
    if isinstance(node, ast.FunctionDef):
        yield f"{name}{_signature(node)}"
    elif isinstance(node, ast.ClassDef):
        yield f"class {name}({', '.join(ast.unparse(base) for base in node.bases)})"
        yield from (f"    {line}" for line in _members(node))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict):
        yield f"{name}: {', '.join(ast.unparse(key) for key in node.value.keys if key)}"
    else:
        yield name


def _find(module: str, name: str) -> ast.stmt | None:
    """Find where a name is defined, following imports without carrying them out."""
    tree = _parse(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return node
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return _find(node.module, name)
    return None


def _parse(module: str) -> ast.Module:
    place = ROOT.joinpath(*module.split(".")[1:])
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _exported(module: str) -> list[str]:
    """Return the `__all__` of a module, sorted."""
    for node in _parse(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


def _members(node: ast.ClassDef) -> Iterator[str]:
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and not ast.unparse(part.target).startswith("_"):
            yield re.sub(r"\s+", " ", ast.unparse(part))
        elif isinstance(part, ast.FunctionDef) and (part.name in ("__init__", "__call__") or part.name[0] != "_"):
            decorators = {ast.unparse(decorator) for decorator in part.decorator_list}
            if decorators & {"property", "cached_property"}:
                result = f" -> {ast.unparse(part.returns)}" if part.returns else ""
                yield f"{part.name}{result}"
            elif not any(decorator.startswith(("field_validator", "model_validator")) for decorator in decorators):
                yield f"{part.name}{_signature(part)}"


def _signature(node: ast.FunctionDef) -> str:
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){result}"


def _commands(command: Any, path: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], f"{path} {name}")
        return
    options = sorted(
        "/".join((*parameter.opts, *parameter.secondary_opts))
        for parameter in command.params
        if parameter.param_type_name == "option"
    )
    arguments = [str(parameter.name).upper() for parameter in command.params if parameter.param_type_name != "option"]
    yield " ".join((path, *arguments))
    yield from (f"    {option}" for option in options)


if __name__ == "__main__":
    FILE.write_text(public_api(), encoding="utf-8", newline="\n")
