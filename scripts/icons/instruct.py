r"""Train the embedded model to follow instructions on icon scenes, and judge it.

python scripts/icons/instruct.py data data/edits64
python scripts/icons/instruct.py train data/edits64 runs/edits
python scripts/icons/instruct.py judge data/edits64 runs/edits/editor --sheet edits.png

Building the set takes two to five minutes and needs npm; training took an hour on a crowded CPU, and resumes where it
was interrupted. Judging compares the editor with a copy of the source, with the model before training, and with the
scene that the set draws after the instruction.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from PIL import Image

from bitvar.cli.echo import say
from bitvar.icons.benchmark.judge import SceneJudge
from bitvar.icons.instructions.benchmark import EditSample, edit_samples, judge_samples, read_edits, summarise
from bitvar.icons.instructions.build import HELD_OUT, build_edit_set
from bitvar.icons.instructions.judge import EditJudgement
from bitvar.imaging.sheet import Caption, GridStyle, Tile, draw_grid
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.instruction_editor import InstructionEditor
from bitvar.sampling.params import SamplingParams
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.loop import TrainerConfig
from bitvar.training.instruction.assemble import train_instruction_editor
from bitvar.training.options import FrozenModels
from bitvar.training.recipes import configure
from bitvar.weights.instruction import InstructionSettings

DEFAULTS: Final = SamplingParams(guidance_scale=1.5, temperature=0.25)
"""Chosen on 50 validation instructions: more guidance follows no more of them, and changes more of the rest."""

COLUMNS: Final = 12
CELL: Final = 128
RECIPE: Final = Path(__file__).parents[2] / "recipes" / "icons" / "instruct.py"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Train and judge an instruction editor on icon scenes.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    data = verbs.add_parser("data", help="draw the set")
    data.add_argument("destination", type=Path)
    data.add_argument("--edits", type=int, default=20000, help="number of instructions to train on")
    data.add_argument("--seed", type=int, default=0)
    train = verbs.add_parser("train", help="train the editor, or resume")
    train.add_argument("data", type=Path)
    train.add_argument("out", type=Path)
    train.add_argument("--extend", action="store_true", help="continue a run that had fewer steps")
    train.add_argument("--init", default="icons", help="model to adapt")
    train.add_argument("--recipe", type=Path, default=RECIPE)
    train.add_argument("--set", action="append", default=[], dest="settings", help="change a setting: a.b=VALUE")
    judge = verbs.add_parser("judge", help="judge an editor on held-out instructions")
    judge.add_argument("data", type=Path)
    judge.add_argument("editor", type=Path)
    judge.add_argument("--init", default="icons", help="model that the editor adapts")
    judge.add_argument("--split", default=HELD_OUT)
    judge.add_argument("--limit", type=int)
    judge.add_argument("--seed", type=int, default=0)
    judge.add_argument("--guidance", type=float)
    judge.add_argument("--temperature", type=float)
    judge.add_argument("--baselines", action="store_true", help="also judge a copy, the untrained model and the set")
    judge.add_argument("--sheet", type=Path, help="image file of sources and results")
    options = parser.parse_args()
    if options.verb == "data":
        build_edit_set(options.destination, seed=options.seed, num_edits=options.edits, log=say)
    elif options.verb == "train":
        _train(options)
    else:
        _judge(options)


def _train(options: argparse.Namespace) -> None:
    config = configure(options.recipe, settings=options.settings)
    assert isinstance(config, TransformerTraining)
    run = TrainerConfig(
        options.out, config.dump(), config.optimization, config.intervals, extend=options.extend, log=say
    )
    models = FrozenModels(initial=options.init)
    device = torch.device("cpu")
    editor = train_instruction_editor(
        config, run, data=options.data, models=models, device=device, settings=InstructionSettings(defaults=DEFAULTS)
    )
    say(str(editor))


def _judge(options: argparse.Namespace) -> None:
    samples = read_edits(options.data, split=options.split, limit=options.limit)
    given = {"guidance_scale": options.guidance, "temperature": options.temperature}
    settings = {name: value for name, value in given.items() if value is not None}
    editor = InstructionEditor.from_pretrained(options.editor, model=options.init)
    results = {"editor": edit_samples(editor, samples, seed=options.seed, **settings)}
    if options.baselines:
        untrained = InstructionEditor(InfinityPipeline.from_pretrained(options.init), editor.settings)
        results["untrained"] = edit_samples(untrained, samples, seed=options.seed, **settings)
        results["copy"] = [sample.source for sample in samples]
        results["set"] = [sample.target for sample in samples]
    judge = SceneJudge.load()
    judgements = {name: judge_samples(judge, samples, images) for name, images in results.items()}
    say(json.dumps({name: summarise(samples, own) for name, own in judgements.items()}, indent=1))
    if options.sheet is not None:
        draw_sheet(options.sheet, samples, results["editor"], judgements["editor"])


def draw_sheet(
    path: Path, samples: Sequence[EditSample], images: Sequence[Image.Image], judgements: Sequence[EditJudgement]
) -> None:
    """Draw source and result of every instruction side by side, with what the judge found wrong."""
    tiles = []
    for sample, image, judgement in zip(samples, images, judgements, strict=True):
        right = judgement.followed and judgement.kept
        note = "followed" if right else "; ".join(judgement.reasons)
        colours = "#1a7f37" if right else "#b35900" if judgement.followed else "#b00020"
        tiles += [
            Tile(sample.source, [Caption(sample.instruction, max_lines=2)]),
            Tile(image, [Caption(note, colours, max_lines=2)]),
        ]
    style = GridStyle(outline="#cccccc", caption_height=64, group=2, enlarge="pixels")
    draw_grid(tiles, columns=COLUMNS, cell=(CELL, CELL), style=style).save(path)


if __name__ == "__main__":
    main()
