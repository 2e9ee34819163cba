"""`bitvar tokenizer encode | decode | info`: pictures to bit files and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.codec import BitFile, PictureCodec
    from bitvar.codec.folders import Done

app = typer.Typer(help="Pictures to bits, and back.", no_args_is_help=True, rich_markup_mode=None)

TokenizerName = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Tokenizer or model folder, hub id, or one in the package: pictures, or fine, of four times the bits."
        " Default: pictures; to decode, the one in the package that made the first file.",
    ),
]
Scales = Annotated[int | None, typer.Option(min=1, help="Use the first ones only, for a coarser picture.")]
Tile = Annotated[int, typer.Option(min=64, help="Pixels; larger pictures than its square pass in tiles of that side.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


@app.callback()
def _callback() -> None:
    pass


@app.command()
def encode(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE...", help="PNG, JPEG or WebP, or folders of them, at any depth.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File for one picture; else a folder.")],
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
    dtype: Dtype = "fp32",
    device: Device = "auto",
) -> None:
    """Write the bits of pictures of any size, coarse scales first: such a file may be cut after any scale.

    A file that is there, whole, of this tokenizer and newer than its picture is not made again, whatever the passes.
    """
    with exit_codes():
        from bitvar.codec.folders import encode_files, pair_files
        from bitvar.codec.pictures import picture_files

        pairs = pair_files(pictures, output, ".bits", _list(picture_files, "PNG, JPEG or WebP"))
        codec = _load(tokenizer, tile, dtype, device)
        for done in encode_files(codec, pairs, scales=scales, passes=passes):
            typer.echo(f"{done.target}  {_summary(done.file, done.target.stat().st_size)}{_kept(done)}")


@app.command()
def decode(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Bit files, or folders of them, at any depth.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG for one file; else a folder.")],
    tokenizer: TokenizerName = None,
    scales: Scales = None,
    tile: Tile = 1024,
    dtype: Dtype = "fp32",
    device: Device = "auto",
) -> None:
    """Write the pictures of bit files, as PNG. A file that was cut gives a coarser picture, and says so.

    A picture that is there and was made of these very bits is not made again.
    """
    with exit_codes():
        from bitvar.codec.folders import bit_files, decode_files, pair_files

        pairs = pair_files(files, output, ".png", _list(bit_files, ".bits"))
        codec = _load(tokenizer or _maker(pairs[0][0]), tile, dtype, device)
        for done in decode_files(codec, pairs, scales=scales):
            if not done.file.is_whole:
                last, count = len(done.file.payloads), len(done.file.header.grids)
                typer.echo(f"{done.source} ends after scale {last} of {count}: the picture is coarser", err=True)
            typer.echo(f"{done.target}  {done.file.header.width}x{done.file.header.height}{_kept(done)}")


@app.command()
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bit file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Check a bit file, and say what is in it."""
    with exit_codes():
        from bitvar.codec.pictures import read_bitfile

        read = read_bitfile(file)
        facts = _facts(read, file.stat().st_size)
        if as_json:
            typer.echo(json.dumps(facts))
            return
        scales = facts.pop("scales")
        for key, value in facts.items():
            typer.echo(f"{key:<15} {value}")
        for k, scale in enumerate(scales):
            there = "" if scale["present"] else "  missing"
            typer.echo(
                f"{f'scale {k + 1}':<15} {scale['grid'][1]}x{scale['grid'][0]} cells, {scale['bytes']} bytes{there}"
            )


def _load(tokenizer: str | None, tile: int, dtype: str, device: str) -> "PictureCodec":
    from bitvar.codec import PictureCodec

    return PictureCodec.from_pretrained(tokenizer, tile=tile, dtype=dtype, device=device)


def _maker(file: Path) -> str | None:
    """The tokenizer in the package that made a bit file; None where it can't be told, as of a damaged one."""
    from bitvar.checkpoints.folder import TokenizerIdentity
    from bitvar.checkpoints.hub import TOKENIZERS
    from bitvar.codec.pictures import read_bitfile
    from bitvar.errors import UsageError

    try:
        made_by = read_bitfile(file).header.sha256
        for folder in TOKENIZERS:
            if TokenizerIdentity.load(folder / "identity.json").bits_sha256 == made_by:
                return folder.name
    except UsageError:
        pass  # decoding it will say why
    return None


def _list(files_of: Callable[[Path], tuple[list[Path], int]], kinds: str) -> Callable[[Path], list[Path]]:
    """List a folder, and say how many files of it are left out."""

    def list_folder(folder: Path) -> list[Path]:
        found, others = files_of(folder)
        if others:
            typer.echo(f"{folder}: {others} files are no {kinds}, and are left out", err=True)
        return found

    return list_folder


def _summary(file: "BitFile", size: int) -> str:
    pixels = file.header.width * file.header.height
    return f"{file.header.width}x{file.header.height}  {size} bytes  {8 * size / pixels:.3f} bits a pixel"


def _kept(done: "Done") -> str:
    return "  was there" if done.kept else ""


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
        "whole": file.is_whole,
        "scales": [
            {"grid": list(grid), "bytes": length, "present": k < len(file.payloads)}
            for k, (grid, length) in enumerate(zip(header.grids, header.lengths(), strict=True))
        ],
    }
