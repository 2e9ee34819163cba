"""The judge in the package, with the errors that were measured when it was made."""

import hashlib
from typing import Final

import torch

from bitvar.config import read_json
from bitvar.data.icons.prompts import SKILLS
from bitvar.evaluation.scenes.judge import FOLDER, SceneJudge
from bitvar.evaluation.scenes.judging import Jury
from bitvar.evaluation.scenes.verdict import give_verdict

FIGURES: Final = "figures.json"
_DIGESTS: Final = "SHA256SUMS.json"


def package_jury(device: torch.device | str) -> Jury:
    """On a device.

    Raises:
        WeightsError: if a file of it is missing or altered.
    """
    judge = SceneJudge.load(device=device)
    figures = read_json(FOLDER / FIGURES)
    return Jury(
        name=FOLDER.name,
        sha256=hashlib.sha256((FOLDER / _DIGESTS).read_bytes()).hexdigest(),
        look=judge.look,
        give_verdict=give_verdict,
        figures=figures,
        accuracy={skill: figures["claims"][skill] for skill in SKILLS if skill in figures["claims"]},
    )
