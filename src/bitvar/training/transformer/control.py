"""Training of a control adapter: the transformer's own task and loss, with its weights frozen and a map as input.

The maps are the edges of the training images, computed once and kept in memory as bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from bitvar.control.adapter import ControlAdapter
from bitvar.control.config import ControlConfig
from bitvar.control.maps import edge_maps, thicken
from bitvar.control.tokens import controlled_logits
from bitvar.data.index import is_index
from bitvar.data.samples import load_images, read_samples
from bitvar.errors import UsageError, WeightsError
from bitvar.imaging.convert import channels_last
from bitvar.lora.file import LoraBase
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.checkpoint import averaged_tensors, base_sha256
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.loop import Metrics, SampleCost
from bitvar.training.engine.microbatch import Purpose, draw_uniform, make_generator, micro_batches_in_order
from bitvar.training.transformer.self_correction import teacher_forcing
from bitvar.training.transformer.task import VALIDATION_BATCH, Batch, TransformerTask, per_scale_metrics
from bitvar.training.transformer.task_around import TaskAround
from bitvar.transformer import bit_losses, token_weights

_READ: Final = 256
"""Images whose edges are computed together."""

_SMALLEST, _LARGEST = 0.25, 0.6
"""Sides of an erased part, as shares of the map's."""


def load_edge_maps(data: Path, split: str) -> UInt8[Tensor, "n H W"]:
    """Compute the edges of all images of a split, in the order of its samples: 1 on an edge, else 0.

    Raises:
        UsageError: For an index, which has no maps, or an image that can't be used.
    """
    if is_index(data):
        why = "edges are computed from the images of a captioned set, and this is an index"
        raise UsageError("A control adapter can't be trained from an index.", why, "give the captioned set")
    samples = read_samples(data, split=split)
    parts = []
    for start in range(0, len(samples), _READ):
        images = channels_last(load_images(samples[start : start + _READ]))
        parts.append(torch.from_numpy(edge_maps(images)).to(torch.uint8))
    return torch.cat(parts)


def vary_maps(
    maps: UInt8[Tensor, "b H W"], generators: Sequence[torch.Generator], *, thick: float, erased: float
) -> Float[Tensor, "b 1 H W"]:
    """Vary maps at random: lines of another width, and parts that are missing. Each map has its own generator.

    Args:
        maps: Maps of edges one pixel wide.
        generators: One generator a map.
        thick: Share of the maps whose lines are widened by a pixel on each side.
        erased: Share of the maps of which a rectangle is erased.
    """
    varied = maps.float()
    draws = draw_uniform(generators, 6)
    wide = draws[:, 0] < thick
    varied[wide] = torch.from_numpy(thicken(varied[wide].numpy()))
    sides = _SMALLEST + (_LARGEST - _SMALLEST) * draws[:, 2:4]
    corners = draws[:, 4:6] * (1 - sides)
    for row in (draws[:, 1] < erased).nonzero()[:, 0].tolist():
        (top, left), (height, width) = corners[row].tolist(), sides[row].tolist()
        h, w = varied.shape[-2:]
        varied[row, int(top * h) : int((top + height) * h), int(left * w) : int((left + width) * w)] = 0
    return varied[:, None]


