"""The transformer's training task: bitwise self-correction and cross-entropy of every bit, on frozen features."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bitvar.condition import TextCondition
from bitvar.data.captions import NUM_DRAWS, CaptionChoice
from bitvar.errors import UsageError
from bitvar.lora.layers import add_adapter
from bitvar.nn.attention import AttentionFn
from bitvar.runtime.placement import DTYPES
from bitvar.scales import ScaleSchedule
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.loop import Metrics, SampleCost
from bitvar.training.engine.microbatch import MicroBatch, Purpose, draw_uniform, make_generator, micro_batches_in_order
from bitvar.training.transformer.guidance_distillation import GuidanceTeacher
from bitvar.training.transformer.self_correction import TeacherForcing, random_flip, teacher_forcing
from bitvar.transformer import Block, InfinityTransformer, bit_losses, token_weights

VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Batch:
    """Features and captions of one micro-batch.

    Attributes:
        micro_batch: Indices of the samples and the step they belong to.
        features: Features of the tokenizer's encoder, of shape `(b, d, h, w)`.
        condition: Text features of one caption per sample.
    """

    micro_batch: MicroBatch
    features: Float[Tensor, "b d h w"]
    condition: TextCondition


@runtime_checkable
class TransformerData(Protocol):
    """Source of batches. All images of a bucket have the same schedule."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of samples in each bucket."""
        ...

    @property
    def schedules(self) -> tuple[int, ...]:
        """Index of each bucket's schedule among the model's."""
        ...

    def batches(self, micro_batches: Iterable[MicroBatch], captions: CaptionChoice | None) -> Iterator[Batch]:
        """Yield a batch for each micro-batch, in order. If `captions` is None, use each sample's first caption."""
        ...


@dataclass(frozen=True)
class CaptionFeatures:
    """Frozen text features of many captions, concatenated.

    Attributes:
        tokens: Features of shape `(all tokens, text width)`.
        offsets: Index of each caption's first token, followed by the total number of tokens.
    """

    tokens: Float[Tensor, "tokens w"]
    offsets: Int[Tensor, " captions1"]

    def condition(self, captions: Sequence[int]) -> TextCondition:
        """Build the condition of the captions with these indices."""
        return TextCondition.from_list([self.tokens[self.offsets[c] : self.offsets[c + 1]] for c in captions])


@dataclass(frozen=True)
class FeatureSet:
    """Encoded images of one size and their captions. Implements `TransformerData`.

    Attributes:
        features: Features of the tokenizer's encoder, of shape `(n, d, h, w)`.
        captions: Features of all distinct captions.
        choices: Indices of each sample's captions.
    """

    features: Float[Tensor, "n d h w"]
    captions: CaptionFeatures
    choices: list[list[int]]

    @property
    def counts(self) -> tuple[int, ...]:
        return (len(self.features),)

    @property
    def schedules(self) -> tuple[int, ...]:
        return (0,)

    def batches(self, micro_batches: Iterable[MicroBatch], captions: CaptionChoice | None) -> Iterator[Batch]:
        if captions is not None and captions.cut > 0:
            why = "the features of whole captions are cached"
            raise UsageError("These captions can't be cut.", why, "set cut_caption=0, or train from an index")
        for micro_batch in micro_batches:
            choices = [self.choices[i] for i in micro_batch.samples.tolist()]
            if captions is None:
                picked = [choice[0] for choice in choices]
            else:
                draws = draw_uniform(micro_batch.generators(Purpose.CAPTION), NUM_DRAWS).tolist()
                picked = [c[captions.pick(len(c), draw)] for c, draw in zip(choices, draws, strict=True)]
            yield Batch(micro_batch, self.features[micro_batch.samples], self.captions.condition(picked))


