"""Scores images with the package hpsv2 (Wu et al., arXiv 2306.09341), version 2.1 of its weights.

`hpsv2.score` loads the checkpoint again for every image, so this loads it once, through the package's own functions.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main(requests: Path, answers: Path) -> None:
    """Score every request, one at a time."""
    torch: Any = importlib.import_module("torch")
    scoring: Any = importlib.import_module("hpsv2.img_score")
    fetch = importlib.import_module("huggingface_hub").hf_hub_download
    image_module: Any = importlib.import_module("PIL.Image")
    scoring.initialize_model()
    model, prepare = scoring.model_dict["model"], scoring.model_dict["preprocess_val"]
    checkpoint = fetch("xswu/HPSv2", scoring.hps_version_map["v2.1"])
    model.load_state_dict(torch.load(checkpoint, map_location=scoring.device, weights_only=True)["state_dict"])
    model.to(scoring.device).eval()
    tokenize = scoring.get_tokenizer("ViT-H-14")
    scores = []
    for row in json.loads(requests.read_text(encoding="utf-8")):
        with torch.no_grad(), torch.autocast(scoring.device):
            pixels = prepare(image_module.open(row["image"])).unsqueeze(0).to(scoring.device)
            seen = model(pixels, tokenize([row["prompt"]]).to(scoring.device))
            scores.append(float(seen["image_features"] @ seen["text_features"].T))
    answers.write_text(json.dumps(scores), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))  # noqa: TID251  (a command of its own)
