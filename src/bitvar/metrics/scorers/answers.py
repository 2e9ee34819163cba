"""Networks that answer questions about images: chat models that see, and BLIP's visual question answering."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from PIL import Image

from bitvar.metrics.scorers.folders import ScorerFolder

_ONE_WORD: Final = "{question} Answer in one word."


class ChatAnswerer:
    """The probability that a chat model which sees images begins its answer with one of several words.

    Args:
        folder: Model of images and text in the format of transformers, with its processor; Qwen3-VL-8B-Instruct for
            GenEval 2.
        device: Device of the network.
        dtype: Precision of the network.
    """

    def __init__(
        self, folder: ScorerFolder, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model: Any = folder.load(AutoModelForImageTextToText.from_pretrained, use_safetensors=True, dtype=dtype)
        self.model = model.eval().requires_grad_(False).to(device)
        self.processor: Any = folder.load(AutoProcessor.from_pretrained)

    @torch.inference_mode()
    def probability(self, image: Image.Image, question: str, answers: Sequence[str]) -> float:
        """Sum the probabilities of the answers' first tokens as the first token of the model's answer.

        Args:
            image: Image.
            question: Question; " Answer in one word." is added.
            answers: Spellings of the right answer. The probability of a first token counts once a spelling, as in
                GenEval 2's published code.
        """
        content = [
            {"type": "image", "image": image.convert("RGB")},
            {"type": "text", "text": _ONE_WORD.format(question=question)},
        ]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        logits = self.model(**inputs).logits[0, -1].float()
        probabilities = logits.softmax(dim=-1)
        tokens = [self.processor.tokenizer.encode(answer)[0] for answer in answers]
        return float(sum(probabilities[token].item() for token in tokens))


class BlipAnswerer:
    """Short answers in words by BLIP (Li et al., arXiv 2201.12086), trained on VQA.

    Args:
        folder: BLIP for question answering in the format of transformers, with its processor.
        device: Device of the network.
        dtype: Precision of the network.
    """

    def __init__(
        self, folder: ScorerFolder, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, BlipForQuestionAnswering

        model: Any = folder.load(BlipForQuestionAnswering.from_pretrained, use_safetensors=True, dtype=dtype)
        self.model = model.eval().requires_grad_(False).to(device)
        self.images: Any = folder.load(AutoImageProcessor.from_pretrained, backend="pil")
        self.tokenizer: Any = folder.load(AutoTokenizer.from_pretrained)

    @torch.inference_mode()
    def answer(self, image: Image.Image, question: str) -> str:
        """Answer a question in a few lower-case words."""
        pixels = self.images(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        tokens = self.tokenizer(question, return_tensors="pt")
        written = self.model.generate(
            pixel_values=pixels.to(self.model.device, self.model.dtype),
            input_ids=tokens["input_ids"].to(self.model.device),
            attention_mask=tokens["attention_mask"].to(self.model.device),
            max_new_tokens=10,
        )
        return self.tokenizer.decode(written[0], skip_special_tokens=True).strip().lower()
