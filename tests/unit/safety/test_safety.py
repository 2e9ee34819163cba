"""The safety hook: what is blocked, and that whatever fails blocks."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from bitvar.errors import UsageError, WeightsError
from bitvar.safety.blocklist import Blocklist
from bitvar.safety.checks import ALLOWED, CHECK_FAILED, SafetyChecker, SafetyChecks, SafetyDecision
from bitvar.safety.image_classifier import ImageClassifier

WHITE, BLACK = Image.new("RGB", (40, 30), "white"), Image.new("RGB", (40, 30), "black")


class Scripted:
    """A checker that does what it is told to."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act, self.asked = act, 0

    def check_prompt(self, prompt: str) -> Any:
        self.asked += 1
        return self.act()

    def check_image(self, image: Image.Image) -> Any:
        self.asked += 1
        return self.act()


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


FAILURES: list[Callable[[], Any]] = [
    *map(raising, (ValueError("a secret"), RuntimeError(), OSError(), KeyError("a"), MemoryError(), AssertionError(),
                   TypeError(), ZeroDivisionError(), UsageError("x"), StopIteration(), RecursionError())),
    *((lambda value=value: value) for value in (None, True, False, 1, "allowed", {}, {"allowed": True}, object(),
                                                ALLOWED.__class__)),
]  # fmt: skip
"""Ways to fail: eleven errors, and nine results that are no decision."""


def test_checkers_see_transparent_images_on_white() -> None:
    seen: list[Image.Image] = []

    class Watcher(Scripted):
        def check_image(self, image: Image.Image) -> Any:
            seen.append(image)
            return super().check_image(image)

    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    assert SafetyChecks([Watcher(lambda: ALLOWED)]).check_image(clear) == ALLOWED
    assert seen == [WHITE] and clear.mode == "RGBA"


@pytest.mark.parametrize("act", FAILURES)
def test_a_failing_checker_blocks(act: Callable[[], Any]) -> None:
    checks = SafetyChecks([Scripted(lambda: ALLOWED), Scripted(act)])
    for decision in (checks.check_prompt("a red dog"), checks.check_image(WHITE)):
        assert decision == SafetyDecision(allowed=False, category=CHECK_FAILED)
        assert "secret" not in repr(decision)


def test_there_are_twenty_failures() -> None:
    assert len(FAILURES) == 20


def test_an_interrupt_is_no_failure() -> None:
    with pytest.raises(KeyboardInterrupt):
        SafetyChecks([Scripted(raising(KeyboardInterrupt()))]).check_prompt("a")


def test_the_first_block_counts_and_nothing_blocks_without_checkers() -> None:
    blocking, later = Scripted(lambda: SafetyDecision(allowed=False, category="violence")), Scripted(lambda: ALLOWED)
    assert SafetyChecks([blocking, later]).check_prompt("a").category == "violence"
    assert (blocking.asked, later.asked) == (1, 0)
    assert SafetyChecks([later]).check_image(WHITE) == ALLOWED
    assert SafetyChecks().check_prompt("a") == SafetyChecks().check_image(WHITE) == ALLOWED


def test_a_checker_that_alters_its_image_alters_a_copy() -> None:
    class Painter(Scripted):
        def check_image(self, image: Image.Image) -> Any:
            image.paste("red", (0, 0, *image.size))
            return ALLOWED

    image = WHITE.copy()
    SafetyChecks([Painter(lambda: ALLOWED)]).check_image(image)
    assert image.tobytes() == WHITE.tobytes()


def test_other_objects_are_refused() -> None:
    with pytest.raises(UsageError, match="check_prompt and check_image"):
        SafetyChecks([object()])
    assert isinstance(SafetyChecks(), SafetyChecker)


# the blocklist


@pytest.fixture
def blocklist(tmp_path: Path) -> Blocklist:
    path = tmp_path / "blocked.txt"
    path.write_text("\ufeff# our list\nforbidden\n\n[violence]\nsevered  Head # two words\nGore\n[other]\ncaf\u00e9\n")
    return Blocklist.from_file(path)


@pytest.mark.parametrize(
    ("prompt", "category"),
    [
        ("a forbidden dog", "blocklist"),
        ("FORBIDDEN", "blocklist"),
        ("for\u200bbidden fruit", "blocklist"),
        ("\uff46\uff4f\uff52\uff42\uff49\uff44\uff44\uff45\uff4e", "blocklist"),
        ("a severed, head", "violence"),
        ("a_severed_head", "violence"),
        ("severed\nhead", "violence"),
        ("gore", "violence"),
        ("a CAFE", "other"),
        ("a cafe\u0301", "other"),
    ],
)
def test_listed_phrases_block(blocklist: Blocklist, prompt: str, category: str) -> None:
    assert blocklist.check_prompt(prompt) == SafetyDecision(allowed=False, category=category)


