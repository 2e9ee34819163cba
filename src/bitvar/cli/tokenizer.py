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

app = typer.Typer(help="Encode images to bits, and decode them.", no_args_is_help=True, rich_markup_mode=None)

TokenizerName = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Tokenizer or model folder, hub id, or a tokenizer in the package: general, or fine (four times the bits)."
        " Default: general; to decode, the packaged tokenizer that made the first file.",
    ),
]
Scales = Annotated[
    int | None,
    typer.Option(min=1, help="Number of scales, from the coarsest; fewer give a coarser image."),
]
Tile = Annotated[
    int,
    typer.Option(
        min=64, help="Side of a tile in pixels. Images with more pixels than one tile are processed in tiles."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="In a folder, also replace files that this command did not make.")
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
            help="PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or HEIC files, or folders, searched at any depth.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File, for one image; else a folder.")],
    tokenizer: TokenizerName = None,
    scales: Scales = None,
    refine_steps: Annotated[
        int,
        typer.Option(
            min=0,
            help="Steps of iterative refinement: decode, correct the input by the error, and encode again. Each step"
            " improves the image and takes as long as one encoding and decoding. Try 8.",
        ),
    ] = 0,
    tile: Tile = 1024,
    overwrite: Overwrite = False,
    dtype: Dtype = "fp32",
    device: Device = "auto",
) -> None:
    """Encode images of any size to bit files, coarse scales first. A bit file may be truncated after any scale.

    A bit file made from the same image by the same tokenizer with the same settings is kept. If some of several
    images can't be used, the command names them, writes the others and exits with code 1.
    """
    with exit_codes():
        from bitvar.codec.folders import encode_files, image_files, pair_files

        pairs = pair_files(images, output, ".bits", _list(image_files))
        codec = _load(tokenizer, tile, dtype, device)
        named = _is_named(images, output)
        results = encode_files(codec, pairs, scales=scales, refine_steps=refine_steps, overwrite=overwrite or named)
        for done in _successes(results, len(pairs), single=named):
            size = done.target.stat().st_size
            say(f"{show_path(done.target)}  {_summary(done.file, size)}{_state(done)}")


@app.command()
def decode(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Bit files, or folders, searched at any depth.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG file, for one bit file; else a folder.")],
    tokenizer: TokenizerName = None,
    scales: Scales = None,
    tile: Tile = 1024,
    overwrite: Overwrite = False,
    dtype: Dtype = "fp32",
    device: Device = "auto",
) -> None:
    """Decode bit files to PNG images. A truncated file gives a coarser image and a notice.

    An image decoded from the same bits is kept. In a folder, a PNG that was not decoded from bits is not replaced. If
    some of several files can't be decoded, the command names them, writes the others and exits with code 1.
    """
    with exit_codes():
        from bitvar.codec.folders import bit_files, decode_files, pair_files

        pairs = pair_files(files, output, ".png", _list(bit_files))
        codec = _load(tokenizer or _packaged_maker(source for source, _ in pairs), tile, dtype, device)
        named = _is_named(files, output)
        results = decode_files(codec, pairs, scales=scales, overwrite=overwrite or named)
        for done in _successes(results, len(pairs), single=named):
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
    """Verify a bit file and describe its content."""
    with exit_codes():
        from bitvar.codec.reading import read_bitfile

        read = read_bitfile(file)
        facts = _facts(read, file.stat().st_size)
        if as_json:
            typer.echo(json.dumps(facts))
            return
        scales = facts.pop("scales")
        for key, value in facts.items():
            say(f"{key:<15} {value}")
        for k, scale in enumerate(scales):
            missing = "" if scale["present"] else "  missing"
            typer.echo(
                f"{f'scale {k + 1}':<15} {scale['grid'][1]}x{scale['grid'][0]} cells, {scale['bytes']} bytes{missing}"
            )


def _load(tokenizer: str | None, tile: int, dtype: str, device: str) -> "ImageCodec":
    from bitvar.codec import ImageCodec

    return ImageCodec.from_pretrained(tokenizer, tile=tile, dtype=dtype, device=device)


def _packaged_maker(files: Iterable[Path]) -> str | None:
    """Find the packaged tokenizer that made the first readable bit file; None if none of them did."""
    from bitvar.codec.reading import read_bitfile
    from bitvar.errors import UsageError
    from bitvar.weights.hub import TOKENIZERS
    from bitvar.weights.identity import TokenizerIdentity

    for file in files:
        try:
            made_by = read_bitfile(file).header.sha256
        except UsageError:
            continue  # decoding reports the error
        for folder in TOKENIZERS:
            if TokenizerIdentity.load(folder / "identity.json").bits_sha256 == made_by:
                return str(folder)
        return None
    return None


def _list(files_of: "Callable[[Path], tuple[list[Path], Skipped]]") -> Callable[[Path], list[Path]]:
    """Wrap a function that lists a folder, so that it reports the files it leaves out."""

    def list_folder(folder: Path) -> list[Path]:
        files, skipped = files_of(folder)
        if description := skipped.describe():
            say(f"{show_path(folder)}: {description}", err=True)
        for path, why in skipped.problems:
            say(f"left out: {show_path(path)}: {why}", err=True)
        return files

    return list_folder


def _is_named(sources: list[Path], output: Path) -> bool:
    """Whether the user named the single file to write. That file may be replaced, whatever it contains."""
    return len(sources) == 1 and not sources[0].is_dir() and not output.is_dir()


def _successes(results: "Iterator[Done | Failed]", total: int, *, single: bool) -> "Iterator[Done]":
    """Yield the files that succeeded and report the others, which make the command fail at the end.

    Args:
        results: Results of all files.
        total: Number of files.
        single: Whether the user named a single file; its error is then raised as it is.
    """
    from bitvar.codec.folders import Done, summary

    failed = 0
    for result in results:
        if isinstance(result, Done):
            yield result
        elif single:
            raise result.error
        else:
            failed += 1
            say(f"left out: {show_path(result.source)}: {summary(result.error)}", err=True)
    if failed:
        say(f"{failed:,} of {total:,} files failed; the others are written", err=True)
        raise typer.Exit(RUNTIME)


def _summary(file: "BitFile", size: int) -> str:
    pixels = file.header.width * file.header.height
    return f"{file.header.width}x{file.header.height}  {size} bytes  {8 * size / pixels:.3f} bits a pixel"


def _state(done: "Done") -> str:
    if done.kept:
        return "  unchanged"
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
        "refine_steps": None if file.origin is None else file.origin.refine_steps,
        "precision": None if file.origin is None else file.origin.precision,
        "whole": file.is_whole,
        "scales": [
            {"grid": list(grid), "bytes": size, "present": k < len(file.payloads)}
            for k, (grid, size) in enumerate(zip(header.grids, header.payload_sizes(), strict=True))
        ],
    }
