"""HPSv2 and HPSv2.1 (Wu et al., arXiv 2306.09341): human preference over four styles of 800 prompts each.

Its folder is `anime/00000.jpg` and so on; the published scorer opens files of that suffix alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalPrompt, GeneratedImage, JudgeInfo
from bitvar.evaluation.benchmarks.layout import IMAGES, Drawing
from bitvar.evaluation.benchmarks.own_scorer import OwnScorer, driven_scorer, uv_command
from bitvar.evaluation.benchmarks.preference import PreferenceBenchmark
from bitvar.evaluation.benchmarks.prompt_sets import SPLIT, FetchHint, PromptSet, read_json_list
from bitvar.metrics.scorers.clip import HpsScorer
from bitvar.metrics.scorers.folders import ScorerFolder

STYLES: Final = ("anime", "concept-art", "paintings", "photo")
TOKENIZER: Final = "openai/clip-vit-large-patch14"
SCALE: Final = 100.0
"""Factor of the published scores."""

_SOURCE: Final = "hpsv2 @ git+https://github.com/tgxs002/HPSv2@866735ecaae999fa714bd9edfa05aa2672669ee3"
"""The wheel hpsv2 1.2.0 lacks the vocabulary of its tokenizer; the repository has it."""

_HINT: Final = FetchHint(
    "the folder with anime.json, concept-art.json, paintings.json and photo.json",
    "they are in HPDv2, a data set of the hub, and this package doesn't hold them",
    'hf download zhwang/HPDv2 --repo-type dataset --include "benchmark/*.json" --local-dir hpdv2;'
    " then --prompts hpdv2/benchmark",
)


class HpsV2Layout:
    """Prompts and folders of HPSv2."""

    name: str = "hpsv2"
    title: str = "HPSv2 (arXiv 2306.09341)"
    images_per_prompt: int = 1

    def read_prompts(self, given: Path | None) -> PromptSet:
        if given is None:
            raise _HINT.error()
        if not given.is_dir():
            why = "it is no folder" if given.exists() else "there is no such folder"
            raise UsageError(f"Can't read the prompts {given}.", why, f"give {_HINT.what}")
        prompts: list[EvalPrompt] = []
        for style in STYLES:
            path = given / f"{style}.json"
            for number, text in enumerate(read_json_list(path)):
                if not isinstance(text, str) or not text.strip():
                    raise UsageError(
                        f"Entry {number + 1} of {path} is no prompt.", fix="give the file of the benchmark"
                    )
                prompts.append(EvalPrompt(f"{style}-{number:05d}", text, SPLIT, style, number))
        return PromptSet(tuple(prompts), str(given))

    def drawings(self, prompts: Sequence[EvalPrompt], count: int) -> list[Drawing]:
        if count != 1:
            why = "its folders hold one image a prompt"
            raise UsageError(f"HPSv2 can't take {count} images a prompt.", why, "draw 1; for more, use another --seed")
        return [Drawing(prompt, 0, f"{IMAGES}/{_file(prompt)}") for prompt in prompts]

    def finish(self, folder: Path, prompts: Sequence[EvalPrompt], count: int) -> None:
        del folder, prompts, count  # the images are all that it has

    def find(self, images: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        paths = ((prompt, images / _file(prompt)) for prompt in prompts)
        return [GeneratedImage(prompt, 0, path) for prompt, path in paths if path.is_file()]


def _file(prompt: EvalPrompt) -> str:
    return f"{prompt.skill}/{prompt.payload:05d}.jpg"


def hps_benchmark(
    prompts: Sequence[EvalPrompt],
    *,
    checkpoint: Path,
    tokenizer: str = TOKENIZER,
    device: str = "cpu",
    dtype: Any = None,
) -> PreferenceBenchmark:
    """Load the published weights into transformers' CLIP.

    Args:
        prompts: Prompts to score by.
        checkpoint: `HPS_v2.1_compressed.pt`, or `HPS_v2_compressed.pt` for version 2.0.
        tokenizer: Folder or hub id of CLIP's tokenizer.
        device: Device of the network.
        dtype: Precision of the network; None for fp32.

    Raises:
        WeightsError: if it can't be loaded.
    """
    options = {} if dtype is None else {"dtype": dtype}
    scorer = HpsScorer(checkpoint, ScorerFolder.find(tokenizer), device, **options)
    info = JudgeInfo(f"{checkpoint.name} in transformers' CLIP", scorer.sha256)
    return PreferenceBenchmark("hpsv2", prompts, scorer, info, scale=SCALE)


def own_scorer(images: Sequence[GeneratedImage], scratch: Path, *, prefix: Sequence[str] | None = None) -> OwnScorer:
    """Make the command that scores images with the package hpsv2 and version 2.1 of its weights.

    Args:
        images: Images to score.
        scratch: Folder for its input and results.
        prefix: Command that runs Python with the package; None for an isolated environment of uv.
    """
    packages = [_SOURCE, "torch<2.6", "torchvision", "setuptools<80", "numpy<2"]
    python = prefix or uv_command("3.10", packages)
    return driven_scorer(
        "the package hpsv2, version 2.1", "score_hpsv2.py", images, scratch, prefix=python, scale=SCALE
    )
