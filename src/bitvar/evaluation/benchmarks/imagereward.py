"""ImageReward's benchmark (Xu et al., arXiv 2304.05977): the mean reward over 100 prompts, ten images of each.

Its folder has `ID_0.png`, `ID_1.png` and so on, equally many of each prompt.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bitvar.evaluation.benchmarks.base import EvalPrompt, GeneratedImage, JudgeInfo
from bitvar.evaluation.benchmarks.layout import IMAGES, Drawing, seen_in_order
from bitvar.evaluation.benchmarks.own_scorer import OwnScorer, driven_scorer, uv_command
from bitvar.evaluation.benchmarks.preference import PreferenceBenchmark
from bitvar.evaluation.benchmarks.prompt_sets import PACKAGED, SPLIT, PromptSet, read_field, read_json_list
from bitvar.metrics.scorers.folders import ScorerFolder
from bitvar.metrics.scorers.imagereward import ImageRewardScorer

TOKENIZER: Final = "google-bert/bert-base-uncased"


class ImageRewardLayout:
    """Prompts and files of ImageReward's benchmark."""

    name: str = "imagereward"
    title: str = "ImageReward (arXiv 2304.05977)"
    images_per_prompt: int = 10

    def read_prompts(self, given: Path | None) -> PromptSet:
        path = given or PACKAGED / "imagereward" / "benchmark-prompts.json"
        prompts = []
        for number, row in enumerate(read_json_list(path), 1):
            place = f"entry {number} of {path}"
            values = row if isinstance(row, dict) else {}
            text, name = read_field(values, "prompt", str, place), read_field(values, "id", str, place)
            prompts.append(EvalPrompt(name, text, SPLIT, "reward"))
        return PromptSet(
            tuple(prompts), "THUDM/ImageReward (Apache-2.0), in the package" if given is None else str(given)
        )

    def drawings(self, prompts: Sequence[EvalPrompt], count: int) -> list[Drawing]:
        return [Drawing(prompt, i, f"{IMAGES}/{prompt.id}_{i}.png") for prompt in prompts for i in range(count)]

    def finish(self, folder: Path, prompts: Sequence[EvalPrompt], count: int) -> None:
        del folder, prompts, count  # the images are all that it has

    def find(self, images: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        found: list[GeneratedImage] = []
        for prompt in prompts:
            name = re.compile(rf"{re.escape(prompt.id)}_(\d+)\.png")
            paths = images.glob(f"{prompt.id}_*.png")
            found += seen_in_order({int(m[1]): path for path in paths if (m := name.fullmatch(path.name))}, prompt)
        return found


def imagereward_benchmark(
    prompts: Sequence[EvalPrompt],
    *,
    checkpoint: Path,
    tokenizer: str = TOKENIZER,
    device: str = "cpu",
    dtype: Any = None,
) -> PreferenceBenchmark:
    """Load the published weights into transformers' BLIP.

    Args:
        prompts: Prompts to score by.
        checkpoint: `ImageReward.pt`.
        tokenizer: Folder or hub id of BERT's tokenizer.
        device: Device of the network.
        dtype: Precision of the encoders; None for fp32.

    Raises:
        WeightsError: if it can't be loaded.
    """
    options = {} if dtype is None else {"dtype": dtype}
    scorer = ImageRewardScorer(checkpoint, ScorerFolder.find(tokenizer), device, **options)
    info = JudgeInfo(f"{checkpoint.name} in transformers' BLIP", scorer.sha256)
    return PreferenceBenchmark("imagereward", prompts, scorer, info)


def own_scorer(images: Sequence[GeneratedImage], scratch: Path, *, prefix: Sequence[str] | None = None) -> OwnScorer:
    """Make the command that scores images with the package image-reward.

    Args:
        images: Images to score.
        scratch: Folder for its input and results.
        prefix: Command that runs Python with the package; None for an isolated environment of uv.
    """
    packages = ["image-reward==1.5", "clip-anytorch", "transformers==4.27.4", "torch<2.6", "torchvision", "numpy<2"]
    python = prefix or uv_command("3.10", packages)
    return driven_scorer("the package image-reward 1.5", "score_imagereward.py", images, scratch, prefix=python)
