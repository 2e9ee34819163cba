"""What `pipeline.best_of` needs to choose among images of the icon set: how images match a prompt, and features."""

from jaxtyping import Float
from torch import Tensor

from bitvar.icons.benchmark.alignment import AlignmentScorer, image_features


class PromptScorer:
    """Scores images by the cosine between their vector and their prompt's. Implements `pipeline.best_of.Scorer`.

    Args:
        towers: The two towers.
    """

    def __init__(self, towers: AlignmentScorer) -> None:
        self.towers = towers

    def __call__(self, images: Float[Tensor, "n 3 H W"], prompt: str) -> Float[Tensor, " n"]:
        return (self.towers.embed_images(iter([images])) @ self.towers.embed_prompts([prompt]).T)[:, 0]


class ImageFeatures:
    """Computes the features of the image tower. Implements `pipeline.best_of.Features`.

    Args:
        towers: The two towers.
    """

    def __init__(self, towers: AlignmentScorer) -> None:
        self.towers = towers

    def __call__(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n f"]:
        return image_features(self.towers.network, images)
