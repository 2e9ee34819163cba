"""`bitvar instruct INSTRUCTION --image FILE`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvar.cli.exit_codes import exit_codes
from bitvar.cli.threads import settle

if TYPE_CHECKING:
    from bitvar.pipeline.instruction_editor import EditedImages, InstructionEditor
    from bitvar.pipeline.record import ImageRecord


def instruct(
    instruction: Annotated[str, typer.Argument(help="What to change, such as 'make the car green'.")],
    image: Annotated[Path, typer.Option("--image", "-i", help="Image to change.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="File, folder or pattern, as for generate.")
    ] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, max=64, help="Number of images.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the first image. Default: random.")] = None,
    editor: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of an editor's adapter. Default: the small one in the package, for icons."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model of the adapter, or without --editor a whole editor, such as VAREdit.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.", show_default=True)] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", show_default=True)] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Change an image as an instruction says, with a model that was trained for it."""
    with exit_codes():
        started = time.perf_counter()
        import secrets

        from bitvar.cli.edit import refuse_to_replace
        from bitvar.cli.image_output import Timings, destinations, report, write_job
        from bitvar.cli.prompt_job import JobSettings, new_job
        from bitvar.pipeline.instruction_editor import InstructionEditor

        first = secrets.randbelow(2**32) if seed is None else seed
        job = new_job(JobSettings(prompt=instruction, seed=first, num_images=num_images))
        targets = destinations(output, [job], many=False)
        refuse_to_replace(targets, [image])
        loaded_editor = InstructionEditor.from_pretrained(editor, model=model, dtype=dtype, device=device)
        settle(loaded_editor.pipeline)
        loaded = time.perf_counter()
        edited = loaded_editor(instruction, image, seed=first, num_images_per_prompt=num_images)
        records = _records(loaded_editor, instruction, image, edited)
        files = write_job(edited.images, records, None if targets is None else targets[0])
        timings = Timings(load=loaded - started, draw=time.perf_counter() - loaded)
        report(files, loaded_editor.pipeline.model_name, timings, as_json=as_json)


def _records(editor: "InstructionEditor", instruction: str, image: Path, edited: "EditedImages") -> "list[ImageRecord]":
    """Make the record of each image; it names the image that was changed by its digest."""
    from bitvar import __version__
    from bitvar.editing.spec import EncodedImage
    from bitvar.pipeline.record import ImageRecord
    from bitvar.sampling.params import SamplingParams

    pipeline = editor.pipeline
    params = pipeline.params_for(SamplingParams().over(editor.settings.defaults))
    shared = {
        "prompt": instruction,
        "guidance_scale": params.guidance_scale,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "model": pipeline.model_name,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": pipeline.device.type,
        "lora": [adapter.model_dump() for adapter in pipeline.used_adapters],
        "edit": {"image_sha256": EncodedImage.of(image).sha256, "method": "instruct", "kept_scales": 0},
    }
    return [
        ImageRecord.of({**shared, "seed": seed, "width": one.width, "height": one.height}, version=__version__)
        for one, seed in zip(edited.images, edited.seeds, strict=True)
    ]
