"""Training the transformer: frozen features and texts in, bitwise self-correction, cross-entropy of every bit."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bitvar.condition import TextCondition
from bitvar.scales import ScaleSchedule
from bitvar.training.config import TransformerTraining
from bitvar.training.loop import Metrics, step_generator
from bitvar.training.self_correction import random_flip, teacher_forcing
from bitvar.transformer import Block, InfinityTransformer, bit_losses, token_weights


@dataclass(frozen=True)
class CaptionFeatures:
    """Frozen text features of many captions, end to end.

    Attributes:
        tokens: `(all tokens, text width)`.
        offsets: `(captions + 1,)`, where each caption begins.
    """

    tokens: Float[Tensor, "tokens w"]
    offsets: Int[Tensor, " captions1"]

    def condition(self, captions: Int[Tensor, " b"]) -> TextCondition:
        """The condition of some captions."""
        return TextCondition.from_list([self.tokens[self.offsets[c] : self.offsets[c + 1]] for c in captions.tolist()])


@dataclass(frozen=True)
class FeatureSet:
    """What a transformer run reads: pictures and captions, already through the frozen encoders.

    Attributes:
        features: `(n, d, h, w)`, the tokenizer's.
        captions: all distinct captions.
        choices: for each sample, the indices of its captions.
    """

    features: Float[Tensor, "n d h w"]
    captions: CaptionFeatures
    choices: list[list[int]]

    def pick_captions(self, indices: Int[Tensor, " b"], generator: torch.Generator) -> Int[Tensor, " b"]:
        """One caption of each sample, at random."""
        draws = torch.rand(len(indices), generator=generator).tolist()
        picked = [self.choices[i][int(u * len(self.choices[i]))] for i, u in zip(indices.tolist(), draws, strict=True)]
        return torch.tensor(picked)


class TransformerTask:
    """The step of a transformer run. Implements `loop.Task`.

    Args:
        config: sizes and settings.
        train, validation: what it reads; stays on the CPU, a batch at a time goes to the device.
        device: where the model is and computes. First weights and all draws come from the CPU, so they are the same.
    """

    def __init__(
        self,
        config: TransformerTraining,
        *,
        train: FeatureSet,
        validation: FeatureSet,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (a constant)
    ) -> None:
        self.config = config
        self.model = InfinityTransformer(config.model)
        self.model.initialize(step_generator(config.optimization.seed, 2**41))
        if config.initial_gamma is not None:
            _set_gammas(self.model, config.initial_gamma)
        self.model.to(device)
        self.train, self.validation = train, validation
        self.num_samples = len(train.features)
        self.schedule: ScaleSchedule = config.model.all_schedules()[0]
        self.weights = token_weights(self.schedule, reweighted=config.reweighted).to(device)
        self.dtype = torch.bfloat16 if config.optimization.precision == "bf16" else torch.float32

    def loss(self, indices: Tensor, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        flip = random_flip(
            max_strength=config.max_flip_strength,
            num_corrected_scales=min(config.num_corrected_scales, len(self.schedule) - 1),
            generator=generator,
        )
        features = self.train.features[indices].to(self.weights.device)
        data = teacher_forcing(features.float(), self.schedule, patch_size=config.model.patch_size, flip=flip)
        condition = self.train.captions.condition(self.train.pick_captions(indices, generator))
        condition = condition.drop(torch.rand(len(indices), generator=generator) < config.condition_dropout)
        logits = self.model(condition.to(self.weights.device), data.inputs, self.schedule, dtype=self.dtype)
        token_losses = bit_losses(logits, data.target_bits)
        loss = (token_losses @ self.weights).mean()
        return loss, per_scale_metrics(logits.detach(), token_losses.detach(), data.target_bits, self.schedule)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> Metrics:
        """Loss and bit accuracy on held-out samples, nothing flipped, nothing dropped."""
        assert isinstance(model, InfinityTransformer)
        return measure_bits(model, self.validation, self.schedule, weights=self.weights, dtype=self.dtype)


@torch.no_grad()
def measure_bits(
    model: InfinityTransformer,
    samples: FeatureSet,
    schedule: ScaleSchedule,
    *,
    weights: Float[Tensor, " l"],
    dtype: torch.dtype = torch.float32,
) -> Metrics:
    """Mean loss (tokens weighted by `weights`) and bit accuracy, teacher-forced by each sample's first caption."""
    sums: dict[str, float] = {}
    count = len(samples.features)
    for indices in torch.arange(count).split(64):
        features = samples.features[indices].to(weights.device)
        data = teacher_forcing(features.float(), schedule, patch_size=model.config.patch_size)
        captions = torch.tensor([samples.choices[i][0] for i in indices.tolist()])
        condition = samples.captions.condition(captions).to(weights.device)
        logits = model(condition, data.inputs, schedule, dtype=dtype)
        token_losses = bit_losses(logits, data.target_bits)
        values = per_scale_metrics(logits, token_losses, data.target_bits, schedule)
        values["loss"] = (token_losses @ weights).mean()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(indices) / count
    return sums


def per_scale_metrics(
    logits: Float[Tensor, "b l d 2"],
    token_losses: Float[Tensor, "b l"],
    bits: Bool[Tensor, "b l d"],
    schedule: ScaleSchedule,
) -> dict[str, Tensor]:
    """Loss and bit accuracy of every scale and overall."""
    right = ((logits[..., 1] > logits[..., 0]) == bits).float().mean(-1)
    metrics = {"accuracy": right.mean()}
    for k in range(len(schedule)):
        metrics[f"loss/scale_{k}"] = token_losses[:, schedule.tokens(k)].mean()
        metrics[f"accuracy/scale_{k}"] = right[:, schedule.tokens(k)].mean()
    return metrics


@torch.no_grad()
def _set_gammas(model: InfinityTransformer, value: float) -> None:
    for block in model.blocks:
        assert isinstance(block, Block)
        block.modulation[:2] = value
