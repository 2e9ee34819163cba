"""`bitvar models list` and `bitvar models info`: the models on this machine, and what each generates and knows."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes
from bitvar.cli.model_files import pull, push, remove, show_size, verify

if TYPE_CHECKING:
    from bitvar.weights.describe import Description
    from bitvar.weights.local_models import FoundModel
    from bitvar.weights.vocabulary import Vocabulary

app = typer.Typer(help="List, describe, fetch, verify, remove and publish models.", no_args_is_help=True)

_WIDTH = 100
_INDENT = " " * 17


@app.callback()
def _callback() -> None:
    pass


@app.command(name="list")
def list_models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Folders to look into, two levels deep. Default: models and runs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the models and tokenizers in the package, in the hub's cache, and in folders."""
    with exit_codes():
        from bitvar.weights.hub_cache import default_cache
        from bitvar.weights.local_models import find_models

        rows = [_row(model) for model in find_models(folders or [], default_cache())]
        if as_json:
            say(json.dumps(rows))
            return
        width = max(len(row["name"]) for row in rows)
        for row in rows:
            revision = f", revision {row['revision'][:12]}" if row["revision"] else ""
            size = show_size(row["size"])
            say(f"{row['name']:<{width}}  {row['kind']:<9}  {size:>9}  {row['summary']}{revision}")
        say("For details: bitvar models info NAME", err=True)


@app.command()
def info(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Name in `bitvar models list`, folder, or hub id.")
    ] = "",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Describe a model, the sizes it generates and the concepts it knows. Default: the embedded model.

    Of a hub id that was not pulled, only the files that describe it are downloaded.
    """
    with exit_codes():
        facts = _info(name, revision)
        if as_json:
            say(json.dumps(facts))
            return
        knowledge = facts.pop("knows")
        for key, value in facts.items():
            say(_line(key.replace("_", " "), show_size(value) if key == "size_on_disk" else _format(value)))
        if knowledge is not None:
            _print_knowledge(knowledge)


def _info(name: str, revision: str | None) -> dict[str, Any]:
    from bitvar.weights.describe import describe
    from bitvar.weights.hub import is_hub_id, refuse_revision, resolve_model
    from bitvar.weights.hub_cache import default_cache, fetch_description, find_cached, folder_size, plan_download

    more: dict[str, Any] = {}
    if is_hub_id(name) and not Path(name).exists():
        cache = default_cache()
        cached = find_cached(name, revision, cache)
        if cached is None:
            folder = fetch_description(plan_download(name, revision), cache)
            cached = find_cached(name, folder.name, cache)
            assert cached is not None, "it was just downloaded"
        folder = cached.folder
        more = {"revision": cached.commit, "refs": list(cached.refs)}
        if cached.missing:
            more["not_downloaded"] = f"{len(cached.missing)} files: bitvar models pull {name}"
    else:
        folder = resolve_model(name or None)
        refuse_revision(revision, folder, "model")
    facts = _facts(describe(folder))
    knows = facts.pop("knows")
    return facts | {"size_on_disk": folder_size(folder)} | more | {"knows": knows}


def _row(model: "FoundModel") -> dict[str, Any]:
    """Describe a model in a line; one that can't be read is listed as damaged."""
    from bitvar.errors import WeightsError
    from bitvar.weights.describe import describe
    from bitvar.weights.hub_cache import folder_size

    row: dict[str, Any] = {"name": model.name, "kind": "unknown", "place": model.place, "folder": str(model.folder)}
    row |= {"revision": model.revision, "complete": not model.missing, "size": folder_size(model.folder)}
    try:
        description = describe(model.folder)
    except WeightsError as error:
        return row | {"parameters": {}, "summary": f"damaged: {str(error).splitlines()[0]}"}
    summary = _summary(description)
    if model.missing:
        summary = f"{len(model.missing)} files missing: bitvar models pull {model.name}"
    return row | {"kind": description.kind, "parameters": description.parameters, "summary": summary}


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


app.command()(pull)
app.command()(verify)
app.command(name="rm")(remove)
app.command()(push)
