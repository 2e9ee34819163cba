"""`bitvar tokenizer encode | decode | info`: pictures to bit files and back."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.codec import BitFile, PictureCodec

app = typer.Typer(help="Pictures to bits, and back.", no_args_is_help=True, rich_markup_mode=None)

TokenizerName = Annotated[
    str | None,
    typer.Option("--tokenizer", help="Tokenizer or model folder, or hub id. Default: icons, the one in the package."),
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
        list[Path], typer.Argument(metavar="PICTURE...", help="PNG, JPEG or WebP, or folders of them.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File for one picture; else a folder.")],
    tokenizer: TokenizerName = None,
    scales: Scales = None,
    tile: Tile = 1024,
    dtype: Dtype = "fp32",
    device: Device = "auto",
) -> None:
    """Write the bits of pictures of any size, coarse scales first: such a file may be cut after any scale."""
    with exit_codes():
        from bitvar.codec.pictures import picture_files
        from bitvar.files import atomic_path

        def list_folder(folder: Path) -> list[Path]:
            found, others = picture_files(folder)
            if others:
                typer.echo(f"{folder}: {others} files are no PNG, JPEG or WebP, and are left out", err=True)
            return found

        pairs = _outputs(pictures, output, ".bits", list_folder)
        codec = _load(tokenizer, tile, dtype, device)
        for (_, target), file in zip(
            pairs, codec.encode_many((source for source, _ in pairs), scales=scales), strict=True
        ):
            data = file.to_bytes()
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                temporary.write_bytes(data)
            typer.echo(f"{target}  {_summary(file, len(data))}")


@app.command()
def decode(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Bit files, or folders of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG for one file; else a folder.")],
    tokenizer: TokenizerName = None,
    scales: Scales = None,
    tile: Tile = 1024,
    dtype: Dtype = "fp32",
    device: Device = "auto",
) -> None:
    """Write the pictures of bit files, as PNG. A file that was cut gives a coarser picture, and says so."""
    with exit_codes():
        from bitvar.codec.pictures import read_bitfile
        from bitvar.files import atomic_path

        pairs = _outputs(files, output, ".png", lambda folder: sorted(folder.glob("*.bits")))
        codec = _load(tokenizer, tile, dtype, device)
        for source, target in pairs:
            file = read_bitfile(source)
            if not file.is_whole:
                last, count = len(file.payloads), len(file.header.grids)
                typer.echo(f"{source} ends after scale {last} of {count}: the picture is coarser", err=True)
            image = codec.decode(file, scales=scales)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                image.save(temporary, format="PNG")
            typer.echo(f"{target}  {image.width}x{image.height}")


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

    name = None if tokenizer == "icons" else tokenizer
    return PictureCodec.from_pretrained(name, tile=tile, dtype=dtype, device=device)


def _outputs(sources: list[Path], output: Path, suffix: str, list_folder: Any) -> list[tuple[Path, Path]]:
    """Every file to read with the file to write, refused before anything is read."""
    from bitvar.errors import UsageError, explain

    found = [path for source in sources for path in (list_folder(source) if source.is_dir() else [source])]
    if not found:
        raise UsageError(explain("There is nothing to do.", f"no file is in {sources[0]}", "check the folder"))
    if len(found) == 1 and not sources[0].is_dir() and not output.is_dir():
        if output.suffix.lower() != suffix:
            raise UsageError(explain(f"Can't write {output}.", f"the name does not end in {suffix}", f"use {suffix}"))
        return [(found[0], output)]
    if output.exists() and not output.is_dir():
        raise UsageError(explain(f"{output} is no folder.", f"{len(found)} files need one", "give a folder to -o"))
    pairs = [(path, output / f"{path.stem}{suffix}") for path in found]
    targets: dict[Path, Path] = {}
    for path, target in pairs:
        if target in targets:
            why = f"{targets[target]} would be written there too"
            raise UsageError(explain(f"Can't write {path} to {target}.", why, "encode them to two folders"))
        targets[target] = path
    return pairs


def _summary(file: "BitFile", size: int) -> str:
    pixels = file.header.width * file.header.height
    return f"{file.header.width}x{file.header.height}  {size} bytes  {8 * size / pixels:.3f} bits a pixel"


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
