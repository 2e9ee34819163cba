"""The judge in the package, with the errors that were measured when it was made."""

from typing import Final

import torch

from bitvar.config import read_json
from bitvar.evaluation.generation.scoring import Jury
from bitvar.icons.benchmark.judge import FOLDER, SceneJudge
from bitvar.icons.benchmark.rules import give_verdict
from bitvar.icons.dataset.prompts import SKILLS
from bitvar.weights.digests import MANIFEST, digest

FIGURES: Final = "figures.json"


def package_jury(device: torch.device | str) -> Jury:
    """On a device.

    Raises:
        WeightsError: if a file of it is missing or altered.
    """
    judge = SceneJudge.load(device=device)
    figures = read_json(FOLDER / FIGURES)
    return Jury(
        name=FOLDER.name,
        sha256=digest(FOLDER / MANIFEST),
        look=judge.look,
        give_verdict=give_verdict,
        figures=figures,
        accuracy={skill: figures["claims"][skill] for skill in SKILLS if skill in figures["claims"]},
    )
