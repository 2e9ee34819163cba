"""The commands that score the images of published benchmarks: `bitvar evaluate geneval score` and its siblings."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli import field
from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.evaluation.benchmarks.base import Benchmark, EvalPrompt, Score, Table
    from bitvar.evaluation.benchmarks.scoring import MakeOwnScorer

Scorer = Annotated[
    str,
    typer.Option(help="transformers: networks through transformers; own: the published scorer in its own environment."),
]
Python = Annotated[
    str | None,
    typer.Option(help="Command that runs Python with the published scorer's packages. Default: uv run --isolated."),
]
Checkout = Annotated[Path | None, typer.Option(help="Clone of the published scorer's repository, for --scorer own.")]
PrintCommand = Annotated[
    bool, typer.Option("--print-command", help="Print the published scorer's command; run nothing.")
]
Collect = Annotated[bool, typer.Option("--collect", help="Read the results of a printed command that ran elsewhere.")]


@dataclass(frozen=True)
class Choices:
    """The options that every command has."""

    folder: Path
    output: Path | None
    prompts: Path | None
    scorer: str
    python: str | None
    print_command: bool
    collect: bool
    as_json: bool

    @property
    def prefix(self) -> Sequence[str] | None:
        """The command that runs Python, in words."""
        import shlex

        return None if self.python is None else shlex.split(self.python)


@dataclass(frozen=True)
class Own:
    """A published scorer."""

    name: str
    make: "MakeOwnScorer"
    summarise: "Callable[[Sequence[Score]], Table]"


def score_images(
    name: str,
    choices: Choices,
    *,
    networks: "Callable[[Sequence[EvalPrompt]], Benchmark] | None",
    own: Own,
    images_per_prompt: int | None = None,
) -> None:
    """Score a folder and print the report.

    Args:
        name: Name of the benchmark.
        choices: Options.
        networks: Function that loads the scorer of `--scorer transformers`; None if there is none.
        own: The published scorer.
        images_per_prompt: Images in a file, for DPG-Bench.
    """
    from bitvar.config import unknown
    from bitvar.errors import UsageError
    from bitvar.evaluation.benchmarks.base import JudgeInfo
    from bitvar.evaluation.benchmarks.scoring import (
        ImageFolder,
        OwnBenchmark,
        find_images,
        score_benchmark,
        scores_folder,
    )

    known = ["own"] if networks is None else ["transformers", "own"]
    if choices.scorer not in known:
        raise UsageError(unknown("scorer", choices.scorer, known))
    for option, given in (
        ("--print-command", choices.print_command),
        ("--collect", choices.collect),
        ("--python", choices.python),
    ):
        if given and choices.scorer != "own":
            raise UsageError(
                f"{option} needs --scorer own.", "transformers' networks run in this process", "add --scorer own"
            )
    folder = ImageFolder.open(choices.folder, field.layout_of(name))
    layout = field.layout_of(name, images_per_prompt if folder.settings is None else folder.settings.images_per_prompt)
    prompts = layout.read_prompts(choices.prompts)
    found = find_images(folder, layout, prompts)
    judge = JudgeInfo(own.name)
    if choices.print_command:
        place = choices.output or scores_folder(folder, choices.scorer, judge)
        for variant, images in found.items():
            scorer = own.make(folder.variants[variant].absolute(), images, (place / f"{variant}-own").absolute())
            scorer.prepare()
            typer.echo(scorer.command)
        return
    if choices.scorer == "transformers":
        assert networks is not None
        scorer = networks(prompts.prompts)
        judge = scorer.judge
    else:
        scorer = OwnBenchmark(name, judge, own.make, own.summarise)

    def log(text: str) -> None:
        say(text, err=True)

    output = choices.output or scores_folder(folder, choices.scorer, judge)
    report = score_benchmark(scorer, layout, prompts, folder, output, collect=choices.collect, log=log)
    if choices.as_json:
        typer.echo(json.dumps(report))
    else:
        field.print_report(report)
        say(f"report: {output / 'report.json'}")


def _package(name: str, own_scorer: Callable[..., Any], choices: Choices) -> Own:
    """Describe a published package that is given the files of images, each with its prompt."""
    from bitvar.evaluation.generation.intervals import by_skill

    def make(images: Path, listed: Any, scratch: Path) -> Any:
        del images
        return own_scorer(listed, scratch, prefix=choices.prefix)

    return Own(name, make, by_skill)


def _need(path: Path | None, option: str, what: str, how: str) -> Path:
    from bitvar.errors import UsageError

    if path is None:
        raise UsageError(f"Add {option}.", f"this scorer needs {what}", f"get it: {how}")
    return path.absolute()


def _device(name: str) -> str:
    from bitvar.runtime.placement import resolve_device

    return resolve_device(name).type


def geneval(
    folder: field.Folder,
    output: field.Output = None,
    prompts: field.Prompts = None,
    scorer: Scorer = "transformers",
    detector: Annotated[
        str, typer.Option(help="Mask2Former for COCO: folder or hub id.")
    ] = "facebook/mask2former-swin-small-coco-instance",
    clip: Annotated[str, typer.Option(help="CLIP for colours: folder or hub id.")] = "openai/clip-vit-large-patch14",
    checkout: Checkout = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of mmdet's checkpoint, for --scorer own.")] = None,
    python: Python = None,
    print_command: PrintCommand = False,
    collect: Collect = False,
    device: field.Device = "auto",
    as_json: field.AsJson = False,
) -> None:
    """Judge images by GenEval's rules: objects, counts, colours, positions."""
    with exit_codes():
        from bitvar.evaluation.benchmarks import geneval as module
        from bitvar.evaluation.generation.intervals import by_skill

        choices = Choices(folder, output, prompts, scorer, python, print_command, collect, as_json)

        def make(images: Path, listed: Any, scratch: Path) -> Any:
            del listed
            clone = _need(checkout, "--checkout", "a clone", "git clone https://github.com/djghosh13/geneval")
            place = _need(weights, "--weights", "the detector", f"{clone}/evaluation/download_models.sh FOLDER")
            return module.own_scorer(images, scratch, checkout=clone, weights=place, prefix=choices.prefix)

        score_images(
            "geneval",
            choices,
            networks=lambda chosen: module.mask2former_benchmark(
                chosen, detector=detector, clip=clip, device=_device(device)
            ),
            own=Own("djghosh13/geneval evaluate_images.py", make, by_skill),
        )


