r"""Measure self-correction: bits of a coarse scale are flipped, and the model draws all finer scales.

python experiments/corruption.py docs/images/self-correction.png --data data/icons64 \
    --run on=runs/on --run off=runs/off --run plain=runs/plain

For each validation image, the scales before k are given as its true bits, scale k as its true bits with a share of
them flipped, and each model draws the finer scales greedily, without guidance, from the image's own caption. All models
get the same flips. The result is compared with the image, not with its bits, since other bits repair a mistake.

Two references need no model. "repaired": the finer bits, requantised from the residual that the mistake leaves.
"unrepaired": the image's own finer bits, which are the targets of a model that is trained on true bits from corrupted
inputs. The third metric is the most direct: of the bits of scale k + 1 on which the two references disagree, the share
in which the model agrees with the repair. Even for a weak model, half is chance level and more is repair.

A few minutes on one CPU core for 100 images and three models of a million parameters. Writes the plot and, beside
it, a JSON file of the same name; prints the table.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from bitvar import pyramid
from bitvar.condition import TextCondition
from bitvar.data.samples import load_images, read_samples
from bitvar.errors import UsageError
from bitvar.files import atomic_path, write_text
from bitvar.imaging.pixels import to_signed
from bitvar.metrics.distances import psnr
from bitvar.pipeline import InfinityPipeline
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.generate import generate
from bitvar.sampling.params import SamplingParams
from bitvar.scales import Grid, ScaleSchedule
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training.engine.microbatch import Purpose, draw_uniform, make_generator

RATES: Final = (0.0, 0.05, 0.1, 0.2, 0.3)
REFERENCES: Final = ("repaired", "unrepaired")
BATCH: Final = 50
GREEDY: Final = SamplingParams(guidance_scale=1.0, temperature=0.0)
PANELS: Final = {"error": "error of the latent", "psnr": "PSNR, dB", "sided": "agrees with the repair"}


@dataclass(frozen=True)
class Outcome:
    """The results of one kind of mistake.

    Attributes:
        name: Name of the model, or one of `REFERENCES`.
        scale: Scale whose bits were flipped, from 0.
        rate: Share of flipped bits.
        error: Squared distance of the final latent from the features, relative to their squared norm.
        psnr: PSNR in dB of the decoded latent against the tokenizer's reconstruction of the image.
        sided: Of the next scale's bits on which the two references disagree, the share that agrees with the repair;
            None if the references agree.
    """

    name: str
    scale: int
    rate: float
    error: float
    psnr: float
    sided: float | None


Bits = list[Bool[Tensor, "b d _ _"]]


@dataclass(frozen=True)
class Mistake:
    """Images with one corrupted scale.

    Attributes:
        scale: Scale whose bits are flipped.
        given: Bits of the scales up to it.
        repaired, unrepaired: Bits of every scale, beginning with the given ones.
    """

    scale: int
    given: Bits
    repaired: Bits
    unrepaired: Bits


def make_mistake(
    features: Float[Tensor, "b d h w"],
    grids: Sequence[Grid],
    *,
    code_norms: Sequence[float] | None = None,
    scale: int,
    rate: float,
    generators: Sequence[torch.Generator],
) -> Mistake:
    """Flip each bit of one scale with probability `rate`; a larger rate flips those of a smaller one, and more."""
    true = [step.bits for step in pyramid.encode(features, grids, code_norms)]
    flipped = true[scale] ^ (draw_uniform(generators, *true[scale].shape[1:]) < rate).to(features.device)
    given = [*true[:scale], flipped]
    again = pyramid.encode(features, grids, code_norms, flip=lambda k, bits: flipped if k == scale else bits)
    repaired = [*given, *(step.bits for step in list(again)[scale + 1 :])]
    return Mistake(scale, given, repaired, [*given, *true[scale + 1 :]])


def answer(pipeline: InfinityPipeline, condition: TextCondition, schedule: ScaleSchedule, given: Bits) -> Bits:
    """Return every scale's bits: the given ones, and finer ones as the model draws them."""
    drawn = generate(
        pipeline.transformer,
        condition,
        schedule,
        params=GREEDY,
        seeds=[0] * condition.batch,  # nothing is random in a greedy draw
        constraint=PrefixBits(given),
    )
    return [result.bits for result in drawn]


