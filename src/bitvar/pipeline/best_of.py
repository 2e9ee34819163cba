"""Best of n: many seeds begin, previews decide which of them go on, and only those are drawn to the end (TTS-VAR).

An image that is kept is the image of its seed, bit for bit, so its record repeats it by itself. Knows no network: who
calls passes in what scores images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from bitvar import arguments
from bitvar.arguments import MAX_IMAGES
from bitvar.errors import UsageError
from bitvar.pipeline.request import GenerationRequest
from bitvar.pipeline.results import GenerationOutput, ScaleEvent
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.watermark import Watermark

if TYPE_CHECKING:
    from bitvar.pipeline.text_to_image import InfinityPipeline

By: TypeAlias = Literal["score", "diversity"]


@runtime_checkable
class Scorer(Protocol):
    """Judges how good images are for their prompt; only the order of the scores matters."""

    def __call__(self, images: Float[Tensor, "n c H W"], prompt: str) -> Float[Tensor, " n"]:
        """Score images in [-1, 1], finished ones or previews: higher is better."""
        ...


@runtime_checkable
class Features(Protocol):
    """Computes features in which images that look alike are near each other."""

    def __call__(self, images: Float[Tensor, "n c H W"]) -> Float[Tensor, "n f"]:
        """Compute the features of images in [-1, 1]."""
        ...


@dataclass(frozen=True)
class Keep:
    """A choice among the images that are left.

    Attributes:
        after: Number of scales that are drawn before it.
        count: Number of images that go on.
        by: "score" keeps those with the highest scores; "diversity" keeps medoids, the images that together lie
            nearest to all others.
    """

    after: int
    count: int
    by: By = "score"


@dataclass(frozen=True)
class BestOf:
    """The images that were kept, best first.

    Attributes:
        output: Images, seeds and metadata, as of a call.
        scores: Score of each image.
        survivors: Seeds that were left after each choice before the last one.
    """

    output: GenerationOutput
    scores: list[float]
    survivors: list[list[int]]


def best_of(
    pipe: "InfinityPipeline",
    prompt: str,
    *,
    scorer: Scorer,
    n: int = 8,
    num_images: int = 1,
    keep: Sequence[Keep] = (),
    features: Features | None = None,
    watermark: Watermark | None = None,
    **options: Any,
) -> BestOf:
    """Draw the first scales of n seeds, keep some by their previews, draw those on, and return the best.

    Args:
        pipe: Pipeline.
        prompt: One prompt.
        scorer: Scorer of previews and images.
        n: Number of seeds that begin.
        num_images: Number of images to return.
        keep: Choices on the way, each after more scales than the one before and leaving fewer images. None of them
            draws all n images to the end.
        features: Features for choices by diversity.
        watermark: Watermark to draw the bits with.
        options: Options of a call: fields of `GenerationRequest` and `SamplingParams`. `seed` is the first seed, or n
            of them. Scales before a choice are computed again by those that go on, in `n` images' time at most.

    Raises:
        UsageError: for choices out of order, or as a call.
    """
    count = arguments.checked("n", n, arguments.whole_number)
    wanted = arguments.checked("num_images", num_images, arguments.whole_number)
    text = arguments.checked("prompt", prompt, arguments.text)
    for name in ("constraint", "num_images_per_prompt"):
        if name in options:
            raise UsageError(f"best_of takes no {name}.", "it draws n images, and fixes their bits itself", "use n")
    if not 1 <= wanted <= count <= MAX_IMAGES:
        why = f"n is {count}, and num_images {wanted}"
        raise UsageError("Can't choose these images.", why, f"give 1 <= num_images <= n <= {MAX_IMAGES}")
    given = {**options, "num_images_per_prompt": count}
    request = GenerationRequest.from_options(text, given, source="the options of this call")
    stages = [Keep(0, count), *keep]
    _check(stages, wanted, features)

    seeds, bits, survivors = request.seeds(), (), []
    for stage in stages[1:]:
        event = _draw(pipe, request, seeds, bits, watermark, num_scales=stage.after)
        chosen = _choose(event.pixels, text, stage, scorer, features)
        seeds, bits = [seeds[i] for i in chosen], tuple(scale[chosen] for scale in event.bits)
        survivors.append(seeds)
    event = _draw(pipe, request, seeds, bits, watermark, num_scales=None)
    scores = _scores(scorer, event.pixels, text)
    order = scores.argsort(descending=True, stable=True).tolist()[:wanted]
    images = event.preview()
    output = GenerationOutput(
        [images[i] for i in order], [event.seeds[i] for i in order], [event.metadata[i] for i in order]
    )
    return BestOf(output, scores[order].tolist(), survivors)


def medoids(features: Float[Tensor, "n f"], count: int) -> list[int]:
    """Choose the members of a set that together lie nearest to all others.

    The sum over the members of their distance to the nearest chosen one is minimised by adding the best member at a
    time, and then exchanging members as long as that helps. Nothing in it is random.

    Args:
        features: Features of each member.
        count: Number of members to choose.

    Returns:
        Their indices, in order.
    """
    distance = torch.cdist(features.double(), features.double())
    chosen: list[int] = []
    while len(chosen) < count:
        rest = [i for i in range(len(features)) if i not in chosen]
        chosen.append(min(rest, key=lambda i: _cost(distance, [*chosen, i])))
    improved = True
    while improved:
        improved = False
        for place in range(count):
            for i in range(len(features)):
                other = [*chosen[:place], i, *chosen[place + 1 :]]
                if i not in chosen and _cost(distance, other) < _cost(distance, chosen) - 1e-9:
                    chosen, improved = other, True
    return sorted(chosen)


def _cost(distance: Float[Tensor, "n n"], chosen: Sequence[int]) -> float:
    return distance[:, list(chosen)].amin(dim=1).sum().item()


def _choose(
    pixels: Float[Tensor, "n c H W"], prompt: str, stage: Keep, scorer: Scorer, features: Features | None
) -> list[int]:
    """Choose the images that go on, in the order of their seeds."""
    if stage.by == "diversity":
        assert features is not None, "checked before"
        with torch.inference_mode():
            return medoids(features(pixels[:, :3]).cpu(), stage.count)
    return sorted(_scores(scorer, pixels, prompt).argsort(descending=True, stable=True).tolist()[: stage.count])


def _scores(scorer: Scorer, pixels: Float[Tensor, "n c H W"], prompt: str) -> Num[Tensor, " n"]:
    with torch.inference_mode():
        scores = scorer(pixels[:, :3], prompt).float().cpu()
    if scores.shape != (len(pixels),) or not torch.isfinite(scores).all():
        why = f"for {len(pixels)} images it gave {arguments.shown(scores)}"
        raise UsageError("The scorer gave no score for each image.", why, "return one finite number per image")
    return scores


def _draw(
    pipe: "InfinityPipeline",
    request: GenerationRequest,
    seeds: Sequence[int],
    bits: Sequence[Tensor],
    watermark: Watermark | None,
    *,
    num_scales: int | None,
) -> ScaleEvent:
    """Draw seeds up to a number of scales, and cancel the rest; None for all of them.

    The scales before are held to the bits that were judged. Where hooks need their log-odds or fix bits themselves,
    they are drawn again from the same seeds instead, which gives the same bits.
    """
    needs_logits = request.quality is not None and request.quality.spatial_guidance is not None
    held = PrefixBits(bits) if bits and request.edit is None and not needs_logits else None
    changes: Mapping[str, Any] = {"seed": tuple(seeds), "num_images_per_prompt": len(seeds)}
    stream = pipe.stream_request(request.model_copy(update=changes), constraint=held, watermark=watermark)
    event = None
    for event in stream:
        if num_scales is not None and num_scales > event.total:
            why = f"a choice comes after {num_scales} scales, and this size has {event.total}"
            raise UsageError("Can't choose among the images.", why, "choose after fewer scales")
        if event.index + 1 == num_scales:
            break
    assert event is not None
    stream.close()  # type: ignore[attr-defined]
    return event


def _check(stages: Sequence[Keep], wanted: int, features: Features | None) -> None:
    for before, stage in pairwise(stages):
        if stage.after <= before.after or not wanted <= stage.count <= before.count:
            why = f"after {stage.after} scales, {stage.count} of {before.count} images are left"
            fix = "let each choice come after more scales, and leave fewer images, but enough"
            raise UsageError("The choices are out of order.", why, fix)
        if stage.by not in ("score", "diversity"):
            raise UsageError(f"Can't choose by {arguments.shown(stage.by)}.", fix="choose by score or diversity")
        if stage.by == "diversity" and features is None:
            raise UsageError("A choice by diversity needs features.", fix="give features, or choose by score")
