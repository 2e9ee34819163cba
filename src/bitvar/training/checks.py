"""What a training run refuses before any work: options, folders and data that can't work together."""

from pathlib import Path
from typing import Final

from bitvar.config import unknown
from bitvar.data.index import SampleIndex, is_index
from bitvar.data.samples import read_samples, require_images
from bitvar.errors import UsageError
from bitvar.runtime.attention import check_attention
from bitvar.runtime.placement import resolve_device
from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.training.engine.checkpoint import require_resumable
from bitvar.training.engine.loop import require_shares
from bitvar.training.frozen_models import find_initial, find_tokenizer_folder
from bitvar.training.monitor.trackers import TRACKERS
from bitvar.training.options import FrozenModels, Placement
from bitvar.weights.model_folder import find_tokenizer, verify_part

SPLITS: Final = ("train", "val")


def check_options(
    config: TokenizerTraining | TransformerTraining, *, placement: Placement, tracker: str | None, world: int
) -> None:
    """Refuse options that the configuration, the device or the number of ranks rules out.

    Args:
        config: Configuration of the run.
        placement: How it uses its devices.
        tracker: Name of the service that receives its metrics, if any.
        world: Number of ranks.

    Raises:
        UsageError: For the first option that can't work.
    """
    require_shares(config.optimization.batch_size, world, placement.micro_batch_size)
    if tracker is not None and tracker not in TRACKERS:
        raise UsageError(unknown(f"tracker {tracker!r}", tracker, list(TRACKERS)))
    device = resolve_device(placement.device)
    if placement.shards not in (None, 1) and world == 1:
        raise UsageError("--shards needs several processes.", "this is one", "add --nproc, or use torchrun")
    if config.kind == "transformer":
        check_attention(placement.attention, device.type)
        _check_schedules(config)


def check_folders(
    config: TokenizerTraining | TransformerTraining, *, data: Path | None, out: Path | None, extend: bool = False
) -> None:
    """Refuse folders that don't exist, or whose run has another configuration. None is not checked.

    Args:
        config: Configuration of the run.
        data: Folder of the data.
        out: Folder of the run.
        extend: Whether the run may have more steps than its checkpoint was made with.

    Raises:
        UsageError: For the first folder that can't be used.
    """
    if out is not None:
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out} is not a folder.", "a run writes several files", "choose another --out")
        require_resumable(out / "checkpoints", config.dump(), extend=extend)
    if data is not None and not data.is_dir():
        why = "no such folder" if not data.exists() else "it is a file"
        fix = "give a captioned set, an index, or, for a tokenizer, a folder of images"
        raise UsageError(f"There is no data in {data}.", why, fix)


def check_data(config: TransformerTraining, data: Path, models: FrozenModels, *, decoded: bool = False) -> None:
    """Refuse data that a transformer can't be trained on: broken lines, missing splits, images of the wrong size.

    Args:
        config: Configuration of the run.
        data: Captioned set or index.
        models: The models that it builds on; the tokenizer decides the size of images.
        decoded: Also decode the images of a captioned set, and verify an index's own files; a run does so later.

    Raises:
        UsageError: For the first thing that is wrong.
    """
    if is_index(data):
        index = SampleIndex.open(data)
        if decoded:
            index.verify_files()  # as a run does for its identity
        known = {group.split for group in index.groups}
        if missing := [split for split in SPLITS if split not in known]:
            why = f"it has: {', '.join(sorted(known))}"
            raise UsageError(f"The index has no split {missing[0]!r}.", why, "build it again with both splits")
        return
    if config.cut_caption > 0:
        why = f"{data} is a captioned set, whose captions' features are stored whole"
        fix = "set cut_caption=0, or train from an index: bitvar data index"
        raise UsageError("These captions can't be cut.", why, fix)
    size = _expected_size(config, models)
    for split in SPLITS:
        require_images(read_samples(data, split=split), size, decoded=decoded)


def _expected_size(config: TransformerTraining, models: FrozenModels) -> tuple[int, int] | None:
    """Width and height of a captioned set's images, by the tokenizer given; None if there is none to tell."""
    folder = None
    if models.tokenizer is not None:
        folder = find_tokenizer_folder(models.tokenizer)
    elif models.initial is not None:
        folder = find_tokenizer(find_initial(models.initial))
    if folder is None or not (folder / "identity.json").is_file():  # a checkpoint of another run
        return None
    verify_part(folder)  # before a size in it is believed
    return image_size(config, TokenizerConfig.load(folder / "config.json").stride)


def image_size(config: TransformerTraining, stride: int) -> tuple[int, int]:
    """Width and height in pixels of a captioned set's images, which the first schedule decides."""
    h, w = config.model.all_schedules()[0].grids[-1]
    side = stride * config.model.patch_size
    return w * side, h * side


def _check_schedules(config: TransformerTraining) -> None:
    """Refuse a model without schedules, or with fewer scales than its schedules need."""
    schedules = config.model.all_schedules()
    if not schedules:
        fix = "set model.schedules, or model.budgets to official ones"
        raise UsageError("The model has no schedule.", "model.schedules and model.budgets are empty", fix)
    longest = max(len(schedule) for schedule in schedules)
    if longest > config.model.max_scales:
        why = f"a schedule has {longest} scales, and model.max_scales is {config.model.max_scales}"
        raise UsageError("The model has too few scales.", why, f"set model.max_scales={longest}")
    if config.num_scales is not None and config.num_scales > longest:
        why = f"num_scales is {config.num_scales}, and the longest schedule has {longest}"
        raise UsageError("num_scales is larger than the number of scales.", why, "leave it out to train on all of them")
