"""The concepts and words that a model was trained on, and the words of a prompt that are not among them.

They are read from `vocabulary.json` in a model folder, written by the script that trained the model; many models have
none. No model runs here: a word is known by its spelling, and `related` words were computed beforehand.
"""

import difflib
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from bitvar.config import Config
from bitvar.errors import UsageError, WeightsError

VOCABULARY: Final = "vocabulary.json"

_MAX_WORDS: Final = 100_000
_WORD: Final = re.compile(r"\d+|[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
_TAKES_AN: Final = re.compile(r"(?!uni|one|eu)[aeiou]", re.IGNORECASE)
_NEAR: Final = 0.8
"""Similarity of two spellings, from 0 to 1, above which one is suggested for the other."""

_FUNCTION_TEXT: Final = (
    "a an the this that these those my your his her its our their some any each every all both no not only just "
    "i you he she it we they me him them us who which what whose where when there here "
    "and or but with without of in on at to from by for as into onto over under above below beside besides next near "
    "between behind before after across through around against inside outside off out up down left right top bottom "
    "middle center centre side is are was were be been being has have had having do does did can will would should "
    "very so too also than then please draw make show paint image image drawing photo"
)
_FUNCTION_WORDS: Final = frozenset(_FUNCTION_TEXT.split())
"""Words that name nothing that could be drawn."""

Word = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[tuple[Word, ...], Field(max_length=_MAX_WORDS)]


class KnownConcept(Config):
    """A concept that a model can draw.

    Attributes:
        name: Noun phrase without an article.
        plural: Noun phrase after a number.
        category: Group that the concept is listed under.
        related: Words of similar meaning that the model was not trained on.
    """

    name: Word
    plural: Word
    category: Word
    related: Words = ()


class Layout(Config):
    """An arrangement that a model was trained on, with a prompt that asks for it."""

    name: Word
    example: Word


class Vocabulary(Config):
    """The content of `vocabulary.json`.

    Attributes:
        concepts: Concepts that the model can draw.
        styles: Styles that a prompt may name.
        colours: Colours of objects.
        backgrounds: Colours of backgrounds.
        counts: Numbers of equal objects that the model was trained on, as words.
        layouts: Arrangements, each with an example.
        words: All other words of the captions.
    """

    concepts: tuple[KnownConcept, ...] = Field(max_length=_MAX_WORDS)
    styles: Words = ()
    colours: Words = ()
    backgrounds: Words = ()
    counts: Words = ()
    layouts: tuple[Layout, ...] = Field(default=(), max_length=1000)
    words: Words = ()

    def unknown_words(self, prompt: str) -> list[str]:
        """List the words of a prompt that the model was not trained on, once each, in order and as written.

        Articles, pronouns, prepositions and similar words are never listed.
        """
        found = {match[0].lower(): match[0] for match in reversed(list(_WORD.finditer(prompt)))}
        order = sorted(found, key=lambda word: prompt.find(found[word]))
        return [found[word] for word in order if not self._knows(word)]

    def example_prompts(self, limit: int) -> tuple[str, ...]:
        """List prompts that the model was made for: one for each arrangement, then concepts in turn with the styles.

        Args:
            limit: Most prompts to list.
        """
        prompts = [layout.example for layout in self.layouts]
        styles = self.styles or ("",)
        step = max(1, len(self.concepts) // max(1, limit - len(prompts)))
        for turn, concept in enumerate(self.concepts[::step]):
            article = "an" if _TAKES_AN.match(concept.name) else "a"
            style = styles[turn % len(styles)]
            prompts.append(f"{article} {concept.name}, {style}" if style else f"{article} {concept.name}")
        return tuple(dict.fromkeys(prompts))[:limit]

    def nearest(self, word: str) -> list[str]:
        """List up to three known concepts that are closest to a word, by meaning or else by spelling."""
        forms = _forms(word.lower())
        by_meaning = [concept.name for concept in self.concepts if any(form in concept.related for form in forms)]
        if by_meaning:
            return by_meaning[:3]
        spelled = {part: concept.name for concept in reversed(self.concepts) for part in _words_of(concept.name)}
        near = difflib.get_close_matches(word.lower(), spelled, n=3, cutoff=_NEAR)
        return list(dict.fromkeys(spelled[part] for part in near))

    def _knows(self, word: str) -> bool:
        whole = any(form in self._known for form in _forms(word))
        parts = re.split(r"[-'\u2019]", word)
        return whole or (len(parts) > 1 and all(self._knows(part) for part in parts))

    @cached_property
    def _known(self) -> frozenset[str]:
        phrases = [phrase for concept in self.concepts for phrase in (concept.name, concept.plural)]
        phrases += [*self.styles, *self.colours, *self.backgrounds, *self.counts, *self.words]
        return _FUNCTION_WORDS | {part for phrase in phrases for part in _words_of(phrase)}


def load_vocabulary(model_folder: Path) -> Vocabulary | None:
    """Read the vocabulary of a model folder; None if it has none.

    Raises:
        WeightsError: for a damaged file.
    """
    path = model_folder / VOCABULARY
    if not path.is_file():
        return None
    try:
        return Vocabulary.load(path)
    except UsageError as error:
        raise WeightsError(str(error)) from None


def words_of(text: str) -> list[str]:
    """List the words and numbers of a text, in lower case."""
    return [match[0].lower() for match in _WORD.finditer(text)]


def _words_of(phrase: str) -> set[str]:
    """Return the words of a phrase, and the parts of hyphenated words."""
    words = words_of(phrase)
    return {*words, *(part for word in words for part in word.split("-"))}


def _forms(word: str) -> list[str]:
    """List the forms in which a lower-case word may be known: as it is, without a possessive, and in the singular."""
    word = word.replace("\u2019", "'").removesuffix("'s")
    forms = [word, word.replace("gray", "grey")]
    if len(word) > 3 and word.endswith("s"):
        forms.append(word[:-1])
        forms += [word[:-2]] if word.endswith("es") else []
        forms += [f"{word[:-3]}y"] if word.endswith("ies") else []
    return forms
