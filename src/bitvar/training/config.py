"""What a training run is: optimisation, intervals, and each model's own settings."""

from itertools import pairwise
from typing import Final, Literal

from pydantic import Field, model_validator

from bitvar.config import Config
from bitvar.lora.layers import LoraSettings
from bitvar.scales import ScaleSchedule
from bitvar.tokenizer import TokenizerConfig
from bitvar.transformer import TransformerConfig

MAX_STEPS: Final = 10**10
"""More than any run will have."""


class OptimizationConfig(Config):
    """How the weights move.

    Attributes:
        optimizer: "adamw", or "muon", which learns more from each step of a small model, at the same rates.
        steps: optimiser steps of the whole run.
        batch_size: Samples in a step.
        learning_rate: Peak learning rate, used as given.
        warmup_steps: Steps of linear warm-up from 0.
        final_learning_rate: Learning rate of the last step as a fraction of the peak; the decay is a cosine.
        betas: Betas of AdamW.
        momentum: Momentum of Muon.
        weight_decay: Decoupled weight decay, on matrices only.
        clip: Maximum gradient norm.
        ema_decay: Decay of the averaged weights, which are the exported ones.
        precision: Dtype of the activations; weights and optimizer state stay fp32.
        seed: Seed of the sample order and every random draw.
        not_finite: what a loss or gradient that is no finite number does: "stop" the run, or "skip" that update, and
            stop after several in a row.
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    steps: int = Field(gt=0, le=MAX_STEPS)
    batch_size: int = Field(gt=0, le=1 << 20)
    learning_rate: float = Field(gt=0, le=1e6)
    warmup_steps: int = Field(default=100, ge=0, le=MAX_STEPS)
    final_learning_rate: float = Field(default=0.02, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.97)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=5.0, gt=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    not_finite: Literal["stop", "skip"] = "stop"


class IntervalConfig(Config):
    """Every how many steps things happen; the last step always saves."""

    log: int = Field(default=20, gt=0, le=MAX_STEPS)
    validation: int = Field(default=500, gt=0, le=MAX_STEPS)
    sample: int = Field(default=1000, gt=0, le=MAX_STEPS)
    save: int = Field(default=500, gt=0, le=MAX_STEPS)
    keep: int = Field(default=2, gt=0, le=1_000_000)


Grids = tuple[tuple[int, int], ...]


class TokenizerTraining(Config):
    """A tokenizer run.

    Attributes:
        schedules: cells of each scale, coarse to fine; one list for each size of images, whose pixels are the last
            grid's cells times the stride. Images go to the nearest in ratio, to all of them where sizes share it.
        trained: "all", "decoder" (the bits stay what they were, so a transformer that knows them does too), or
            "encoder" (the decoder stays).
        smallest_crop: side of the smallest random crop, as a share of the largest; 1: always the largest, around the
            middle.
        mirrored: show half of the images mirrored, left to right.
        commitment, entropy, multiscale, perceptual, adversarial: weights of the losses beside L1 + L2; 0 leaves one
            out.
        entropy_sharpness: inverse temperature of the entropy term's soft bits.
        perceptual_network: "mobilenet", which comes with the package, or "lpips", which torchmetrics downloads.
        adversarial_start: step at which the discriminator joins.
        adversarial_adaptive: scale the generator's loss so that, at the last trained layer, its gradient is as long as
            that of the reconstruction.
        discriminator_width, discriminator_levels: channels of its first layer, and halvings after that.
        truncation: probability that a batch is decoded from its first scales only, so that these carry the image.
    """

    kind: Literal["tokenizer"] = "tokenizer"
    model: TokenizerConfig
    schedules: tuple[Grids, ...] = Field(min_length=1, max_length=256)
    optimization: OptimizationConfig
    intervals: IntervalConfig = IntervalConfig()
    trained: Literal["all", "decoder", "encoder"] = "all"
    smallest_crop: float = Field(default=1.0, gt=0, le=1)
    mirrored: bool = False
    commitment: float = Field(default=0.25, ge=0)
    entropy: float = Field(default=0.03, ge=0)
    entropy_sharpness: float = Field(default=20.0, gt=0)
    multiscale: float = Field(default=0.0, ge=0)
    perceptual: float = Field(default=0.0, ge=0)
    perceptual_network: Literal["mobilenet", "lpips"] = "mobilenet"
    adversarial: float = Field(default=0.0, ge=0)
    adversarial_start: int = Field(default=0, ge=0, le=MAX_STEPS)
    adversarial_adaptive: bool = True
    discriminator_width: int = Field(default=32, ge=8, le=1 << 12, multiple_of=8)
    discriminator_levels: int = Field(default=2, ge=1, le=6)
    truncation: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_schedules(self) -> "TokenizerTraining":
        for grids in self.schedules:
            growing = all(h1 <= h2 and w1 <= w2 for (h1, w1), (h2, w2) in pairwise(grids))
            if not grids or min(min(grid) for grid in grids) < 1 or not growing:
                raise ValueError(f"the grids of a size go from coarse to fine, which {list(grids)} does not")
        return self


class TransformerTraining(Config):
    """A transformer run.

    Attributes:
        max_flip_strength: largest strength of bitwise self-correction, `p`.
        num_corrected_scales: scales whose bits may flip; the last one's are read by nobody.
        requantize_after_flip: Quantise finer targets again after flips, which is self-correction. Without it,
            flips corrupt the inputs alone: the paper's ablation.
        condition_dropout: probability that a prompt is dropped, for guidance.
        reweighted: lift the coarse scales' loss.
        num_scales: train on the first scales only; all of them if None. Their inputs and targets stay the same.
        first_caption: probability of a sample's first caption, the longest kind; each is as likely if None.
        cut_caption: probability that a caption ends after one of its sentences, drawn at random.
        lora: train adapters of a finished model in place of all weights.
        initial_gamma: what every gamma starts at. None is the released recipe's, near 0, which deep models need; small
            ones learn a little faster from 1.
    """

    kind: Literal["transformer"] = "transformer"
    model: TransformerConfig
    optimization: OptimizationConfig
    intervals: IntervalConfig = IntervalConfig()
    max_flip_strength: float = Field(default=0.3, ge=0, le=1)
    num_corrected_scales: int = Field(default=100, ge=0, le=1_000_000)
    requantize_after_flip: bool = True
    condition_dropout: float = Field(default=0.1, ge=0, le=1)
    reweighted: bool = False
    num_scales: int | None = Field(default=None, gt=0, le=1_000_000)
    first_caption: float | None = Field(default=None, ge=0, le=1)
    cut_caption: float = Field(default=0.0, ge=0, le=1)
    lora: LoraSettings | None = None
    initial_gamma: float | None = None

    @property
    def schedules(self) -> list[ScaleSchedule]:
        """The model's schedules, as far as this run trains on them."""
        return [schedule.first(self.num_scales) for schedule in self.model.all_schedules()]
