r"""Train the embedded model to follow instructions on icon scenes, and judge it.

python scripts/icons/instruct.py data data/edits64
python scripts/icons/instruct.py train data/edits64 runs/edits
python scripts/icons/instruct.py judge data/edits64 runs/edits/editor --sheet edits.png

Building the set takes two minutes and needs npm; training takes 40 minutes on a CPU core, and resumes where it was
interrupted. Judging compares the editor with a copy of the source, with the model before training, and with the scene
that the set draws after the instruction.
"""

import argparse
from pathlib import Path

import torch

from bitvar.cli.echo import say
from bitvar.icons.edits.build import build_edit_set
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.loop import TrainerConfig
from bitvar.training.instruction.assemble import train_instruction_editor
from bitvar.training.options import FrozenModels
from bitvar.training.recipes import configure

RECIPE = Path(__file__).parents[2] / "recipes" / "icons" / "instruct.py"


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
    train.add_argument("--init", default="icons", help="model to adapt")
    train.add_argument("--recipe", type=Path, default=RECIPE)
    train.add_argument("--set", action="append", default=[], dest="settings", help="change a setting: a.b=VALUE")
    options = parser.parse_args()
    if options.verb == "data":
        build_edit_set(options.destination, seed=options.seed, num_edits=options.edits, log=say)
    elif options.verb == "train":
        _train(options)


def _train(options: argparse.Namespace) -> None:
    config = configure(options.recipe, settings=options.settings)
    assert isinstance(config, TransformerTraining)
    run = TrainerConfig(options.out, config.dump(), config.optimization, config.intervals, log=say)
    models = FrozenModels(initial=options.init)
    say(str(train_instruction_editor(config, run, data=options.data, models=models, device=torch.device("cpu"))))


if __name__ == "__main__":
    main()