def geneval2(
    folder: field.Folder,
    output: field.Output = None,
    prompts: field.Prompts = None,
    scorer: Scorer = "transformers",
    vqa_model: Annotated[
        str, typer.Option(help="Chat model that sees images: folder or hub id.")
    ] = "Qwen/Qwen3-VL-8B-Instruct",
    checkout: Checkout = None,
    python: Python = None,
    print_command: PrintCommand = False,
    collect: Collect = False,
    dtype: Annotated[str, typer.Option(help="Precision of the network: auto, fp32, bf16 or fp16.")] = "auto",
    device: field.Device = "auto",
    as_json: field.AsJson = False,
) -> None:
    """Score images by GenEval 2's Soft-TIFA: the probability of the right answer to each question."""
    with exit_codes():
        from bitvar.evaluation.benchmarks import geneval2 as module
        from bitvar.runtime.placement import resolve_device, resolve_dtype

        choices = Choices(folder, output, prompts, scorer, python, print_command, collect, as_json)
        kind = resolve_dtype(dtype, resolve_device(device))

        def make(images: Path, listed: Any, scratch: Path) -> Any:
            clone = _need(checkout, "--checkout", "a clone", "git clone https://github.com/facebookresearch/GenEval2")
            used = list({image.prompt.id: image.prompt for image in listed}.values())
            return module.own_scorer(images, scratch, used, checkout=clone, prefix=choices.prefix)

        score_images(
            "geneval2",
            choices,
            networks=lambda chosen: module.chat_benchmark(chosen, model=vqa_model, device=_device(device), dtype=kind),
            own=Own("facebookresearch/GenEval2 evaluation.py", make, module.summarise_answers),
        )


def dpg(
    folder: field.Folder,
    output: field.Output = None,
    prompts: field.Prompts = None,
    questions: Annotated[Path | None, typer.Option(help="dpg_bench.csv of ELLA.")] = None,
    scorer: Scorer = "transformers",
    vqa_model: Annotated[
        str, typer.Option(help="BLIP for question answering: folder or hub id.")
    ] = "Salesforce/blip-vqa-capfilt-large",
    images_per_file: Annotated[
        int, typer.Option(min=1, max=4, help="Images in a file of a folder made elsewhere: 4 in a grid, or 1.")
    ] = 4,
    checkout: Checkout = None,
    python: Python = None,
    print_command: PrintCommand = False,
    collect: Collect = False,
    device: field.Device = "auto",
    as_json: field.AsJson = False,
) -> None:
    """Score images by DPG-Bench's questions; one counts only if those that it depends on are answered with yes."""
    with exit_codes():
        from bitvar.evaluation.benchmarks import dpg as module

        choices = Choices(folder, output, prompts, scorer, python, print_command, collect, as_json)
        how = "git clone https://github.com/TencentQQGYLab/ELLA; it is dpg_bench/dpg_bench.csv"

        def make(images: Path, listed: Any, scratch: Path) -> Any:
            clone = _need(checkout, "--checkout", "a clone", "git clone https://github.com/TencentQQGYLab/ELLA")
            return module.own_scorer(images, scratch, listed, checkout=clone, prefix=choices.prefix)

        def networks(chosen: "Sequence[EvalPrompt]") -> Any:
            asked = _need(questions, "--questions", "DPG-Bench's questions", how)
            count = _images_in_a_file(folder, images_per_file)
            return module.blip_benchmark(
                chosen, questions=asked, model=vqa_model, device=_device(device), grid=count > 1
            )

        own = Own("TencentQQGYLab/ELLA compute_dpg_bench.py", make, module.summarise_questions)
        score_images("dpg", choices, networks=networks, own=own, images_per_prompt=images_per_file)


