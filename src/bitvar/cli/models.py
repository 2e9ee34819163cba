"""`bitvar models list` and `bitvar models info`: the available models, and what each generates and knows."""

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

app = typer.Typer(help="List and describe models and tokenizers.", no_args_is_help=True)

_WIDTH = 100
_INDENT = " " * 17


@app.callback()
def _callback() -> None:
    pass


@app.command(name="list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the models and tokenizers in the package."""
    with exit_codes():
        from bitvar.weights.describe import describe
        from bitvar.weights.hub import EMBEDDED_MODEL, TOKENIZERS

        models = {folder.name: describe(folder) for folder in (EMBEDDED_MODEL, *TOKENIZERS)}
        if as_json:
            rows = [
                {"name": name, "kind": model.kind, "parameters": model.parameters} for name, model in models.items()
            ]
            say(json.dumps(rows))
            return
        for name, model in models.items():
            say(f"{name:<10} {model.kind:<10} {_summary(model)}")
        say("For details: bitvar models info NAME", err=True)


@app.command()
def info(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Name in `bitvar models list`, folder, or hub id.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Describe a model, the sizes it generates and the concepts it knows. Default: the embedded model."""
    with exit_codes():
        from bitvar.weights.describe import describe
        from bitvar.weights.hub import resolve_model

        facts = _facts(describe(resolve_model(name or None)))
        if as_json:
            say(json.dumps(facts))
            return
        knowledge = facts.pop("knows")
        for key, value in facts.items():
            say(_line(key.replace("_", " "), _format(value)))
        if knowledge is not None:
            _print_knowledge(knowledge)


def _summary(description: "Description") -> str:
    parameters = f"{sum(description.parameters.values()) / 1e6:.1f} M parameters"
    if description.kind == "tokenizer":
        side = description.stride
        return f"images of any size, {description.bits} bits a cell of {side} x {side} pixels, {parameters}"
    more = ", ..." if len(description.sizes) > 3 else ""
    sizes = ", ".join(f"{width}x{height}" for width, height in description.sizes[:3]) + more
    knows = f", {len(description.vocabulary.concepts)} concepts" if description.vocabulary else ""
    return f"text to image, {sizes}{knows}, {parameters}"


def _facts(description: "Description") -> dict[str, Any]:
    """Collect what is printed about a folder, in order. `knows` is None if the folder has no vocabulary."""
    facts: dict[str, Any] = {
        "name": description.name,
        "kind": description.kind,
        "folder": str(description.folder),
        "digest": description.digest[:12],
        "parameters": description.parameters,
        "precision": description.precision,
        "tokenizer": f"{description.tokenizer.name} (sha256 {description.tokenizer.sha256[:12]})",
        "bits_per_cell": description.bits,
        "stride": description.stride,
    }
    if description.kind == "model":
        facts |= {
            "sizes": [f"{width}x{height}" for width, height in description.sizes],
            "text_encoder": description.text_encoder or "none: convert the model again with --text-encoder",
            "longest_prompt": f"{description.max_prompt} tokens",
            "defaults": asdict(description.defaults) if description.defaults else {},
        }
    facts |= {
        "licence": description.licence or "see the card",
        "card": str(description.card) if description.card else "none",
    }
    return facts | {"knows": description.vocabulary and _knowledge(description.vocabulary)}


def _knowledge(vocabulary: "Vocabulary") -> dict[str, Any]:
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


def _print_knowledge(knowledge: dict[str, Any]) -> None:
    say(f"\nIt knows {sum(map(len, knowledge['concepts'].values()))} concepts:")
    for category, names in knowledge["concepts"].items():
        say(_line(category, ", ".join(names)))
    say("\nA prompt may also name:")
    for key in ("styles", "colours", "backgrounds", "counts"):
        say(_line(key, ", ".join(knowledge[key])))
    say("\nLayouts, each with a prompt that asks for it:")
    for name, example in knowledge["layouts"].items():
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


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_format(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
