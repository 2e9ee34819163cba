"""The training task of an instruction editor: predict the bits of an edited image, given the image before the edit."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.errors import UsageError
from bitvar.instruction.forward import edit_logits
from bitvar.scales import ScaleSchedule
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.loop import Metrics, SampleCost
from bitvar.training.engine.microbatch import micro_batches_in_order
from bitvar.training.transformer.self_correction import TeacherForcing, teacher_forcing
from bitvar.training.transformer.task import (
    VALIDATION_BATCH,
    Batch,
    TransformerTask,
    per_scale_metrics,
)
from bitvar.training.transformer.task_around import TaskAround
from bitvar.transformer import InfinityTransformer, bit_losses
from bitvar.weights.instruction import SourcePositions


class InstructionTask(TaskAround):
    """Training task of an instruction editor. Implements `loop.Task`.

    Model, batches, flips and dropped texts are those of the plain task, whose captions are the instructions and whose
    images are the edited ones.

    Args:
        plain: Task of the edited images, of one size.
        sources, validation_sources: Features of the source image of every training and every validation sample.
        positions: Rotary positions of the source tokens.

    Raises:
        UsageError: If a sample lacks its source image.
    """

    def __init__(
        self,
        plain: TransformerTask,
        *,
        sources: Float[Tensor, "n d h w"],
        validation_sources: Float[Tensor, "m d h w"],
        positions: SourcePositions = "aligned",
    ) -> None:
        for features, data in ((sources, plain.train), (validation_sources, plain.validation)):
            if (len(features),) != data.counts:
                why = f"there are {len(features)} source images for {data.counts[0]} edited ones"
                raise UsageError("Every edited image needs its source.", why, "build the set again")
        super().__init__(plain)
        self.sources, self.validation_sources = sources, validation_sources
        self.positions: SourcePositions = positions

    @property
    def model(self) -> InfinityTransformer:
        return self.plain.model

    @property
    def fsdp_units(self) -> Sequence[nn.Module]:
        return ()  # the forward pass calls the parts of the model, so every rank holds all of it

    def build_model(self) -> nn.Module:
        return self.plain.build_model()

    def sample_cost(self, bucket: int) -> SampleCost:
        plain, length = self.plain.sample_cost(bucket), self.plain.schedules[0].lengths[-1]
        return SampleCost(plain.tokens + length, plain.flops * (1 + length / plain.tokens))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        condition, forced = self.plain.corrupted(batch)
        source = self.sources[batch.micro_batch.samples].to(self.device).float()
        schedule = self.plain.schedules[0]
        logits = edit_logits(
            self.model, condition, source, forced.inputs, schedule, positions=self.positions, dtype=self.dtype
        )
        token_losses = bit_losses(logits, forced.target_bits)
        loss = (token_losses @ self.plain.weights[0]).mean()
        return loss, per_scale_metrics(logits.detach(), token_losses.detach(), forced.target_bits, schedule)

    @torch.no_grad()
    def validate(self, model: nn.Module, context: DistributedContext) -> Metrics:
        """Measure loss and bit accuracy on held-out samples, without flips or dropped texts.

        The metrics that end in `changed` count only the bits in which the edited image differs from its source.
        """
        assert isinstance(model, InfinityTransformer)
        data, schedule = self.plain.validation, self.plain.schedules[0]
        micro_batches, counted = micro_batches_in_order(
            data.counts, rank=context.rank, num_ranks=context.world, size=VALIDATION_BATCH
        )
        sums: dict[str, Tensor] = {}
        for batch, weight in zip(data.batches(micro_batches, None), counted, strict=True):
            source = self.validation_sources[batch.micro_batch.samples].to(self.device).float()
            forced, before = (self._forced(features, schedule) for features in (batch.features, source))
            logits = edit_logits(
                model,
                batch.condition.to(self.device),
                source,
                forced.inputs,
                schedule,
                positions=self.positions,
                dtype=self.dtype,
            )
            token_losses = bit_losses(logits, forced.target_bits)
            values = per_scale_metrics(logits, token_losses, forced.target_bits, schedule)
            changed = forced.target_bits != before.target_bits
            right = (logits[..., 1] > logits[..., 0]) == forced.target_bits
            values["accuracy_changed"] = (right & changed).sum() / changed.sum().clamp(min=1)
            values["loss"] = (token_losses @ self.plain.weights[0]).mean()
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.cpu().double() * weight
        return {name: value / sum(data.counts) for name, value in context.sum(sums).items()}

    def _forced(self, features: Float[Tensor, "b d h w"], schedule: ScaleSchedule) -> TeacherForcing:
        plain = self.plain
        return teacher_forcing(
            features.to(self.device).float(),
            schedule,
            patch_size=plain.config.model.patch_size,
            code_norms=plain.code_norms[0],
        )
