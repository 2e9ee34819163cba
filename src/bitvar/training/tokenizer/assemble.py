"""Assembling a tokenizer run: images, initial weights, perceptual network, task and loop."""

from dataclasses import replace
from pathlib import Path
from typing import Final

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
from bitvar.training.export import result_folder, save_tokenizer, warn_of_failed_save
from bitvar.training.monitor.sample_sheets import reconstruction_sheet
from bitvar.training.options import FrozenModels, Loading, Placement, RunPaths
from bitvar.training.run_identity import identify_run
from bitvar.training.streaming import BadSamples
from bitvar.training.tokenizer.data import ImageFiles
from bitvar.training.tokenizer.task import TokenizerModels, TokenizerTask
from bitvar.training.tokenizer.warm_start import TokenizerOrigin, check_origin
from bitvar.training.transformer.feature_cache import digest_tensors
from bitvar.weights.hub import resolve_model

VALIDATION_SAMPLES: Final = 500
"""Validation images of each ratio and size."""

MAX_RATIO: Final = 64.0
"""Longer side over shorter side above which an image is refused."""


def train_tokenizer(
    config: TokenizerTraining,
    run: TrainerConfig,
    *,
    paths: RunPaths,
    models: FrozenModels,
    placement: Placement,
    loading: Loading,
    device: torch.device,
) -> None:
    """Train a tokenizer to the end; the main rank writes its folder to `result_folder`."""
    _refuse_unused(models, placement)
    origin = _read_origin(config, models)
    run.folder.mkdir(parents=True, exist_ok=True)
    source = open_images(paths.data, limits=_limits(config), max_bad_fraction=loading.max_bad_fraction, log=run.log)
    initial = NONE if origin is None else digest_of([origin.config.dump(), digest_tensors(origin.tensors)])
    files = source.paths if isinstance(source, ImageList) else ()
    run = replace(run, identity=identify_run(run, paths.data, {"--init": initial}, images=lambda: files))
    train = _open_split(source, "train", config, run, loading=loading, device=device)
    validation = _open_split(source, "val", config, run, loading=loading, device=device)
    perceptual = perceptual_distance(config.perceptual_network, device) if config.perceptual > 0 else None
    task = TokenizerTask(config, train=train, validation=validation, perceptual=perceptual, device=device)
    if origin is not None:
        origin.load_into(task.model.tokenizer)
    compile_blocks(
        task.model.tokenizer.levels,
        activation_checkpointing=placement.activation_checkpointing,
        compiled=placement.compile,
    )
    frozen = None if config.trained == "all" else origin
    base_sha256 = None if frozen is None or frozen.identity is None else frozen.identity.sha256

    def sample(model: torch.nn.Module, path: Path) -> None:
        assert isinstance(model, TokenizerModels)
        reconstruction_sheet(model.tokenizer, validation, config.schedules, path)

    trained = loop.train(task, replace(run, base_sha256=base_sha256, sample=sample))
    if trained is None:
        return
    assert isinstance(trained, TokenizerModels)
    encoder_of = frozen if config.trained == "decoder" else None
    target = result_folder(config, run.folder)
    with warn_of_failed_save(run.log):
        save_tokenizer(trained.tokenizer, target, name=paths.name, encoder_of=encoder_of, grids=config.schedules)


def dry_run(
    config: TokenizerTraining, *, data: Path | None, models: FrozenModels, placement: Placement, loading: Loading
) -> None:
    """Refuse what a run would refuse of its options, initial weights and data. Writes nothing."""
    _refuse_unused(models, placement)
    origin = _read_origin(config, models)
    if origin is not None:
        origin.load_into(TokenizerModels(config).tokenizer)
    if data is None:
        return
    source = open_images(data, limits=_limits(config), max_bad_fraction=loading.max_bad_fraction)
    known = {group.split for group in source.groups}
    for split in ("train", "val"):
        if split not in known:
            why = f"they have: {', '.join(sorted(known)) or 'none'}"
            raise UsageError(f"The data have no split {split!r}.", why, "add images to it")


def _read_origin(config: TokenizerTraining, models: FrozenModels) -> TokenizerOrigin | None:
    """Read the tokenizer to start from, if one is given."""
    origin = None
    if models.initial is not None:
        origin = TokenizerOrigin.read(resolve_model(models.initial, what="tokenizer"))
    check_origin(config, origin)
    return origin


def _refuse_unused(models: FrozenModels, placement: Placement) -> None:
    """Refuse options that mean nothing to a tokenizer run, rather than ignore them."""
    given = {
        "--tokenizer": models.tokenizer is not None,
        "--text-encoder": models.text_encoder is not None,
        "--attention": placement.attention != "sdpa",
        "--shards": placement.shards not in (None, 1),
    }
    if unused := [option for option, is_given in given.items() if is_given]:
        why = "it has no text and no attention, and every rank holds the whole of it"
        raise UsageError(f"A tokenizer run takes no {' or '.join(unused)}.", why, "leave it out")


def _open_split(
    source: ImageSource,
    split: str,
    config: TokenizerTraining,
    run: TrainerConfig,
    *,
    loading: Loading,
    device: torch.device,
) -> ImageFiles:
    """Open a split: random crops to train on, or the largest central crops to validate on."""
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
        bad=BadSamples(run.folder / f"bad_samples-{run.context.rank}.jsonl", loading.max_bad_fraction, run.log),
        limits=_limits(config),
        workers=loading.workers if is_training else 0,
        pinned=device.type == "cuda",
        max_samples=None if is_training else VALIDATION_SAMPLES,
    )


def _limits(config: TokenizerTraining) -> ImageLimits:
    return ImageLimits(min_side=config.model.stride, max_ratio=MAX_RATIO)
