"""Diagnosis of a run from its metrics: known training failures that a falling loss can hide.

Also warns about small training sets before a run starts. This module knows metrics by name (docs/training.md), not
models or tasks.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from bitvar.costs.flops import num_parameters
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.metrics_log import from_one

Series: TypeAlias = Sequence[tuple[int, float]]
"""Pairs (step, value), in the order of the steps."""

Metrics: TypeAlias = Mapping[str, Mapping[str, Series]]
"""Series by phase (`train`, `validation`) and metric name."""

COIN_TOSS: Final = 0.53
"""Maximum bit accuracy of a model that has learned nothing."""

PATIENCE: Final = 500
"""Number of steps after which accuracy near a coin toss is a sign of trouble."""

SPIKE: Final = 10.0
"""Ratio to the median above which a gradient norm counts as a spike."""

DEAD: Final = 0.3
"""Entropy of the mean bit, in bits, below which a tokenizer's scale carries little information."""

YOUTH: Final = 40
"""Number of first steps in which an encoder may still give all images the same coarse bits."""

BATCHES: Final = 2
"""Minimum number of consecutive logged batches in which a scale's bits hardly vary that count as a collapse."""

IMAGES: Final = 16
"""Minimum number of images in those batches together; a few plain images can have the same coarse bits by chance."""

FEW: Final = 500
"""Number of training images below which a model trained from scratch memorizes them instead of generalizing."""

MIN_POINTS: Final = 6

GAP: Final = 1.25
"""Ratio of validation to training loss above which a model is memorizing.

Only the training loss includes flipped bits and dropped prompts, which raise it.
"""

_ENTROPY: Final = "bit_entropy/scale_"
_TODO_OVERFIT: Final = (
    "take the checkpoint with the best validation metric (bitvar export --best), or use more images, a lower learning"
    " rate or a smaller model"
)
_TODO_START: Final = (
    "start from a trained model (--init icons) or train an adapter; use more images, a lower learning rate or a smaller"
    " model"
)
_TODO_DEAD: Final = "raise entropy, or truncation so that the early scales carry more; lower the learning rate"


@dataclass(frozen=True)
class Trouble:
    """A sign of trouble.

    Attributes:
        what: Observation, as a sentence.
        todo: Remedy to try.
    """

    what: str
    todo: str


def find_trouble(metrics: Metrics, *, batch_size: int = IMAGES) -> list[Trouble]:
    """Find every sign of trouble in a run's metrics, the most serious first. A very young run shows none.

    Args:
        metrics: Metrics of the run.
        batch_size: Number of images in a step.
    """
    train, validation = metrics.get("train", {}), metrics.get("validation", {})
    found = [
        *_stuck(train),
        *_overfit(train, validation),
        *(find_collapse(train, batch_size=batch_size) or _dead_bits(validation)),
    ]
    return [*found, *_stalled_scales(validation), *_left_out(train), *_spikes(train)]


def describe_set(images: int, config: TransformerTraining, *, is_new: bool) -> list[str]:
    """Describe for the user, before a run starts, the limits of a small training set. A large set has none.

    Args:
        images: Number of training images.
        config: Configuration of the run.
        is_new: Whether the model is trained from scratch.

    Returns:
        One warning or note, or an empty list.
    """
    optimization = config.optimization
    if images >= FEW or (not is_new and (config.lora is not None or config.control is not None)):
        return []
    shows = optimization.steps * optimization.batch_size / images
    shown = f"{images:,} training images; each is shown {shows:,.{int(shows < 10)}f} times"
    if not is_new:
        todo = (
            "watch the validation loss and export the best checkpoint (bitvar export RUN DEST --best --init MODEL);"
            " an adapter forgets less (docs/lora.md)"
        )
        return [f"NOTE: {shown}. A trained model soon memorises such a small set: {todo}"]
    parameters = num_parameters(config.model)
    return [
        f"WARNING: {shown}, and the model, which starts from scratch, has {parameters:,} parameters,"
        f" {parameters // images:,} per image. Fewer than {FEW} images are learnt by heart: new prompts give blobs or"
        " copies.\n"
        "  do:  start from a trained model (recipes/icons/finetune.py with --init icons), train an adapter"
        " (docs/lora.md), or add images"
    ]


