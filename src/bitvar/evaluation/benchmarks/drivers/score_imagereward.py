"""Scores images with the package image-reward (Xu et al., arXiv 2304.05977)."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main(requests: Path, answers: Path) -> None:
    """Score every request, one at a time."""
    scorer: Any = importlib.import_module("ImageReward").load("ImageReward-v1.0")
    rows = json.loads(requests.read_text(encoding="utf-8"))
    scores = [float(scorer.score(row["prompt"], row["image"])) for row in rows]
    answers.write_text(json.dumps(scores), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))  # noqa: TID251  (a command of its own)
