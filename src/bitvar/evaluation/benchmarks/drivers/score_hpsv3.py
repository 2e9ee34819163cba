"""Scores images with the package hpsv3 (Ma et al., arXiv 2508.03789): mu of its reward."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main(requests: Path, answers: Path) -> None:
    """Score every request, one at a time."""
    scorer: Any = importlib.import_module("hpsv3").HPSv3RewardInferencer()
    rows = json.loads(requests.read_text(encoding="utf-8"))
    scores = [float(scorer.reward(image_paths=[row["image"]], prompts=[row["prompt"]])[0][0]) for row in rows]
    answers.write_text(json.dumps(scores), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))  # noqa: TID251  (a command of its own)
