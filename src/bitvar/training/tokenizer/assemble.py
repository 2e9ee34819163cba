"""What `bitvar train` puts together for a tokenizer: images, weights to begin from, networks that judge."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bitvar.data.listing import ImageList, ImageSource, open_images
from bitvar.data.views import View
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits
from bitvar.metrics.distances import perceptual_distance
from bitvar.runtime.compile import compile_blocks
from bitvar.training.config import TokenizerTraining
from bitvar.training.engine import loop
from bitvar.training.engine.identity import NONE, digest_of
from bitvar.training.engine.loop import TrainerConfig
from bitvar.training.export import save_tokenizer
from bitvar.training.monitor.sample_sheets import reconstruction_sheet
from bitvar.training.run_inputs import identify_run, telling_failed_save
from bitvar.training.streaming import BadSamples
from bitvar.training.tokenizer.data import ImageFiles
from bitvar.training.tokenizer.task import TokenizerModels, TokenizerTask
from bitvar.training.tokenizer.warm_start import TokenizerOrigin, check_origin
from bitvar.training.transformer.feature_cache import digest_tensors
from bitvar.weights.hub import resolve_named

if TYPE_CHECKING:
    from bitvar.cli.train import Inputs

VALIDATION_SAMPLES = 500
"""Of each ratio and size."""

MAX_RATIO = 64.0


def train_tokenizer(
    config: TokenizerTraining, planned: TrainerConfig, inputs: "Inputs", device: torch.device
) -> Path | None:
    """Train to the end. Returns the tokenizer folder that came out; None on every rank but the main one."""
    _refuse_unused(inputs)
    origin = _read_origin(config, inputs)
    planned.folder.mkdir(parents=True, exist_ok=True)
    assert inputs.data is not None
    source = open_images(
        inputs.data, limits=_limits(config), max_bad_fraction=inputs.max_bad_fraction, report=planned.log
    )
    begun = NONE if origin is None else digest_of([origin.config.dump(), digest_tensors(origin.tensors)])
    paths = source.paths if isinstance(source, ImageList) else ()
    identity = identify_run(planned, inputs.data, {"--init": begun}, images=lambda: paths)
    planned = replace(planned, identity=identity)
    train, validation = (_images(source, config, inputs, planned, split, device) for split in ("train", "val"))
    perceptual = perceptual_distance(config.perceptual_network, device) if config.perceptual > 0 else None
    task = TokenizerTask(config, train=train, validation=validation, perceptual=perceptual, device=device)
    if origin is not None:
        origin.load_into(task.model.tokenizer)
    compile_blocks(
        task.model.tokenizer.levels, activation_checkpointing=inputs.activation_checkpointing, compiled=inputs.compiled
    )
    frozen = None if config.trained == "all" or origin is None else origin
    base_sha256 = None if frozen is None or frozen.identity is None else frozen.identity.sha256

    def sample(model: torch.nn.Module, path: Path) -> None:
        assert isinstance(model, TokenizerModels)
        reconstruction_sheet(model.tokenizer, validation, config.schedules, path)

    models = loop.train(task, replace(planned, base_sha256=base_sha256, sample=sample))
    if models is None:
        return None
    assert isinstance(models, TokenizerModels)
    encoder_of = frozen if config.trained == "decoder" else None
    target = planned.folder / "model"
    with telling_failed_save(planned.log):
        save_tokenizer(models.tokenizer, target, name=inputs.name, encoder_of=encoder_of, grids=config.schedules)
    return target


def rehearse(config: TokenizerTraining, inputs: "Inputs") -> None:
    """Refuse what the run would refuse of its options, its origin and its data. Writes nothing."""
    _refuse_unused(inputs)
    origin = _read_origin(config, inputs)
    if origin is not None:
        origin.load_into(TokenizerModels(config).tokenizer)
    if inputs.data is None:
        return
    source = open_images(inputs.data, limits=_limits(config), max_bad_fraction=inputs.max_bad_fraction)
    for split in ("train", "val"):
        if split not in {group.split for group in source.groups}:
            known = ", ".join(sorted({group.split for group in source.groups})) or "none"
            raise UsageError(f"The data have no split {split!r}.", f"they have: {known}", "add images to it")


def _read_origin(config: TokenizerTraining, inputs: "Inputs") -> TokenizerOrigin | None:
    """The tokenizer to begin from, if one is given."""
    origin = None if inputs.initial is None else TokenizerOrigin.read(resolve_named(inputs.initial, what="tokenizer"))
    check_origin(config, origin)
    return origin


def _refuse_unused(inputs: "Inputs") -> None:
    """Nothing that is asked for is left out in silence."""
    given = {
        "--tokenizer": inputs.tokenizer is not None,
        "--text-encoder": inputs.text_encoder is not None,
        "--attention": inputs.attention != "sdpa",
        "--shards": inputs.shards not in (None, 1),
    }
    if unused := [option for option, is_given in given.items() if is_given]:
        why = "it has no text and no attention, and is whole on every rank"
        raise UsageError(f"A tokenizer run takes no {' or '.join(unused)}.", why, "leave it out")


def _images(
    source: ImageSource,
    config: TokenizerTraining,
    inputs: "Inputs",
    planned: TrainerConfig,
    split: str,
    device: torch.device,
) -> ImageFiles:
    """Random crops to train on; the largest crop, around the middle, to validate."""
    is_training = split == "train"
    view = View(config.model.image_channels)
    if is_training:
        view = replace(view, smallest_crop=config.smallest_crop, mirrored=config.mirrored)
    return ImageFiles(
        source,
        split,
        schedules=config.schedules,
        stride=config.model.stride,
        view=view,
        bad=BadSamples(
            planned.folder / f"bad_samples-{planned.ranks.rank}.jsonl", inputs.max_bad_fraction, planned.log
        ),
        limits=_limits(config),
        workers=inputs.workers if is_training else 0,
        pinned=device.type == "cuda",
        max_samples=None if is_training else VALIDATION_SAMPLES,
    )


def _limits(config: TokenizerTraining) -> ImageLimits:
    return ImageLimits(min_side=config.model.stride, max_ratio=MAX_RATIO)