def _images_in_a_file(folder: Path, given: int) -> int:
    from bitvar.evaluation.benchmarks.scoring import ImageFolder

    settings = ImageFolder.open(folder, field.layout_of("dpg")).settings
    return given if settings is None else settings.images_per_prompt


def hpsv2(
    folder: field.Folder,
    output: field.Output = None,
    prompts: field.Prompts = None,
    scorer: Scorer = "transformers",
    checkpoint: Annotated[Path | None, typer.Option(help="HPS_v2.1_compressed.pt, or safetensors of it.")] = None,
    tokenizer: Annotated[
        str, typer.Option(help="CLIP's tokenizer: folder or hub id.")
    ] = "openai/clip-vit-large-patch14",
    python: Python = None,
    print_command: PrintCommand = False,
    collect: Collect = False,
    device: field.Device = "auto",
    as_json: field.AsJson = False,
) -> None:
    """Score images by HPSv2.1: 100 times the cosine of image and prompt."""
    with exit_codes():
        from bitvar.evaluation.benchmarks import hpsv2 as module

        choices = Choices(folder, output, prompts, scorer, python, print_command, collect, as_json)

        def networks(chosen: "Sequence[EvalPrompt]") -> Any:
            how = "hf download xswu/HPSv2 HPS_v2.1_compressed.pt --local-dir ."
            path = _need(checkpoint, "--checkpoint", "its weights", how)
            return module.hps_benchmark(chosen, checkpoint=path, tokenizer=tokenizer, device=_device(device))

        score_images(
            "hpsv2",
            choices,
            networks=networks,
            own=_package("the package hpsv2, version 2.1", module.own_scorer, choices),
        )


def hpsv3(
    folder: field.Folder,
    output: field.Output = None,
    prompts: field.Prompts = None,
    scorer: Annotated[str, typer.Option(help="own: the published scorer in its own environment.")] = "own",
    python: Python = None,
    print_command: PrintCommand = False,
    collect: Collect = False,
    as_json: field.AsJson = False,
) -> None:
    """Score images by HPSv3, a network of 7 billion parameters, in an environment of its own."""
    with exit_codes():
        from bitvar.evaluation.benchmarks import hpsv3 as module

        choices = Choices(folder, output, prompts, scorer, python, print_command, collect, as_json)

        score_images(
            "hpsv3", choices, networks=None, own=_package("the package hpsv3 1.0.0", module.own_scorer, choices)
        )


def imagereward(
    folder: field.Folder,
    output: field.Output = None,
    prompts: field.Prompts = None,
    scorer: Scorer = "transformers",
    checkpoint: Annotated[Path | None, typer.Option(help="ImageReward.pt, or safetensors of it.")] = None,
    tokenizer: Annotated[
        str, typer.Option(help="BERT's tokenizer: folder or hub id.")
    ] = "google-bert/bert-base-uncased",
    python: Python = None,
    print_command: PrintCommand = False,
    collect: Collect = False,
    device: field.Device = "auto",
    as_json: field.AsJson = False,
) -> None:
    """Score images by ImageReward: about 0 on average and 1 apart, over the authors' images."""
    with exit_codes():
        from bitvar.evaluation.benchmarks import imagereward as module

        choices = Choices(folder, output, prompts, scorer, python, print_command, collect, as_json)

        def networks(chosen: "Sequence[EvalPrompt]") -> Any:
            how = "hf download THUDM/ImageReward ImageReward.pt --local-dir ."
            path = _need(checkpoint, "--checkpoint", "its weights", how)
            return module.imagereward_benchmark(chosen, checkpoint=path, tokenizer=tokenizer, device=_device(device))

        score_images(
            "imagereward",
            choices,
            networks=networks,
            own=_package("the package image-reward 1.5", module.own_scorer, choices),
        )


SCORES: dict[str, Callable[..., None]] = {
    "geneval": geneval,
    "geneval2": geneval2,
    "dpg": dpg,
    "hpsv2": hpsv2,
    "hpsv3": hpsv3,
    "imagereward": imagereward,
}
"""The scoring command of each benchmark."""
