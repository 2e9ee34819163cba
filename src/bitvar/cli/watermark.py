"""`bitvar watermark new-key | detect`: keys of watermarks, and the test of images for them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say, show_path
from bitvar.cli.exit_codes import RUNTIME, exit_codes

if TYPE_CHECKING:
    from bitvar.provenance.detection import Detection

app = typer.Typer(
    help="Make keys of watermarks, and detect watermarks in images.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _callback() -> None:
    pass


@app.command(name="new-key")
def new_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Key file to write. An existing file is refused.")],
    delta: Annotated[
        float | None,
        typer.Option(min=0.1, max=20, help="Strength: shift of a bit's log-odds, before the temperature. Default: 3."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=0, max=8, help="Number of preceding bits that a green list depends on. Default: 0."),
    ] = None,
    first_scale: Annotated[
        int | None, typer.Option(min=0, max=63, help="Index of the first scale to mark, from 0. Default: 3.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Make a secret key. Keep the file: it is needed to detect the watermark, and nobody can make it again."""
    with exit_codes():
        from bitvar.provenance.key_files import write_key
        from bitvar.sampling.watermark import Watermark

        given = {"delta": delta, "context": context, "first_scale": first_scale}
        watermark = Watermark.new(**{name: value for name, value in given.items() if value is not None})  # pyright: ignore[reportArgumentType]
        write_key(watermark, file)
        if as_json:
            say(json.dumps({"file": str(file), "key": watermark.key_id}))
            return
        say(f"{show_path(file)}  key {watermark.key_id}")
        say("Keep this file secret, and keep a copy: it is needed to detect the watermark.", err=True)


@app.command()
def detect(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="Key file of `bitvar watermark new-key`.")],
    model: Annotated[
        str | None, typer.Option(help="Model that drew the images: name, folder or hub id. Default: icons.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model's hub id. Default: the main branch.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer folder or hub id that makes the same bits. Default: the model's.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT at which the model drew the images. Default: its size nearest to the file's."),
    ] = None,
    false_positive_rate: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of images without the watermark that may count as marked.")
    ] = 0.001,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Test images for the watermark of a key. A file that isn't an image is named, and the exit code is then 1."""
    with exit_codes():
        from bitvar.errors import UsageError
        from bitvar.pipeline.sizes import parse_size
        from bitvar.provenance.detection import WatermarkDetector, threshold
        from bitvar.provenance.key_files import read_key

        limit, watermark = threshold(false_positive_rate), read_key(key)
        native = None if size is None else parse_size(size).in_pixels((1, 1))
        detector = WatermarkDetector.from_pretrained(model, revision=revision, tokenizer=tokenizer, device=device)
        rows: list[dict[str, Any]] = []
        failed = 0
        for path in images:
            try:
                result = detector.detect_file(path, watermark, size=native)
            except UsageError as error:
                if len(images) == 1:
                    raise
                say(f"left out: {error}", err=True)
                failed += 1
                continue
            rows.append(_row(path, result, false_positive_rate))
            if not as_json:
                say(_line(rows[-1], result))
        rate = {"false_positive_rate": false_positive_rate, "threshold": round(limit, 4)}
        if as_json:
            say(json.dumps({"key": watermark.key_id, **rate, "images": rows}))
        else:
            say(
                f"key {watermark.key_id}; marked above z {limit:.2f}, wrongly in {false_positive_rate:g} of images",
                err=True,
            )
        if failed:
            raise typer.Exit(RUNTIME)


def _row(path: Path, detection: "Detection", false_positive_rate: float) -> dict[str, Any]:
    return {
        "path": str(path),
        "watermark": detection.is_marked(false_positive_rate),
        "z": round(detection.count.z, 4),
        "p_value": detection.count.p_value,
        "green_bits": detection.count.green,
        "tested_bits": detection.count.total,
        "size": list(detection.size),
        "native_size": list(detection.native_size),
        "resized": detection.resized,
    }


def _line(row: dict[str, Any], detection: "Detection") -> str:
    state = "watermark" if row["watermark"] else "no watermark detected"
    count = detection.count
    text = f"{show_path(row['path'])}  {state}  z {count.z:.2f}  p {count.p_value:.2g}"
    text += f"  {count.green} of {count.total} bits are green"
    if detection.resized:
        text += f"  resized from {row['size'][0]}x{row['size'][1]} to {row['native_size'][0]}x{row['native_size'][1]}"
    return text
