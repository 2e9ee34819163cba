"""Networks that answer questions: BLIP with tiny random weights, and the arithmetic of a chat model's first token."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BlipConfig, BlipForQuestionAnswering
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from bitvar.metrics.scorers.answers import BlipAnswerer, ChatAnswerer
from bitvar.metrics.scorers.folders import ScorerFolder
from tests.support.scorers import WORDS, word_tokenizer

IMAGE = Image.new("RGB", (20, 12), "red")


def tiny_blip(folder: Path) -> Path:
    word_tokenizer(folder, length=32)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    words = {"vocab_size": 4 + len(WORDS), "max_position_embeddings": 32, "projection_dim": 16}
    config = BlipConfig(
        text_config={**sizes, **ends, **words, "encoder_hidden_size": 32},
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=16, image_text_hidden_size=32,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BlipForQuestionAnswering(config).save_pretrained(folder)
    return folder


def test_blip_answers_in_words_the_same_every_time(tmp_path: Path) -> None:
    answerer = BlipAnswerer(ScorerFolder("blip", tiny_blip(tmp_path / "blip")))
    answer = answerer.answer(IMAGE, "is there a red bench")
    assert answer == answer.strip().lower()
    assert answerer.answer(IMAGE, "is there a red bench") == answer


class Chat:
    """A model whose logits are the tokens' numbers over ten, and a processor that reads one letter a token."""

    device = "cpu"

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.tokenizer = SimpleNamespace(encode=lambda text: [ord(text.strip()[0]) - 65])

    def eval(self) -> "Chat":
        return self

    def requires_grad_(self, _: bool) -> "Chat":
        return self

    def to(self, _: Any) -> "Chat":
        return self

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        self.asked.append(messages[0]["content"])
        assert options["add_generation_prompt"] and options["tokenize"]

        class Inputs(dict[str, Any]):
            def to(self, _: Any) -> "Inputs":
                return self

        return Inputs(x=1)

    def __call__(self, **inputs: Any) -> Any:
        assert inputs == {"x": 1}
        return SimpleNamespace(logits=torch.arange(60).float().div(10).expand(1, 3, 60))


def test_a_chat_models_first_token_gives_the_probability(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chat = Chat()
    monkeypatch.setattr(ScorerFolder, "load", lambda self, kind, **options: chat)
    answerer = ChatAnswerer(ScorerFolder("chat", tmp_path))
    found = answerer.probability(IMAGE, "Is it red?", ["Yes", "Y", "No"])
    softmax = torch.arange(60).float().div(10).softmax(0)
    assert found == pytest.approx(2 * softmax[24].item() + softmax[13].item())
    assert chat.asked[0][1]["text"] == "Is it red? Answer in one word."
    assert chat.asked[0][0]["image"].mode == "RGB"
