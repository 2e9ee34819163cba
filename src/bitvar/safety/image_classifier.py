"""A checker of images by a classifier from a local folder, in the format of transformers. It sees no prompt.

It is as good as the classifier: none comes with bitvar, and none is downloaded.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bitvar import arguments
from bitvar.errors import UsageError, WeightsError
from bitvar.runtime.placement import resolve_device
from bitvar.safety.checks import ALLOWED, SafetyDecision


class ImageClassifier:
    """Blocks images that a classifier gives one of some labels.

    Args:
        model: Classifier of `transformers`, in evaluation mode.
        processor: Its image processor.
        blocked: Probability from which each label blocks, by label.
    """

    def __init__(self, model: Any, processor: Any, blocked: Mapping[str, float]) -> None:
        labels = {str(label): int(index) for index, label in model.config.id2label.items()}
        if not blocked:
            raise UsageError("The image classifier would block nothing.", "no label is blocked", "name one")
        for label, probability in blocked.items():
            if label not in labels:
                known = ", ".join(list(labels)[:8])
                raise UsageError(f"The image classifier has no label {label!r}.", f"it has {known}", "choose from them")
            if not 0 < arguments.checked("blocked", probability, arguments.real_number) <= 1:
                why = f"it must lie above 0 and be at most 1, got {probability:g}"
                raise UsageError(f"The probability for {label!r} can't be used.", why, "choose one such as 0.5")
        self._model, self._processor = model, processor
        self._blocked = {label: (labels[label], float(probability)) for label, probability in blocked.items()}

    @classmethod
    def from_folder(
        cls, folder: str | Path, blocked: Mapping[str, float], *, device: str | torch.device = "cpu"
    ) -> "ImageClassifier":
        """Load a classifier. Weights are safetensors only, and no code of the folder is run.

        Args:
            folder: Folder with `config.json`, `preprocessor_config.json` and safetensors weights.
            blocked: Probability from which each label blocks, by label.
            device: "cpu", "cuda", "mps", or "auto": the best one available.

        Raises:
            UsageError: for a folder that is missing, or a label that the classifier doesn't have.
            WeightsError: for a folder that transformers can't load.
        """
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        place = Path(arguments.checked("folder", folder, arguments.path))
        if not place.is_dir():
            raise UsageError(f"There is no folder {place}.", fix="check the path")
        try:
            processor = AutoImageProcessor.from_pretrained(
                place, local_files_only=True, trust_remote_code=False, backend="pil"
            )
            model = AutoModelForImageClassification.from_pretrained(
                place, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
        except Exception as error:  # the library raises errors of many classes
            why = " ".join(str(error).split())[:200]
            raise WeightsError(f"Can't load an image classifier from {place}.", why, "check the folder") from None
        return cls(model.eval().requires_grad_(False).to(resolve_device(device)), processor, blocked)

    def check_prompt(self, prompt: str) -> SafetyDecision:
        """Allow every prompt: this checker sees none."""
        del prompt
        return ALLOWED

    def check_image(self, image: Image.Image) -> SafetyDecision:
        """Block an image with a label whose probability is too high, or isn't a number."""
        with torch.inference_mode():
            pixels = self._processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
            logits = self._model(pixel_values=pixels.to(self._model.device)).logits[0].float()
        probabilities = logits.softmax(-1).tolist()
        for label, (index, limit) in self._blocked.items():
            probability = probabilities[index]
            if math.isnan(probability) or probability >= limit:
                return SafetyDecision(allowed=False, category=_category(label))
        return ALLOWED


def _category(label: str) -> str:
    """Turn a label into one word."""
    return "_".join(label.lower().split())[:40]
