r"""Write the embedded model's vocabulary into its folder: `vocabulary.json`, and the folder's manifest.

python scripts/icons/vocabulary.py --model src/bitvar/pretrained/icons

Concepts, styles, colours, counts and layouts are those of `bitvar.icons.dataset`. Words related to a concept are the
whole words of the text encoder's own vocabulary that lie nearest to it by the mean of its last hidden states.
"""

import argparse
import string
from pathlib import Path

import torch

from bitvar.icons.dataset.caption_templates import STYLED, TEMPLATES
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, CONCEPTS, NUMBER_WORDS
from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec, write_captions
from bitvar.icons.dataset.sources import ARTISTS
from bitvar.text import TextEncoder, load_text_encoder
from bitvar.weights.digests import verify_folder, write_manifest
from bitvar.weights.vocabulary import VOCABULARY, KnownConcept, Layout, Vocabulary, words_of

LEAST_SIMILARITY = 0.5
"""Smallest cosine of a word and the nearest concept for the word to be listed."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the embedded model's vocabulary.")
    parser.add_argument("--model", type=Path, required=True, help="model folder; its vocabulary and manifest change")
    folder = parser.parse_args().model
    verify_folder(folder)
    known = vocabulary()
    known = with_related(known, load_text_encoder(folder / "text_encoder"))
    (folder / VOCABULARY).write_text(known.dump(), encoding="utf-8")
    write_manifest(folder)


def vocabulary() -> Vocabulary:
    """Collect the vocabulary of the icon set, without related words."""
    examples = {
        "one thing": SceneSpec("single", "noto", (ObjectSpec("dog"),)),
        "on a coloured background": SceneSpec("background", "noto", (ObjectSpec("dog"),), background="blue"),
        "in another colour": SceneSpec("colour", "noto", (ObjectSpec("car", "green"),)),
        "two to four of a kind": SceneSpec("count", "noto", (ObjectSpec("apple"),), count=3),
        "two things": SceneSpec("two", "noto", (ObjectSpec("cat"), ObjectSpec("balloon"))),
        "two things in colours": SceneSpec(
            "colour_pair", "noto", (ObjectSpec("car", "red"), ObjectSpec("book", "blue"))
        ),
        "side by side": SceneSpec("position", "noto", (ObjectSpec("crab"), ObjectSpec("laptop")), relation="left"),
        "one above the other": SceneSpec(
            "position", "noto", (ObjectSpec("star"), ObjectSpec("house")), relation="above"
        ),
    }
    concepts = {concept.name: concept for concept in CONCEPTS}
    captions = {name: write_captions(scene, concepts, style=ARTISTS[0].style) for name, scene in examples.items()}
    templates = [text for texts in (*TEMPLATES.values(), STYLED) for text in texts]
    plain = [" ".join(text for _, text in _literals(template)) for template in templates]
    words = {
        word for text in [*plain, *(c for several in captions.values() for c in several)] for word in words_of(text)
    }
    styles = tuple(artist.style for artist in ARTISTS)
    named = {word for phrase in (*styles, *COLOURS, *BACKGROUNDS, *concepts) for word in words_of(phrase)}
    digits = {str(number) for number in NUMBER_WORDS} | {"1", "one"}
    return Vocabulary(
        concepts=tuple(KnownConcept(name=c.name, plural=c.plural, category=c.category) for c in CONCEPTS),
        styles=styles,
        colours=tuple(COLOURS),
        backgrounds=tuple(BACKGROUNDS),
        counts=tuple(NUMBER_WORDS.values()),
        layouts=tuple(Layout(name=name, example=several[1]) for name, several in captions.items()),
        words=tuple(sorted((words | digits | {"coloured", "colored", "color"}) - named)),
    )


def _literals(template: str) -> list[tuple[str, str]]:
    return [("", literal) for literal, _, _, _ in string.Formatter().parse(template)]


@torch.inference_mode()
def with_related(known: Vocabulary, encoder: TextEncoder) -> Vocabulary:
    """List the encoder's own words under the concept that each is nearest to."""
    own = encoder.tokenizer.words()
    words = sorted(word for word in own if word.isascii() and word.isalpha() and len(word) > 2)
    words = [word for word in words if known.unknown_words(word)]
    concepts = _embed(encoder, [concept.name for concept in known.concepts])
    best, which = (_embed(encoder, words) @ concepts.T).max(dim=1)
    related: dict[int, list[str]] = {}
    for word, similarity, index in zip(words, best.tolist(), which.tolist(), strict=True):
        if similarity >= LEAST_SIMILARITY:
            related.setdefault(index, []).append(word)
    return known.model_copy(
        update={
            "concepts": tuple(
                concept.model_copy(update={"related": tuple(related.get(index, ()))})
                for index, concept in enumerate(known.concepts)
            )
        }
    )


def _embed(encoder: TextEncoder, phrases: list[str], batch: int = 256) -> torch.Tensor:
    """Embed each phrase as a vector of length 1: the mean of the last hidden states of its tokens."""
    rows = []
    for start in range(0, len(phrases), batch):
        tokens = [torch.tensor(encoder.ids(text)) for text in phrases[start : start + batch]]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True)
        states = encoder.model(ids, mask.bool())[-1]
        rows.append((states * mask[..., None]).sum(dim=1))
    return torch.nn.functional.normalize(torch.cat(rows), dim=1)


if __name__ == "__main__":
    main()