@torch.no_grad()
def compare(
    bits: Bits,
    mistake: Mistake,
    features: Tensor,
    grids: Sequence[Grid],
    *,
    tokenizer: InfinityTokenizer,
    reconstruction: Tensor,
) -> Float[Tensor, "4"]:
    """Sum over the images, in fp64: error, PSNR, bits that agree with the repair, bits on which references disagree."""
    latent = tokenizer.decode_latent(bits, grids)
    error = (latent - features).square().flatten(1).sum(1) / features.square().flatten(1).sum(1)
    decibels = psnr(tokenizer.decode(latent), reconstruction)
    after = mistake.scale + 1
    disagree = mistake.repaired[after] ^ mistake.unrepaired[after]
    sided = (bits[after] == mistake.repaired[after]) & disagree
    return torch.stack(
        [error.double().sum(), decibels.double().sum(), sided.sum().double(), disagree.sum().double()]
    ).cpu()


def measure(
    pipelines: Mapping[str, InfinityPipeline], data: Path, *, num_images: int, rates: Sequence[float] = RATES
) -> tuple[list[Outcome], int]:
    """Measure all results; return them with the number of images.

    Raises:
        UsageError: if the models don't share a tokenizer.
    """
    first = next(iter(pipelines.values()))
    if len({pipeline.components.index.tokenizer.bits_sha256 for pipeline in pipelines.values()}) > 1:
        why = "they were trained with different tokenizers"
        raise UsageError("These models can't be given the same bits.", why, "compare models of one tokenizer")
    config = first.transformer.config
    schedule = config.all_schedules()[0]
    grids, code_norms = schedule.latent_grids(config.patch_size), config.all_code_norms()[0]
    samples = read_samples(data, split="val")
    chosen = samples[:: max(1, len(samples) // num_images)][:num_images]  # all over the split
    sums: dict[tuple[str, int, float], Tensor] = {}
    for start in range(0, len(chosen), BATCH):
        part = chosen[start : start + BATCH]
        with torch.no_grad():
            features = first.tokenizer.features(to_signed(load_images(part))).float()
            *_, last = first.tokenizer.encode_scales(features, grids)
            reconstruction = first.tokenizer.decode(last.latent)
        conditions = {name: each.encode_prompts([s.captions[0] for s in part]) for name, each in pipelines.items()}
        for scale in range(len(schedule) - 1):
            for rate in rates:
                numbers = range(start, start + len(part))
                draws = [make_generator(scale, number, Purpose.FLIP) for number in numbers]
                mistake = make_mistake(features, grids, code_norms=code_norms, scale=scale, rate=rate, generators=draws)
                answers = {"repaired": mistake.repaired, "unrepaired": mistake.unrepaired}
                for name, pipeline in pipelines.items():
                    answers[name] = answer(pipeline, conditions[name], schedule, mistake.given)
                for name, bits in answers.items():
                    found = compare(
                        bits, mistake, features, grids, tokenizer=first.tokenizer, reconstruction=reconstruction
                    )
                    sums[name, scale, rate] = sums.get((name, scale, rate), torch.zeros(4).double()) + found
    return list(_means(sums, len(chosen))), len(chosen)


def _means(sums: Mapping[tuple[str, int, float], Tensor], count: int) -> Iterator[Outcome]:
    for (name, scale, rate), total in sums.items():
        error, decibels, sided, disagree = total.tolist()
        yield Outcome(name, scale, rate, error / count, decibels / count, sided / disagree if disagree else None)


def table(outcomes: Sequence[Outcome]) -> str:
    """Write a row for each scale and rate: the error of the latent and, in brackets, the agreement with the repair."""
    names = list(dict.fromkeys(each.name for each in outcomes))
    lines = [f"| flipped scale | share flipped | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2)]
    cells = {(each.scale, each.rate, each.name): each for each in outcomes}
    for scale, rate in dict.fromkeys((each.scale, each.rate) for each in outcomes):
        row = " | ".join(describe(cells[scale, rate, name]) for name in names)
        lines.append(f"| {scale + 1} | {100 * rate:g} % | {row} |")
    return "\n".join(lines)


def describe(outcome: Outcome) -> str:
    """Write a cell of the table."""
    sided = "" if outcome.sided is None or outcome.name in REFERENCES else f" ({100 * outcome.sided:.0f} %)"
    return f"{outcome.error:.3f}{sided}"


def draw(outcomes: Sequence[Outcome]) -> Figure:
    """Draw a row for each metric, a column for each flipped scale, and a line for each model."""
    scales = sorted({each.scale for each in outcomes})
    figure = Figure(figsize=(3.3 * len(scales), 2.6 * len(PANELS)), layout="constrained")
    grid = figure.subplots(len(PANELS), len(scales), sharex=True, sharey="row", squeeze=False)
    for row, key in enumerate(PANELS):
        for column, scale in enumerate(scales):
            axes = grid[row, column]
            axes.spines[["top", "right"]].set_visible(False)
            if key == "sided":
                axes.axhline(50, color="#999999", linewidth=0.8)
            for name in dict.fromkeys(each.name for each in outcomes):
                line = [each for each in outcomes if (each.name, each.scale) == (name, scale)]
                reference = name in REFERENCES
                points = [(100 * each.rate, value_of(each, key)) for each in line if not (reference and key == "sided")]
                known = [(x, y) for x, y in points if y is not None] or [(float("nan"), float("nan"))]
                style = {"color": "#666666", "linestyle": "--" if name == "repaired" else ":"} if reference else {}
                marker = "" if reference else "o"
                axes.plot(*zip(*known, strict=True), marker=marker, markersize=3.5, label=name, **style)
        grid[row, 0].set_ylabel(PANELS[key] + (", %" if key == "sided" else ""))
    for column, scale in enumerate(scales):
        grid[0, column].set_title(f"flipped: scale {scale + 1}", loc="left", fontsize=10)
        grid[-1, column].set_xlabel("bits flipped, %")
    handles = grid[0, 0].lines
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False)
    return figure


def value_of(outcome: Outcome, key: str) -> float | None:
    """Return a value as it is drawn; None for references without a mistake, which are the image itself."""
    if key == "psnr" and outcome.name in REFERENCES and outcome.rate == 0:
        return None
    value: float | None = getattr(outcome, key)
    return 100 * value if key == "sided" and value is not None else value


def read_runs(arguments: Sequence[str]) -> dict[str, Path]:
    """Read `NAME=RUN` as folders of finished runs.

    Raises:
        UsageError: for anything else, a name that is taken, or a run that has no model yet.
    """
    runs: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not (name and equals and path) or name in (*runs, *REFERENCES):
            why = "each --run needs a name of its own, and a folder"
            raise UsageError(f"Can't read --run {argument}.", why, "write --run NAME=FOLDER")
        if not (Path(path) / "model").is_dir():
            raise UsageError(f"{path} has no model.", "the run is not finished, or it is none", "finish it")
        runs[name] = Path(path)
    return runs


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure self-correction of flipped bits.")
    parser.add_argument("out", type=Path, help="the plot, a .png")
    parser.add_argument("--data", type=Path, required=True, help="the captioned set")
    parser.add_argument("--run", action="append", required=True, metavar="NAME=FOLDER", help="may be repeated")
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    try:
        if options.out.suffix != ".png" or options.images < 1:
            raise UsageError("Can't begin.", "the plot is a .png, of an image at least", "correct the command")
        runs = read_runs(options.run)
        pipelines = {name: InfinityPipeline.from_pretrained(run / "model", device="cpu") for name, run in runs.items()}
        outcomes, count = measure(pipelines, options.data, num_images=options.images)
    except UsageError as error:
        parser.exit(2, f"{error}\n")
    report = {"format": 1, "images": count, "figures": [asdict(outcome) for outcome in outcomes]}
    write_text(options.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    with atomic_path(options.out) as partial:
        draw(outcomes).savefig(partial, dpi=150, format="png", metadata={"Software": None})
    print(table(outcomes))  # noqa: T201


if __name__ == "__main__":
    main()