class ControlTask(TaskAround):
    """Training task of a control adapter. Implements `loop.Task`.

    Args:
        plain: Task of the base model, which has its weights already; they are frozen.
        train, validation: Maps of the samples of both splits, in their order.
        stride: Pixels per side of a cell of the tokenizer.
    """

    def __init__(
        self,
        plain: TransformerTask,
        *,
        train: UInt8[Tensor, "n H W"],
        validation: UInt8[Tensor, "m H W"],
        stride: int,
    ) -> None:
        settings = plain.config.control
        assert settings is not None, "a control run"
        assert (len(train),) == plain.counts and (len(validation),) == plain.validation.counts, "one map a sample"
        self.settings = settings
        super().__init__(plain)
        self.base = plain.model.to(plain.device).eval().requires_grad_(False)
        self.adapter_config = ControlConfig.of(settings, plain.config.model, stride=stride)
        self.model = ControlAdapter(self.adapter_config)
        self.model.init_weights(make_generator(plain.config.optimization.seed, 0, Purpose.ADAPTER))
        self.train_maps, self.validation_maps = train, validation

    @property
    def fsdp_units(self) -> Sequence[nn.Module]:
        return []

    def build_model(self) -> nn.Module:
        return ControlAdapter(self.adapter_config)

    def sample_cost(self, bucket: int) -> SampleCost:
        return self.plain.sample_cost(bucket)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        plain, settings = self.plain, self.settings
        which = plain.train.schedules[batch.micro_batch.bucket]
        schedule = plain.schedules[which]
        condition, data = plain.corrupted(batch)
        maps = vary_maps(
            self.train_maps[batch.micro_batch.samples],
            batch.micro_batch.generators(Purpose.CONTROL),
            thick=settings.thick,
            erased=settings.erased,
        )
        additions = self.model(maps.to(self.device, self.dtype), schedule)
        logits = controlled_logits(
            self.base,
            condition,
            data.inputs,
            schedule,
            additions,
            dtype=self.dtype,
            attention=plain.attention_fns.get(which),
        )
        token_losses = bit_losses(logits, data.target_bits)
        loss = (token_losses @ plain.weights[which]).mean()
        return loss, per_scale_metrics(logits.detach(), token_losses.detach(), data.target_bits, schedule)

    @torch.no_grad()
    def validate(self, model: nn.Module, context: DistributedContext) -> Metrics:
        """Measure loss and bit accuracy on held-out samples under their own unvaried maps, without flips."""
        assert isinstance(model, ControlAdapter)
        plain = self.plain
        data, config = plain.validation, plain.config
        micro_batches, counted = micro_batches_in_order(
            data.counts, rank=context.rank, num_ranks=context.world, size=VALIDATION_BATCH
        )
        sums: dict[str, Tensor] = {}
        for batch, count in zip(data.batches(micro_batches, None), counted, strict=True):
            which = data.schedules[batch.micro_batch.bucket]
            schedule = plain.schedules[which]
            forced = teacher_forcing(
                batch.features.to(self.device).float(),
                schedule,
                patch_size=config.model.patch_size,
                code_norms=plain.code_norms[which],
            )
            maps = self.validation_maps[batch.micro_batch.samples][:, None].to(self.device, self.dtype)
            condition, additions = batch.condition.to(self.device), model(maps, schedule)
            logits = controlled_logits(self.base, condition, forced.inputs, schedule, additions, dtype=self.dtype)
            losses = bit_losses(logits, forced.target_bits)
            weights = token_weights(schedule, reweighted=config.reweighted).to(self.device)
            values = per_scale_metrics(logits, losses, forced.target_bits, schedule)
            for name, value in (values | {"loss": (losses @ weights).mean()}).items():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.cpu().double() * count
        return {name: value / sum(data.counts) for name, value in context.sum(sums).items()}


def load_trained_control(
    checkpoint: Path, config: TransformerTraining, folder: Path
) -> tuple[ControlAdapter, LoraBase]:
    """Load the averaged adapter of a checkpoint, with the identity of the model that it was trained with.

    Args:
        checkpoint: Verified checkpoint of a control run.
        config: Configuration of that run.
        folder: Folder of the base model.

    Raises:
        WeightsError: If the adapter was trained with another model.
    """
    assert config.control is not None, "a control run"
    base = LoraBase.of_folder(folder)
    if base.transformer != base_sha256(checkpoint):
        why = "its control adapter was trained with other weights"
        raise WeightsError(f"{checkpoint} does not belong to {folder}.", why, "give the --init of its run")
    stride = 2 ** len(config.control.channels)
    adapter = ControlAdapter(ControlConfig.of(config.control, config.model, stride=stride))
    adapter.load_state_dict(averaged_tensors(checkpoint))
    return adapter, base
