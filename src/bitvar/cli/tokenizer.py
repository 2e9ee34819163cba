"""`bitvar tokenizer encode | decode | info`: images to bit files and back."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say, show_path
from bitvar.cli.exit_codes import RUNTIME, exit_codes

if TYPE_CHECKING:
    from bitvar.codec import BitFile, ImageCodec
    from bitvar.codec.folders import Done, Failed
    from bitvar.data.walking import Skipped

app = typer.Typer(help="Images to bits, and back.", no_args_is_help=True, rich_markup_mode=None)

TokenizerName = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Tokenizer or model folder, hub id, or one in the package: images, or fine, of four times the bits."
        " Default: images; to decode, the one in the package that made the first file.",
    ),
]
Scales = Annotated[int | None, typer.Option(min=1, help="Use the first ones only, for a coarser image.")]
Tile = Annotated[int, typer.Option(min=64, help="Pixels; larger images than its square pass in tiles of that side.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="In a folder, replace files too that were not made by this command.")
]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


@app.callback()
def _callback() -> None:
    pass


@app.command()
def encode(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or HEIC files, or folders of them, at any depth.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File for one image; else a folder.")],
    tokenizer: TokenizerName = None,
    scales: Scales = None,
    passes: Annotated[
        int,
        typer.Option(
            min=0,
            help="Times to look at what comes back, correct what goes in, and encode again: closer, and slower. Try 8.",
        ),
    ] = 0,
    tile: Tile = 1024,
    overwrite: Overwrite = False,
    dtype: Dtype = "fp32",
    device: Device = "auto",
) -> None:
    """Write the bits of images of any size, coarse scales first: such a file may be cut after any scale.

    A file that is there and was made of the same image by the same tokenizer with the same settings is not made
    again. Of several images, those that can't be used are named, the others are written, and the exit code is 1.
    """
    with exit_codes():
        from bitvar.codec.folders import encode_files, pair_files
        from bitvar.codec.image_codec import image_files

        pairs = pair_files(images, output, ".bits", _list(image_files))
        codec = _load(tokenizer, tile, dtype, device)
        named = _is_named(images, output)
        run = encode_files(codec, pairs, scales=scales, passes=passes, overwrite=overwrite or named)
        for done in _each(run, len(pairs), alone=named):
            size = done.target.stat().st_size
            say(f"{show_path(done.target)}  {_summary(done.file, size)}{_state(done)}")


@app.command()
def decode(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Bit files, or folders of them, at any depth.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG for one file; else a folder.")],
    tokenizer: TokenizerName = None,
    scales: Scales = None,
    tile: Tile = 1024,
    overwrite: Overwrite = False,
    dtype: Dtype = "fp32",
    device: Device = "auto",
) -> None:
    """Write the images of bit files, as PNG. A file that was cut gives a coarser image, and says so.

    An image that is there and was made of these very bits is not made again. In a folder, a PNG that was not decoded
    from bits is not replaced. Of several files, those that can't be decoded are named, and the exit code is 1.
    """
    with exit_codes():
        from bitvar.codec.folders import bit_files, decode_files, pair_files

        pairs = pair_files(files, output, ".png", _list(bit_files))
        codec = _load(tokenizer or _maker(source for source, _ in pairs), tile, dtype, device)
        named = _is_named(files, output)
        run = decode_files(codec, pairs, scales=scales, overwrite=overwrite or named)
        for done in _each(run, len(pairs), alone=named):
            header = done.file.header
            if not done.file.is_whole:
                last, count = len(done.file.payloads), len(header.grids)
                say(f"{show_path(done.source)} ends after scale {last} of {count}: the image is coarser", err=True)
            say(f"{show_path(done.target)}  {header.width}x{header.height}{_state(done)}")


@app.command()
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bit file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Check a bit file, and say what is in it."""
    with exit_codes():
        from bitvar.codec.image_codec import read_bitfile

        read = read_bitfile(file)
        facts = _facts(read, file.stat().st_size)
        if as_json:
            typer.echo(json.dumps(facts))
            return
        scales = facts.pop("scales")
        for key, value in facts.items():
            say(f"{key:<15} {value}")
        for k, scale in enumerate(scales):
            there = "" if scale["present"] else "  missing"
            typer.echo(
                f"{f'scale {k + 1}':<15} {scale['grid'][1]}x{scale['grid'][0]} cells, {scale['bytes']} bytes{there}"
            )