def batches_for_collapse(batch_size: int) -> int:
    """Return the number of consecutive logged batches that must show a collapse."""
    return max(BATCHES, -(-IMAGES // batch_size))


def find_collapse(train: Mapping[str, Series], *, batch_size: int = IMAGES) -> list[Trouble]:
    """Find the scales of a tokenizer whose bits hardly varied in the last logged batches. The first steps don't count.

    Args:
        train: Training metrics.
        batch_size: Number of images in a step.
    """
    collapsed, wanted = {}, batches_for_collapse(batch_size)
    for name, series in train.items():
        last = series[-wanted:]
        old_enough = len(last) == wanted and last[0][0] >= YOUTH
        if name.startswith(_ENTROPY) and old_enough and max(value for _, value in last) < DEAD:
            collapsed[_scale(name)] = last[-1][1]
    if not collapsed:
        return []
    step = max(series[-1][0] for name, series in train.items() if name.startswith(_ENTROPY))
    what = f"Bits of scale {_listed(collapsed)} hardly vary any more at step {step:,}: they collapse."
    return [Trouble(what, _TODO_DEAD)]


def _stuck(train: Mapping[str, Series]) -> list[Trouble]:
    accuracy = train.get("accuracy", ())
    if not accuracy or accuracy[-1][0] < PATIENCE or accuracy[-1][1] > COIN_TOSS:
        return []
    return [
        Trouble(
            f"Bit accuracy is {accuracy[-1][1]:.1%} at step {accuracy[-1][0]:,}: a coin toss.",
            "check that the tokenizer is the right one and the captions fit the images; try another learning rate",
        )
    ]


def _left_out(train: Mapping[str, Series]) -> list[Trouble]:
    skipped = train.get("skipped", ())
    if not skipped or not skipped[-1][1]:
        return []
    return [
        Trouble(
            f"{skipped[-1][1]:.0f} updates were left out by step {skipped[-1][0]:,}: loss or gradient was not finite.",
            "lower the learning rate, or raise warmup_steps; a few in a long run do no harm",
        )
    ]


def _overfit(train: Mapping[str, Series], validation: Mapping[str, Series]) -> list[Trouble]:
    """Find a validation loss that rises, from the start or later, or stays far above the training loss."""
    losses, trained = validation.get("loss", ()), train.get("loss", ())
    if len(losses) < 2 or len(trained) < 2 or trained[-1][1] > statistics.median(value for _, value in trained):
        return []
    best_step, best = min(losses, key=lambda point: point[1])
    last_step, last = losses[-1]
    after = sum(step > best_step for step, _ in losses)
    if best_step == losses[0][0] and after >= 2 and last > 1.01 * best:
        what = (
            f"Validation loss rises from the start: {best:.4g} at step {best_step:,}, {last:.4g} at step {last_step:,}."
        )
        return [Trouble(f"{what} The model does not generalize to other images.", _TODO_START)]
    if len(losses) >= 4 and len(trained) >= MIN_POINTS and last > 1.02 * best and after >= 2:
        what = f"Validation loss rose from {best:.4g} at step {best_step:,} to {last:.4g} at step {last_step:,}."
        return [Trouble(what, _TODO_OVERFIT)]
    recent = statistics.median(value for _, value in trained[-3:])
    if len(losses) >= 2 and len(trained) >= MIN_POINTS and last > GAP * recent:
        what = f"Validation loss, {last:.4g}, is far above that of training, {recent:.4g}"
        return [Trouble(f"{what}: the images are learnt by heart.", _TODO_OVERFIT)]
    return []


def _dead_bits(validation: Mapping[str, Series]) -> list[Trouble]:
    dead = {
        _scale(name): series[-1][1]
        for name, series in validation.items()
        if name.startswith(_ENTROPY) and series and series[-1][0] >= YOUTH and series[-1][1] < DEAD
    }
    return [Trouble(f"Bits of scale {_listed(dead)} hardly vary.", _TODO_DEAD)] if dead else []


def _scale(name: str) -> str:
    """Return the number of a metric's scale, counted from 1."""
    return from_one(name).rpartition(" ")[2]


def _listed(entropies: Mapping[str, float]) -> str:
    return ", ".join(f"{scale} ({value:.2f} of 1)" for scale, value in entropies.items())


def _stalled_scales(validation: Mapping[str, Series]) -> list[Trouble]:
    """Find scales whose loss did not fall in the second half of the run, while another scale's fell by 2 % or more."""
    change = {}
    for name, series in validation.items():
        if name.startswith("loss/scale_") and len(series) >= MIN_POINTS:
            half = series[len(series) // 2 :]
            change[_scale(name)] = 1 - half[-1][1] / half[0][1] if half[0][1] > 0 else 0.0
    if not change or max(change.values()) < 0.02:
        return []
    stalled = [scale for scale, fell in change.items() if fell < 0.002]
    if not stalled:
        return []
    todo = "if its loss is far below ln 2 times its bit entropy it may be done; else try reweighted=true"
    said = (
        f"Scale {stalled[0]} no longer learns" if len(stalled) == 1 else f"Scales {', '.join(stalled)} no longer learn"
    )
    return [Trouble(f"{said} while others do.", todo)]


def _spikes(train: Mapping[str, Series]) -> list[Trouble]:
    norms = train.get("gradient_norm", ())
    if len(norms) < MIN_POINTS:
        return []
    usual = statistics.median(value for _, value in norms)
    spikes = [step for step, value in norms if value > SPIKE * usual]
    if not spikes:
        return []
    what = f"{len(spikes)} gradient spikes over {SPIKE:g} times the median {usual:.3g}, last at step {spikes[-1]:,}."
    todo = "harmless if rare, since gradients are clipped; else lower the learning rate or raise warmup_steps"
    return [Trouble(what, todo)]
