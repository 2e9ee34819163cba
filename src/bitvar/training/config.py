"""Training configuration: optimization, intervals, and the settings of tokenizer and transformer runs."""

from itertools import pairwise
from typing import Final, Literal

from pydantic import Field, model_validator

from bitvar.config import Config
from bitvar.control.config import ControlSettings
from bitvar.lora.layers import LoraSettings
from bitvar.scales import ScaleSchedule
from bitvar.tokenizer import TokenizerConfig
from bitvar.transformer import TransformerConfig

MAX_STEPS: Final = 10**10
"""Upper limit of every setting that counts steps."""


class OptimizationConfig(Config):
    """Settings of the optimizer and the training schedule.

    Attributes:
        optimizer: Optimizer, "adamw" or "muon". Muon makes more progress per step on small models, at the same learning
            rates.
        steps: Number of optimizer steps in the whole run.
        batch_size: Samples in a step.
        learning_rate: Peak learning rate, used as given.
        warmup_steps: Steps of linear warm-up from 0.
        final_learning_rate: Learning rate of the last step as a fraction of the peak; the decay is a cosine.
        betas: Betas of AdamW.
        momentum: Momentum of Muon.
        muon_precision: Precision of the products in which Muon orthogonalizes. bf16 is faster where a processor or GPU
            has instructions for it.
        weight_decay: Decoupled weight decay, on matrices only.
        clip: Maximum gradient norm.
        ema_decay: Decay of the averaged weights, which are the exported ones.
        precision: Dtype of the activations; weights and optimizer state stay fp32.
        seed: Seed of the sample order and every random draw.
        not_finite: Response to a loss or gradient that is not finite: "stop" the run, or "skip" the update, which still
            stops the run after several in a row.
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    steps: int = Field(gt=0, le=MAX_STEPS)
    batch_size: int = Field(gt=0, le=1 << 20)
    learning_rate: float = Field(gt=0, le=1e6)
    warmup_steps: int = Field(default=100, ge=0, le=MAX_STEPS)
    final_learning_rate: float = Field(default=0.02, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.97)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    muon_precision: Literal["fp32", "bf16"] = "fp32"
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=5.0, gt=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    not_finite: Literal["stop", "skip"] = "stop"


class IntervalConfig(Config):
    """Number of steps between logs, validations, sample sheets and checkpoints. The last step does all of them.

    Attributes:
        log: Steps between lines of the log.
        validation: Steps between validations.
        sample: Steps between sample sheets.
        save: Steps between checkpoints.
        keep: Number of the newest checkpoints to keep, beside the best one.
    """

    log: int = Field(default=20, gt=0, le=MAX_STEPS)
    validation: int = Field(default=500, gt=0, le=MAX_STEPS)
    sample: int = Field(default=1000, gt=0, le=MAX_STEPS)
    save: int = Field(default=500, gt=0, le=MAX_STEPS)
    keep: int = Field(default=2, gt=0, le=1_000_000)


Grids = tuple[tuple[int, int], ...]


class TokenizerTraining(Config):
    """Configuration of a tokenizer run.

    Attributes:
        kind: Kind of the run.
        model: Architecture of the tokenizer.
        schedules: Grids of all scales, coarse to fine, one list per image size; the last grid times the stride is the
            size in pixels. An image is used at the size nearest to it in aspect ratio, or at all sizes that share that
            ratio.
        optimization: Settings of the optimizer.
        intervals: Number of steps between logs, validations, sample sheets and checkpoints.
        trained: Part of the tokenizer to train: "all"; "decoder", which leaves the bits unchanged, so that existing
            transformers still fit; or "encoder", which leaves the decoder unchanged.
        smallest_crop: Side of the smallest random crop, as a fraction of the largest one; 1 always takes the largest
            crop, at the center.
        mirrored: Whether to flip half of the images horizontally.
        commitment: Weight of the commitment loss. For this and the other weights, 0 leaves the loss out.
        entropy: Weight of the entropy loss.
        entropy_sharpness: Inverse temperature of the soft bits in the entropy loss.
        multiscale: Weight of the multiscale reconstruction loss, in addition to L1 + L2.
        perceptual: Weight of the perceptual loss.
        perceptual_network: Network of the perceptual loss: "mobilenet", which comes with the package, or "lpips", which
            torchmetrics downloads.
        adversarial: Weight of the adversarial loss.
        adversarial_start: Step at which adversarial training starts.
        adversarial_adaptive: Whether to scale the generator loss so that its gradient at the last trained layer has the
            same norm as the gradient of the reconstruction losses.
        discriminator_width: Number of channels of the discriminator's first layer.
        discriminator_levels: Number of times that the discriminator halves the resolution after its first layer.
        truncation: Probability of decoding a batch from its first scales only, which makes these carry the image.
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
                raise ValueError(f"the grids of a size must go from coarse to fine, but these do not: {list(grids)}")
        return self


class TransformerTraining(Config):
    """Configuration of a transformer run.

    Attributes:
        kind: Kind of the run.
        model: Architecture of the transformer.
        optimization: Settings of the optimizer.
        intervals: Number of steps between logs, validations, sample sheets and checkpoints.
        max_flip_strength: Maximum flip probability in bitwise self-correction, `p` in the paper.
        num_corrected_scales: Number of coarsest scales whose bits may flip. The last scale never flips, because no
            later scale reads its bits.
        requantize_after_flip: Whether to requantize the finer targets after flips, which is self-correction. Without
            it, flips corrupt only the inputs: the paper's ablation.
        condition_dropout: Probability of dropping a prompt, for classifier-free guidance.
        reweighted: Whether to weight the loss of the coarse scales more.
        num_scales: Number of first scales to train on; None for all. Their inputs and targets do not change.
        first_caption: Probability of choosing a sample's first caption, the longest kind; None to choose uniformly.
        cut_caption: Probability of cutting a caption after one of its sentences, chosen at random.
        lora: Settings of the adapters to train on a frozen model; None to train all weights.
        initial_gamma: Initial value of every gamma. None takes the value of the released recipe, near 0, which deep
            models need. Small models learn slightly faster from 1.
        guidance_distillation: Guidance scale that the initial model teaches: the targets are its guided probabilities
            instead of the data's bits, so that the trained model needs no guidance. None trains on the data.
        control: Settings of a control adapter to train on a frozen model, with the edges of the images as its maps;
            None to train the model itself.
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
    guidance_distillation: float | None = Field(default=None, gt=0, le=100)
    control: ControlSettings | None = None

    @model_validator(mode="after")
    def _control_alone(self) -> "TransformerTraining":
        if self.control is not None and (self.lora is not None or self.guidance_distillation is not None):
            raise ValueError("control trains an adapter of its own: leave out lora and guidance_distillation")
        return self

    @property
    def schedules(self) -> list[ScaleSchedule]:
        """The model's schedules, cut to the scales that this run trains on."""
        return [schedule.first(self.num_scales) for schedule in self.model.all_schedules()]
