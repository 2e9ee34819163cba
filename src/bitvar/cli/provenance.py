"""`bitvar provenance show`: the settings inside an image file, and the state of its signed manifest."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say, show_path
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.pipeline.record import ImageRecord
    from bitvar.provenance.manifests import ManifestReport

app = typer.Typer(help="Show where an image came from.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _callback() -> None:
    pass


@app.command(name="show")
def show_provenance(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG, WebP or JPEG file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print the settings that an image file holds, and whether its C2PA manifest is valid, tampered with or missing."""
    with exit_codes():
        from bitvar.errors import UsageError, install_hint
        from bitvar.pipeline.record import read_record
        from bitvar.provenance.manifests import is_installed, read_manifest_file

        record, problem, manifest = None, None, None
        try:
            record = read_record(image)
        except UsageError as error:
            problem = str(error)
        if is_installed() or record is None:
            manifest = read_manifest_file(image)
        else:  # the record needs no package
            say(f"The manifest is not checked; {install_hint('provenance')}", err=True)
        if as_json:
            values = None if record is None else record.model_dump(mode="json", exclude_defaults=True)
            say(json.dumps({"path": str(image), "record": values, "c2pa": _facts(manifest, record)}))
            return
        say(f"{show_path(image)}")
        if problem is not None:
            say(problem.splitlines()[0])
        for name, value in [] if record is None else record.model_dump(mode="json", exclude_defaults=True).items():
            say(f"{name:<16} {value}")
        for name, value in _facts(manifest, record).items():
            say(f"{'c2pa ' + name.replace('_', ' '):<24} {value}")
        if manifest is not None and manifest.state == "valid" and not manifest.trusted:
            say("The signature holds, but nothing vouches for the signer: check who that is.", err=True)


def _facts(manifest: "ManifestReport | None", record: "ImageRecord | None") -> dict[str, Any]:
    facts: dict[str, Any] = {"state": "unchecked" if manifest is None else manifest.state}
    if manifest is None or manifest.state == "none":
        return facts
    facts |= {
        "trusted": manifest.trusted,
        "signer": manifest.signer,
        "generator": manifest.generator,
        "source_type": manifest.source_type,
        "record_matches": record is not None and manifest.matches(record),
        "problems": list(manifest.problems),
    }
    return facts | {name: value for name, value in manifest.facts.items() if name not in facts}