def _load(tokenizer: str | None, tile: int, dtype: str, device: str) -> "ImageCodec":
    from bitvar.codec import ImageCodec

    return ImageCodec.from_pretrained(tokenizer, tile=tile, dtype=dtype, device=device)


def _maker(files: Iterable[Path]) -> str | None:
    """The tokenizer in the package that made the first of the bit files that can be read; None if it isn't there."""
    from bitvar.codec.image_codec import read_bitfile
    from bitvar.errors import UsageError
    from bitvar.weights.hub import TOKENIZERS
    from bitvar.weights.model_folder import TokenizerIdentity

    for file in files:
        try:
            made_by = read_bitfile(file).header.sha256
        except UsageError:
            continue  # decoding it will say why
        for folder in TOKENIZERS:
            if TokenizerIdentity.load(folder / "identity.json").bits_sha256 == made_by:
                return str(folder)
        return None
    return None


def _list(files_of: "Callable[[Path], tuple[list[Path], Skipped]]") -> Callable[[Path], list[Path]]:
    """List a folder, and say what else is in it."""

    def list_folder(folder: Path) -> list[Path]:
        found, skipped = files_of(folder)
        if said := skipped.describe():
            say(f"{show_path(folder)}: {said}", err=True)
        for place, why in skipped.problems:
            say(f"left out: {show_path(place)}: {why}", err=True)
        return found

    return list_folder


def _is_named(sources: list[Path], output: Path) -> bool:
    """Whether the user named the one file that is written; it may then be replaced, whatever it is."""
    return len(sources) == 1 and not sources[0].is_dir() and not output.is_dir()


def _each(run: "Iterator[Done | Failed]", total: int, *, alone: bool) -> "Iterator[Done]":
    """What was done of a run. What could not be done is named, and after the last one makes the command fail."""
    from bitvar.codec.folders import Done, summary

    failed = 0
    for each in run:
        if isinstance(each, Done):
            yield each
        elif alone:
            raise each.error
        else:
            failed += 1
            say(f"left out: {show_path(each.source)}: {summary(each.error)}", err=True)
    if failed:
        say(f"{failed:,} of {total:,} files failed; the others are written", err=True)
        raise typer.Exit(RUNTIME)


def _summary(file: "BitFile", size: int) -> str:
    pixels = file.header.width * file.header.height
    return f"{file.header.width}x{file.header.height}  {size} bytes  {8 * size / pixels:.3f} bits a pixel"


def _state(done: "Done") -> str:
    if done.kept:
        return "  was there"
    return "  replaced other bits" if done.replaced else ""


def _facts(file: "BitFile", size: int) -> dict[str, Any]:
    header = file.header
    return {
        "width": header.width,
        "height": header.height,
        "tokenizer": header.tokenizer,
        "sha256": header.sha256,
        "bits_per_cell": header.bits,
        "stride": header.stride,
        "bytes": size,
        "bits_per_pixel": round(8 * size / (header.width * header.height), 4),
        "source_sha256": None if file.origin is None else file.origin.sha256,
        "passes": None if file.origin is None else file.origin.passes,
        "precision": None if file.origin is None else file.origin.precision,
        "whole": file.is_whole,
        "scales": [
            {"grid": list(grid), "bytes": length, "present": k < len(file.payloads)}
            for k, (grid, length) in enumerate(zip(header.grids, header.lengths(), strict=True))
        ],
    }
