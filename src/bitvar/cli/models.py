"""`bitvar models list` and `bitvar models info`: which models there are, and what one of them draws and knows."""

import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.weights.describe import Description
    from bitvar.weights.vocabulary import Vocabulary

app = typer.Typer(help="Models and tokenizers: which there are, and what they know.", no_args_is_help=True)

_WIDTH = 100
_INDENT = " " * 17


@app.callback()
def _callback() -> None:
    pass


@app.command(name="list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the models and tokenizers that come with the package."""
    with exit_codes():
        from bitvar.weights.describe import describe
        from bitvar.weights.hub import EMBEDDED_MODEL, TOKENIZERS

        described = {folder.name: describe(folder) for folder in (EMBEDDED_MODEL, *TOKENIZERS)}
        if as_json:
            rows = [{"name": name, "kind": one.kind, "parameters": one.parameters} for name, one in described.items()]
            say(json.dumps(rows))
            return
        for name, one in described.items():
            say(f"{name:<10} {one.kind:<10} {_summary(one)}")
        say("More of one: bitvar models info NAME", err=True)


@app.command()
def info(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="A name of `bitvar models list`, a folder, or a hub id.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what a model is, what sizes it draws and what it knows. Default: the embedded model."""
    with exit_codes():
        from bitvar.weights.describe import describe
        from bitvar.weights.hub import resolve_model

        facts = _facts(describe(resolve_model(name or None)))
        if as_json:
            say(json.dumps(facts))
            return
        known = facts.pop("knows")
        for key, value in facts.items():
            say(_line(key.replace("_", " "), _plain(value)))
        if known is not None:
            _print_known(known)


def _summary(one: "Description") -> str:
    parameters = f"{sum(one.parameters.values()) / 1e6:.1f} M parameters"
    if one.kind == "tokenizer":
        return f"images of any size, {one.bits} bits a cell of {one.stride} x {one.stride} pixels, {parameters}"
    sizes = ", ".join(f"{width}x{height}" for width, height in one.sizes[:3]) + (", ..." if len(one.sizes) > 3 else "")
    knows = f", {len(one.vocabulary.concepts)} concepts" if one.vocabulary else ""
    return f"text to image, {sizes}{knows}, {parameters}"


def _facts(one: "Description") -> dict[str, Any]:
    """What is printed of a folder, in order; `knows` is None where the folder doesn't say."""
    facts: dict[str, Any] = {
        "name": one.name,
        "kind": one.kind,
        "folder": str(one.folder),
        "digest": one.digest[:12],
        "parameters": one.parameters,
        "precision": one.precision,
        "tokenizer": f"{one.tokenizer.name} (sha256 {one.tokenizer.sha256[:12]})",
        "bits_per_cell": one.bits,
        "stride": one.stride,
    }
    if one.kind == "model":
        facts |= {
            "sizes": [f"{width}x{height}" for width, height in one.sizes],
            "text_encoder": one.text_encoder or "none: convert the model again with --text-encoder",
            "longest_prompt": f"{one.max_prompt} tokens",
            "defaults": asdict(one.defaults) if one.defaults else {},
        }
    facts |= {"licence": one.licence or "see the card", "card": str(one.card) if one.card else "none"}
    return facts | {"knows": one.vocabulary and _known(one.vocabulary)}


def _known(vocabulary: "Vocabulary") -> dict[str, Any]:
    by_category: dict[str, list[str]] = {}
    for concept in vocabulary.concepts:
        by_category.setdefault(concept.category, []).append(concept.name)
    return {
        "concepts": by_category,
        "styles": list(vocabulary.styles),
        "colours": list(vocabulary.colours),
        "backgrounds": list(vocabulary.backgrounds),
        "counts": list(vocabulary.counts),
        "layouts": {layout.name: layout.example for layout in vocabulary.layouts},
    }


def _print_known(known: dict[str, Any]) -> None:
    say(f"\nIt knows {sum(map(len, known['concepts'].values()))} concepts:")
    for category, names in known["concepts"].items():
        say(_line(category, ", ".join(names)))
    say("\nA prompt may also name:")
    for key in ("styles", "colours", "backgrounds", "counts"):
        say(_line(key, ", ".join(known[key])))
    say("\nLayouts, each with a prompt that asks for it:")
    for name, example in known["layouts"].items():
        say(f"{name:<27} bitvar generate {json.dumps(example)}")


def _line(key: str, text: str) -> str:
    return textwrap.fill(
        text,
        width=_WIDTH,
        initial_indent=f"{key:<16} ",
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