@pytest.mark.parametrize("prompt", ["a red dog", "a head", "severed", "head severed", "forbiddenly", "gored", "", "!?"])
def test_other_prompts_pass(blocklist: Blocklist, prompt: str) -> None:
    assert blocklist.check_prompt(prompt) == ALLOWED
    assert blocklist.check_image(WHITE) == ALLOWED


def test_a_long_prompt_is_checked_to_its_end(blocklist: Blocklist) -> None:
    assert not blocklist.check_prompt("dog " * 5000 + "gore").allowed


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"[violence]\n", b"\xff\xfe", b"[No Such]\nx\n", b"!!!\n"])
def test_unusable_lists_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    for path in (tmp_path / "a.txt", tmp_path / "none.txt", tmp_path):
        with pytest.raises(UsageError, match="blocklist"):
            Blocklist.from_file(path)


# the image classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose only feature is brightness: bright images are "safe", dark ones "Not Safe"."""
    path = tmp_path_factory.mktemp("classifier")
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16,
        num_labels=2, id2label={0: "safe", 1: "Not Safe"}, label2id={"safe": 0, "Not Safe": 1},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(path)
    processor = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "do_resize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True, "do_rescale": True, "resample": 2,
    }  # fmt: skip
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


class FixedModel:
    """A classifier with given logits."""

    class config:  # noqa: N801
        id2label: dict[int, str] = {0: "safe", 1: "Not Safe"}  # noqa: RUF012

    device = torch.device("cpu")

    def __init__(self, *logits: float) -> None:
        self.logits = torch.tensor([logits])

    def __call__(self, *, pixel_values: torch.Tensor) -> "FixedModel":
        return self


def processor(*, images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
    assert (images.mode, return_tensors) == ("RGB", "pt")
    return {"pixel_values": torch.zeros(1, 3, 2, 2)}


def test_a_folder_is_loaded_and_decides_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    probabilities = []
    for image in (WHITE, BLACK, Image.new("RGB", (64, 64), "red")):
        low = ImageClassifier.from_folder(folder, {"Not Safe": 1e-9})
        assert low.check_image(image) == SafetyDecision(allowed=False, category="not_safe")
        assert low.check_prompt("anything") == ALLOWED
        with torch.inference_mode():
            pixels = low._processor(images=image, return_tensors="pt")["pixel_values"]
            probabilities.append(float(low._model(pixel_values=pixels).logits.softmax(-1)[0, 1]))
        just_above = ImageClassifier.from_folder(folder, {"Not Safe": min(1.0, probabilities[-1] + 1e-4)})
        assert just_above.check_image(image) == ALLOWED
    assert len(set(probabilities)) == 3


@pytest.mark.parametrize(
    ("logits", "allowed"), [((3.0, 0.0), True), ((0.0, 3.0), False), ((0.0, 0.0), False), ((0.0, float("nan")), False)]
)
def test_a_label_blocks_from_its_probability_on(logits: tuple[float, float], allowed: bool) -> None:
    classifier = ImageClassifier(FixedModel(*logits), processor, {"Not Safe": 0.5})
    assert classifier.check_image(WHITE.convert("L")).allowed is allowed


@pytest.mark.parametrize("blocked", [{}, {"nudity": 0.5}, {"safe": 0.0}, {"safe": 1.5}, {"safe": float("nan")}])
def test_labels_and_probabilities_are_checked(blocked: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ImageClassifier(FixedModel(0.0, 0.0), processor, blocked)


def test_other_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        ImageClassifier.from_folder(tmp_path / "none", {"safe": 0.5})
    with pytest.raises(WeightsError, match="image classifier"):
        ImageClassifier.from_folder(tmp_path, {"safe": 0.5})
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")  # a pickle is never read
    with pytest.raises(WeightsError, match="image classifier"):
        ImageClassifier.from_folder(tmp_path, {"safe": 0.5})


def test_code_in_a_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoModelForImageClassification": "evil.Model", "AutoConfig": "evil.C"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(WeightsError):
        ImageClassifier.from_folder(tmp_path, {"Not Safe": 0.5})
    assert not (tmp_path / "canary").exists()
