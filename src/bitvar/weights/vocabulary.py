"""What a model knows: the words of the captions it was trained on, and which of a prompt's words are not among them.

Read from `vocabulary.json` in a model folder, which the script that trained the model wrote; many models have none.
Knows no model: whether a word is known is a question of spelling here, and `related` was computed once beforehand.
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
_NEAR: Final = 0.8
"""How alike two spellings must be, from 0 to 1, for one to be offered in place of the other."""

_FUNCTION_TEXT: Final = (
    "a an the this that these those my your his her its our their some any each every all both no not only just "
    "i you he she it we they me him them us who which what whose where when there here "
    "and or but with without of in on at to from by for as into onto over under above below beside besides next near "
    "between behind before after across through around against inside outside off out up down left right top bottom "
    "middle center centre side is are was were be been being has have had having do does did can will would should "
    "very so too also than then please draw make show paint image image drawing photo"
)
_FUNCTION_WORDS: Final = frozenset(_FUNCTION_TEXT.split())
"""Words that name nothing to draw."""

Word = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[tuple[Word, ...], Field(max_length=_MAX_WORDS)]


class KnownConcept(Config):
    """One thing that a model can draw.

    Attributes:
        name: the noun phrase without an article.
        plural: the phrase after a number.
        category: the group it is listed under.
        related: words that the model was never taught and whose meaning is near.
    """

    name: Word
    plural: Word
    category: Word
    related: Words = ()


class Layout(Config):
    """One way to arrange an image that a model was taught, with a prompt that asks for it."""

    name: Word
    example: Word


class Vocabulary(Config):
    """What `vocabulary.json` holds.

    Attributes:
        concepts: the things the model can draw.
        styles: the styles that a prompt may name.
        colours: colours of objects.
        backgrounds: colours of backgrounds.
        counts: the numbers of equal objects it was taught, as words.
        layouts: arrangements, each with an example.
        words: every other word of its captions.
    """

    concepts: tuple[KnownConcept, ...] = Field(max_length=_MAX_WORDS)
    styles: Words = ()
    colours: Words = ()
    backgrounds: Words = ()
    counts: Words = ()
    layouts: tuple[Layout, ...] = Field(default=(), max_length=1000)
    words: Words = ()

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the model was never taught, once each, in order and as they are written.

        Articles, pronouns, prepositions and the like name nothing to draw, and are never listed.
        """
        found = {match[0].lower(): match[0] for match in reversed(list(_WORD.finditer(prompt)))}
        order = sorted(found, key=lambda word: prompt.find(found[word]))
        return [found[word] for word in order if not self._knows(word)]

    def nearest(self, word: str) -> list[str]:
        """Up to three things the model knows that come nearest to a word: by meaning, or else by spelling."""
        forms = _forms(word.lower())
        by_meaning = [concept.name for concept in self.concepts if any(form in concept.related for form in forms)]
        if by_meaning:
            return by_meaning[:3]
        spelled = {part: concept.name for concept in reversed(self.concepts) for part in _parts(concept.name)}
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
        return _FUNCTION_WORDS | {part for phrase in phrases for part in _parts(phrase)}


def load_vocabulary(model_folder: Path) -> Vocabulary | None:
    """What the model in a folder knows; None where the folder doesn't say.

    Raises:
        WeightsError: for a file that is damaged.
    """
    path = model_folder / VOCABULARY
    if not path.is_file():
        return None
    try:
        return Vocabulary.load(path)
    except UsageError as error:
        raise WeightsError(str(error)) from None


def words_of(text: str) -> list[str]:
    """The words and numbers of a text, in small letters."""
    return [match[0].lower() for match in _WORD.finditer(text)]


def _parts(phrase: str) -> set[str]:
    """The words of a phrase, and the parts of those that are joined by a hyphen."""
    words = words_of(phrase)
    return {*words, *(part for word in words for part in word.split("-"))}


def _forms(word: str) -> list[str]:
    """A word in small letters as it may stand in the list: as it is, without a possessive, and in the singular."""
    word = word.replace("\u2019", "'").removesuffix("'s")
    forms = [word, word.replace("gray", "grey")]
    if len(word) > 3 and word.endswith("s"):
        forms.append(word[:-1])
        forms += [word[:-2]] if word.endswith("es") else []
        forms += [f"{word[:-3]}y"] if word.endswith("ies") else []
    return forms