class TransformerTask:
    """Training task of a transformer run. Implements `loop.Task`.

    Args:
        config: Configuration of the run.
        train, validation: Data of the run. It stays on the CPU, and one batch at a time is moved to the device.
        device: Device that the loop moves the model to. Initial weights and all random draws are made on the CPU, so
            that they don't depend on the device.
        attention_fns: Attention function of each schedule, by index. Schedules without one use the model's default.
        flops: Floating-point operations of one sample's step on each schedule, to report throughput.
    """

    def __init__(
        self,
        config: TransformerTraining,
        *,
        train: TransformerData,
        validation: TransformerData,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (a constant)
        attention_fns: Mapping[int, AttentionFn] | None = None,
        flops: Sequence[float] = (),
    ) -> None:
        self.config = config
        self.model = InfinityTransformer(config.model)
        self.model.init_weights(make_generator(config.optimization.seed, 0, Purpose.WEIGHTS))
        if config.initial_gamma is not None:
            _set_gammas(self.model, config.initial_gamma)
        self.device = device
        self.train, self.validation = train, validation
        self.schedules, self.code_norms = config.schedules, config.model.all_code_norms()
        self.weights = [token_weights(s, reweighted=config.reweighted).to(device) for s in self.schedules]
        self.dtype = DTYPES[config.optimization.precision]
        self.attention_fns, self._flops = attention_fns or {}, flops
        self.teacher: GuidanceTeacher | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        return self.train.counts

    @property
    def fsdp_units(self) -> Sequence[nn.Module]:
        return list(self.model.blocks)

    def adapt(self) -> None:
        """Copy the teacher of guidance, and add adapters and freeze all other weights, as far as configured.

        Call this after the initial weights are loaded.
        """
        if self.config.guidance_distillation is not None:
            scale = self.config.guidance_distillation
            self.teacher = GuidanceTeacher(self.model, guidance_scale=scale, device=self.device)
        if self.config.lora is not None:
            generator = make_generator(self.config.optimization.seed, 0, Purpose.ADAPTER)
            add_adapter(self.model, self.config.lora, generator=generator)

    def build_model(self) -> nn.Module:
        model = InfinityTransformer(self.config.model)
        if self.config.lora is not None:
            add_adapter(model, self.config.lora, generator=torch.Generator())
        return model

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        return self.train.batches(micro_batches, CaptionChoice(self.config.first_caption, self.config.cut_caption))

    def sample_cost(self, bucket: int) -> SampleCost:
        which = self.train.schedules[bucket]
        return SampleCost(self.schedules[which].num_tokens, self._flops[which] if self._flops else 0.0)

    def corrupted(self, batch: Batch) -> tuple[TextCondition, TeacherForcing]:
        """Move a batch to the device, drop some of its texts and flip some of its bits."""
        config, micro_batch = self.config, batch.micro_batch
        which = self.train.schedules[micro_batch.bucket]
        schedule = self.schedules[which]
        flip = random_flip(
            max_strength=config.max_flip_strength,
            num_corrected_scales=min(config.num_corrected_scales, len(schedule) - 1),
            generators=micro_batch.generators(Purpose.FLIP),
        )
        features = batch.features.to(self.device).float()
        data = teacher_forcing(
            features,
            schedule,
            patch_size=config.model.patch_size,
            code_norms=self.code_norms[which],
            flip=flip,
            requantize_after_flip=config.requantize_after_flip,
        )
        dropped = draw_uniform(micro_batch.generators(Purpose.DROPOUT)) < config.condition_dropout
        return batch.condition.drop(dropped).to(self.device), data

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        which = self.train.schedules[batch.micro_batch.bucket]
        schedule = self.schedules[which]
        condition, data = self.corrupted(batch)
        attention = self.attention_fns.get(which)
        logits = self.model(condition, data.inputs, schedule, dtype=self.dtype, attention=attention)
        token_losses = bit_losses(logits, data.target_bits)
        learnt = token_losses
        if self.teacher is not None:
            learnt = bit_losses(
                logits,
                self.teacher.probabilities(condition, data.inputs, schedule, dtype=self.dtype, attention=attention),
            )
        loss = (learnt @ self.weights[which]).mean()
        return loss, per_scale_metrics(logits.detach(), token_losses.detach(), data.target_bits, schedule)

    @torch.no_grad()
    def validate(self, model: nn.Module, context: DistributedContext) -> Metrics:
        """Measure loss and bit accuracy on held-out samples, without flips or dropped texts."""
        assert isinstance(model, InfinityTransformer)
        return measure_bits(
            model,
            self.validation,
            self.schedules,
            dtype=self.dtype,
            reweighted=self.config.reweighted,
            context=context,
            teacher=self.teacher,
        )


@torch.no_grad()
def measure_bits(
    model: InfinityTransformer,
    data: TransformerData,
    schedules: Sequence[ScaleSchedule],
    *,
    reweighted: bool = False,
    dtype: torch.dtype = torch.float32,
    context: DistributedContext | None = None,
    teacher: GuidanceTeacher | None = None,
) -> Metrics:
    """Measure the mean teacher-forced loss and bit accuracy over all samples, with their first captions.

    With a teacher, the loss is against its probabilities, and `guided_agreement` is the share of bits whose likelier
    value is the teacher's.

    Args:
        model: Model to evaluate. All ranks call it equally often, so that it may be sharded.
        data: Data to evaluate on. Every sample counts once.
        schedules: Schedules of the model.
        reweighted: Whether the loss is reweighted by scale, as in training with that setting.
        dtype: Data type of the activations.
        context: Ranks that share the samples; None for a single process.
        teacher: Teacher of guidance; None for the data's bits.
    """
    context = context or DistributedContext()
    micro_batches, counted = micro_batches_in_order(
        data.counts, rank=context.rank, num_ranks=context.world, size=VALIDATION_BATCH
    )
    sums: dict[str, Tensor] = {}
    code_norms = model.config.all_code_norms()
    for batch, weight in zip(data.batches(micro_batches, None), counted, strict=True):
        which = data.schedules[batch.micro_batch.bucket]
        schedule = schedules[which]
        features = batch.features.to(model.device).float()
        forced = teacher_forcing(features, schedule, patch_size=model.config.patch_size, code_norms=code_norms[which])
        condition = batch.condition.to(model.device)
        logits = model(condition, forced.inputs, schedule, dtype=dtype)
        token_losses = bit_losses(logits, forced.target_bits)
        values = per_scale_metrics(logits, token_losses, forced.target_bits, schedule)
        if teacher is not None:
            guided = teacher.probabilities(condition, forced.inputs, schedule, dtype=dtype)
            token_losses = bit_losses(logits, guided)
            values["guided_agreement"] = ((logits[..., 1] > logits[..., 0]) == (guided > 0.5)).float().mean()
        weights = token_weights(schedule, reweighted=reweighted).to(model.device)
        values["loss"] = (token_losses @ weights).mean()
        for name, value in values.items():
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.cpu().double() * weight
    return {name: value / sum(data.counts) for name, value in context.sum(sums).items()}


def per_scale_metrics(
    logits: Float[Tensor, "b l d 2"],
    token_losses: Float[Tensor, "b l"],
    bits: Bool[Tensor, "b l d"],
    schedule: ScaleSchedule,
) -> dict[str, Tensor]:
    """Compute the loss and bit accuracy of every scale, and the overall accuracy."""
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
