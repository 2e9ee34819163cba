"""The scorer and the features that choose among images of the icon set."""

from pathlib import Path

import torch
from PIL import Image

from bitvar.icons.benchmark.alignment import AlignmentScorer
from bitvar.icons.benchmark.best_of import ImageFeatures, PromptScorer
from bitvar.imaging.convert import from_pil
from bitvar.pipeline.best_of import Features, Scorer, medoids
from bitvar.text import load_text_encoder
from bitvar.weights.hub import EMBEDDED_MODEL

SCENES = Path(__file__).parent / "scenes"


def test_an_image_of_the_prompt_scores_highest_and_like_images_are_near() -> None:
    towers = AlignmentScorer.load(load_text_encoder(EMBEDDED_MODEL / "text_encoder"))
    scorer, features = PromptScorer(towers), ImageFeatures(towers)
    assert isinstance(scorer, Scorer) and isinstance(features, Features)
    shown = []
    for name in ("single-noto-fox", "colour-twemoji-heart-green", "two-fluent-3d-frog-key"):
        with Image.open(SCENES / f"{name}.png") as image:
            shown.append(image.convert("RGB"))
    images = from_pil(shown)
    with torch.inference_mode():
        assert scorer(images, "a fox").argmax() == 0 and scorer(images, "a green heart").argmax() == 1
        twins = torch.cat([images, images[:1] + 0.01])
        assert 2 in medoids(features(twins), 3) and medoids(features(twins), 1)[0] in (0, 3)
