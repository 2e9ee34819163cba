"""What the embedded model knows, and which words of a prompt it doesn't."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bitvar.errors import WeightsError
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, CONCEPTS
from bitvar.icons.dataset.prompts import FILE as PROMPTS
from bitvar.icons.dataset.sources import ARTISTS
from bitvar.weights.digests import MANIFEST, verify_folder
from bitvar.weights.hub import EMBEDDED_MODEL, EMBEDDED_TOKENIZER
from bitvar.weights.model_folder import load_folder, save_folder
from bitvar.weights.vocabulary import VOCABULARY, Vocabulary, load_vocabulary


@pytest.fixture(scope="module")
def icons() -> Vocabulary:
    known = load_vocabulary(EMBEDDED_MODEL)
    assert known is not None
    return known


def test_it_is_what_the_icon_set_teaches(icons: Vocabulary) -> None:
    assert [(c.name, c.plural, c.category) for c in icons.concepts] == [
        (c.name, c.plural, c.category) for c in CONCEPTS
    ]
    assert icons.styles == tuple(artist.style for artist in ARTISTS)
    assert icons.colours == tuple(COLOURS)
    assert icons.backgrounds == tuple(BACKGROUNDS)
    assert icons.counts == ("two", "three", "four")
    assert all(icons.unknown_words(layout.example) == [] for layout in icons.layouts)


def test_the_manifest_lists_it() -> None:
    assert VOCABULARY in verify_folder(EMBEDDED_MODEL)
    assert VOCABULARY in json.loads((EMBEDDED_MODEL / MANIFEST).read_text())


def test_prompts_in_words_it_was_taught_have_no_unknown_word(icons: Vocabulary) -> None:
    lines = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    unknown = {line["prompt"]: icons.unknown_words(line["prompt"]) for line in lines if line["split"] == "seen"}
    assert unknown
    assert not {prompt: words for prompt, words in unknown.items() if words}


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a dog", []),
        ("A DOG, Noto emoji", []),
        ("three red cars on a blue background, Twemoji", []),
        ("the dog's house", []),
        ("a jack-o'-lantern beside a t-shirt", []),
        ("a jack-o\u2019-lantern", []),
        ("a gray high-heeled shoe", []),
        ("boxes of french fries", []),
        ("my grandmother", ["grandmother"]),
        ("a violin", ["violin"]),
        ("A Violin and a violin and a cello", ["Violin", "cello"]),
        ("seven cats", ["seven"]),
        ("7 cats", ["7"]),
        ("3 cats", []),
        ("\u732b", ["\u732b"]),
        ("a dog-shaped violin", ["dog-shaped", "violin"]),
        ("", []),
        ("!!! ...", []),
    ],
)
def test_unknown_words(icons: Vocabulary, prompt: str, unknown: list[str]) -> None:
    assert icons.unknown_words(prompt) == unknown


@pytest.mark.parametrize(
    ("word", "first"),
    [("violin", "guitar"), ("puppy", "dog"), ("Puppies", None), ("automobile", "car"), ("boats", "sailboat")],
)
def test_the_nearest_by_meaning(icons: Vocabulary, word: str, first: str | None) -> None:
    assert icons.nearest(word)[:1] == ([first] if first else ["dog"])


@pytest.mark.parametrize(
    ("word", "names"), [("elefant", ["elephant"]), ("girafe", ["giraffe"]), ("umbrela", ["umbrella"]), ("\u732b", [])]
)
def test_the_nearest_by_spelling(icons: Vocabulary, word: str, names: list[str]) -> None:
    assert icons.nearest(word) == names


def test_a_model_saved_again_still_knows_it(icons: Vocabulary, tmp_path: Path) -> None:
    parts = load_folder(EMBEDDED_MODEL, dtype=torch.float16, device=torch.device("cpu"))
    assert parts.vocabulary == icons
    save_folder(parts, tmp_path / "again")
    assert load_vocabulary(tmp_path / "again") == icons


def test_a_folder_that_does_not_say() -> None:
    assert load_vocabulary(EMBEDDED_TOKENIZER) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"concepts": 3}', '{"concepts": [], "words": [""]}', '{"concepts": [], "colors": []}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    folder = Path(shutil.copytree(EMBEDDED_TOKENIZER, tmp_path / "model"))
    (folder / VOCABULARY).write_text(text)
    with pytest.raises(WeightsError):
        load_vocabulary(folder)
