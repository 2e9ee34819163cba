"""Templates for further training captions of a scene, all as true of it as those of `scene_spec.write_captions`.

None is used by the paraphrased prompts in `prompts`, which test whether a model understands unfamiliar phrases.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from bitvar.icons.dataset.concepts import NUMBER_WORDS, Concept, named, with_article
from bitvar.icons.dataset.scene_spec import SceneSpec, write_captions

# fmt: off
SINGLE: Final = (
    "{name}", "{Name}", "one {name}", "an image of {a}", "a small picture showing {a}", "there is {a}",
    "{a} on a white background", "{name} picture", "the {name}", "this is {a}",
)
BACKGROUND: Final = (
    "{a} against {background}", "{a} against {a_background} background", "{a}, background: {background}",
    "on {a_background} background, {a}", "{a_background} background with {a}", "{a} before {a_background} backdrop",
    "{a}, {background} backdrop", "{a} on {a_background} ground", "{background} background, {a}",
    "{a_background} picture with {a} in the middle", "{a} and {a_background} background",
)
PAIR: Final = (
    "{a} & {b}", "{a}, {b}", "{a} beside {b}", "{a} alongside {b}", "two things: {a} and {b}",
    "there is {a} and there is {b}", "a picture of {a} and {b}", "{a} accompanied by {b}", "{name} and {other}",
    "{Name}, {other}", "a pair: {a}, {b}", "{a} as well as {b}",
)
COUNT: Final = (
    "{number} {plural} together", "{number} {plural} in all", "{plural}: {number}", "a picture of {number} {plural}",
    "{digit} identical {plural}", "there are {number} {plural}", "{number} times {a}", "{a}, {number} times",
    "{number} small {plural}", "{plural} ({digit})", "{number} {plural} and nothing more",
)
COLOUR: Final = (
    "{plain}, {colour}", "{colour} {name}", "{plain} of {colour} colour", "{coloured}",
    "a picture of {a}", "{name}, all {colour}", "{plain} whose colour is {colour}", "the {name} is {colour}",
    "{plain} made {colour}", "{colour}: {name}", "{plain} ({colour})",
)
COLOUR_PAIR: Final = (
    "{a} & {b}", "{a}, {b}", "{a} beside {b}", "{colour} {name}, {other_colour} {other}", "a pair: {a}, {b}",
    "{plain} ({colour}) and {other_plain} ({other_colour})", "the {name} is {colour}, the {other} is {other_colour}",
    "{coloured} and {other_coloured}", "there is {a} and there is {b}",
    "{plain} of {colour} colour and {other_plain} of {other_colour} colour", "{a} alongside {b}",
    "{name} {colour}, {other} {other_colour}",
)
LEFT: Final = (
    "{a} left of {b}", "{b} right of {a}", "left: {a}, right: {b}", "from left to right, {a} and {b}",
    "to the left of {b} there is {a}", "to the right of {a} there is {b}", "{a} at the left side of {b}",
    "{b} at the right side of {a}", "{a} stands left, {b} stands right", "at left {a}, at right {b}",
    "first {a}, then {b} to the right of it", "{name} left, {other} right", "right of {a}, {b}",
    "{b} is the right one, {a} the left one",
    "{b} has {a} to its left", "{a} has {b} to its right", "{b}, and {a} to its left", "{a}, and {b} to its right",
    "right: {b}, left: {a}", "{other} right, {name} left", "at right {b}, at left {a}",
    "from right to left, {b} and {a}", "the left half shows {a}, the right half {b}",
    "the right half shows {b}, the left half {a}", "next to {b}, at its left, {a}", "next to {a}, at its right, {b}",
    "{b} stands right, {a} stands left", "{b} whose left neighbour is {a}", "{a} whose right neighbour is {b}",
)
ABOVE: Final = (
    "{b} under {a}", "{b} underneath {a}", "top: {a}, bottom: {b}", "from top to bottom, {a} and {b}",
    "{a} higher than {b}", "{b} lower than {a}", "below {a} there is {b}", "above {b} there is {a}",
    "{name} top, {other} bottom", "in the upper half {a}, in the lower half {b}", "under {a}, {b}",
    "{a} is the upper one, {b} the lower one", "{a}, and under it {b}", "{b}, and above it {a}",
    "{b} has {a} above it", "{a} has {b} below it", "bottom: {b}, top: {a}", "from bottom to top, {b} and {a}",
    "{other} bottom, {name} top", "the upper half shows {a}, the lower half {b}", "low {b}, high {a}",
    "the lower half shows {b}, the upper half {a}", "{b} down below, {a} up above", "{a} up above, {b} down below",
    "{b} topped by {a}", "{a} hovers above {b}", "{b} lies below {a}", "in the lower half {b}, in the upper half {a}",
    "{b} is the lower one, {a} the upper one",
)
STYLED: Final = (
    "{text}, {style}", "{text} in {style} style", "{text} ({style})", "{text}. {style}.",
    "{text}, in the style of {style}", "{style} style, {text}", "{text} as {a_style}", "{style}, {text}",
    "{text}, {style} style",
)
# fmt: on

TEMPLATES: Final = {
    "single": SINGLE,
    "background": BACKGROUND,
    "two": PAIR,
    "count": COUNT,
    "colour": COLOUR,
    "colour_pair": COLOUR_PAIR,
    "left": LEFT,
    "above": ABOVE,
}
"""The templates of each `template_kind`."""


def write_all_captions(spec: SceneSpec, concepts: Mapping[str, Concept], *, style: str) -> tuple[str, ...]:
    """Write every caption of a scene: those of `write_captions`, then every template without and with the style."""
    words = name_words(spec, concepts)
    plain = [template.format(**words) for template in TEMPLATES[template_kind(spec)]]
    styled = [_with_style(text, template, style) for text in plain for template in STYLED]
    return tuple(dict.fromkeys((*write_captions(spec, concepts, style=style), *plain, *styled)))


def draw_captions(
    spec: SceneSpec, concepts: Mapping[str, Concept], *, style: str, rng: np.random.Generator
) -> tuple[str, ...]:
    """Draw five training captions of a scene: the first two of `write_captions`, another of them, and two templates.

    The first of these templates names the style, the second doesn't.
    """
    usual = write_captions(spec, concepts, style=style)
    words, templates = name_words(spec, concepts), TEMPLATES[template_kind(spec)]
    text, other = (templates[i].format(**words) for i in rng.integers(len(templates), size=2))
    styled = _with_style(text, STYLED[rng.integers(len(STYLED))], style)
    drawn = (*usual[:2], usual[2 + rng.integers(len(usual) - 2)], styled, other)
    return tuple(dict.fromkeys(drawn))


def _with_style(text: str, template: str, style: str) -> str:
    return template.format(text=text, style=style, a_style=with_article(style))


def template_kind(spec: SceneSpec) -> str:
    """Name the templates that fit: the scene's kind, "background" on a colour, "left" or "above" for positions."""
    if spec.kind == "position":
        return "left" if spec.relation in ("left", "right") else "above"
    return "background" if spec.background != "white" else spec.kind


def name_words(spec: SceneSpec, concepts: Mapping[str, Concept]) -> dict[str, str]:
    """Return the values of a template's fields; in a relation, `a` is the left or the upper object."""
    first, second = spec.objects[0], spec.objects[-1]
    if spec.relation in ("right", "below"):
        first, second = second, first
    words = {
        "a": named(concepts[first.concept], first.colour),
        "b": named(concepts[second.concept], second.colour),
        "plain": with_article(first.concept),
        "other_plain": with_article(second.concept),
        "name": first.concept,
        "Name": first.concept[0].upper() + first.concept[1:],
        "other": second.concept,
        "plural": concepts[first.concept].plural,
        "background": spec.background,
        "a_background": with_article(spec.background),
    }
    if first.colour is not None:
        words |= {
            "colour": first.colour,
            "other_colour": second.colour or "",
            "coloured": with_article(f"{first.colour}-coloured {first.concept}"),
            "other_coloured": with_article(f"{second.colour}-coloured {second.concept}"),
        }
    if spec.count > 1:
        words |= {"number": NUMBER_WORDS[spec.count], "digit": str(spec.count)}
    return words
