"""What `bitvar train` refuses before any work, and `--dry-run` in its place: one list for both."""

import os
from typing import TYPE_CHECKING, Final

from bitvar.config import unknown
from bitvar.data.index import SampleIndex, is_index
from bitvar.data.samples import read_samples, require_images
from bitvar.errors import UsageError
from bitvar.runtime.placement import resolve_device
from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.training.engine.checkpoint import load_pretrained, require_resumable
from bitvar.training.engine.loop import require_shares
from bitvar.training.monitor.trackers import TRACKERS
from bitvar.training.run_inputs import find_start
from bitvar.transformer import InfinityTransformer
from bitvar.weights.hub import resolve_model
from bitvar.weights.identity import check_bits
from bitvar.weights.model_folder import find_tokenizer, verify_part

if TYPE_CHECKING:
    from bitvar.cli.train import Inputs

ATTENTION: Final = ("sdpa", "flex")
SPLITS: Final = ("train", "val")


def check_run(config: TokenizerTraining | TransformerTraining, inputs: "Inputs", processes: int = 1) -> None:
    """Refuse what can be told from the configuration, the options, and the run's own checkpoints.

    Raises:
        UsageError: for the first thing that is wrong.
    """
    world = int(os.environ.get("WORLD_SIZE", processes))
    require_shares(config.optimization.batch_size, world, inputs.micro_batch_size)
    if inputs.tracker is not None and inputs.tracker not in TRACKERS:
        raise UsageError(unknown(f"tracker {inputs.tracker!r}", inputs.tracker, list(TRACKERS)))
    device = resolve_device(inputs.device)
    if inputs.shards not in (None, 1) and world == 1:
        todo = "add --nproc, or use torchrun"
        raise UsageError("--shards needs several processes.", "this is one", todo)
    if config.kind == "transformer":
        check_attention(inputs.attention, device.type)
        _check_schedules(config)
    if inputs.out is not None:
        if inputs.out.exists() and not inputs.out.is_dir():
            raise UsageError(f"{inputs.out} is no folder.", "a run writes several files", "choose another --out")
        require_resumable(inputs.out / "checkpoints", config.dump(), extend=inputs.extend)
    if inputs.data is not None and not inputs.data.is_dir():
        why = "no such folder" if not inputs.data.exists() else "it is a file"
        todo = "give a captioned set, an index, or, for a tokenizer, a folder of images"
        raise UsageError(f"There is no data in {inputs.data}.", why, todo)


def rehearse(config: TokenizerTraining | TransformerTraining, inputs: "Inputs", processes: int = 1) -> None:
    """Refuse what the run would refuse before its first step, as far as the options given tell. Writes nothing."""
    from bitvar.training import assemble
    from bitvar.training.tokenizer import assemble as tokenizer_assemble

    check_run(config, inputs, processes)
    device = resolve_device(inputs.device)
    if config.kind == "tokenizer":
        tokenizer_assemble.rehearse(config, inputs)
        return
    check_data(config, inputs, decoded=True)
    if inputs.initial is not None or (inputs.tokenizer is not None and inputs.text_encoder is not None):
        frozen = assemble.load_frozen(config, inputs, device)
        if frozen.start is not None:
            load_pretrained(InfinityTransformer(config.model), frozen.start)
    elif inputs.tokenizer is not None:
        folder = find_tokenizer(resolve_model(inputs.tokenizer, what="tokenizer"))
        verify_part(folder)
        check_bits(config.model, TokenizerConfig.load(folder / "config.json"))


def check_data(config: TransformerTraining, inputs: "Inputs", *, decoded: bool = False) -> None:
    """Refuse data that a transformer run would refuse: lines, splits, and sizes where known.

    Args:
        config: of the run.
        inputs: what it is given.
        decoded: decode the images of a captioned set, and verify an index's own files; a run does so later.
    """
    if inputs.data is None:
        return
    if is_index(inputs.data):
        index = SampleIndex.open(inputs.data)
        if decoded:
            index.verify_files()  # as a run does for its identity
        known = {group.split for group in index.groups}
        if missing := [split for split in SPLITS if split not in known]:
            why = f"it has: {', '.join(sorted(known))}"
            raise UsageError(f"The index has no split {missing[0]!r}.", why, "make it anew")
        return
    if config.cut_caption > 0:
        why = f"{inputs.data} is a captioned set, whose captions' features are stored whole"
        todo = "set cut_caption=0, or train from an index: bitvar data index"
        raise UsageError("These captions can't be cut.", why, todo)
    size = None if inputs.tokenizer is None and inputs.initial is None else _size(config, inputs)
    for split in SPLITS:
        require_images(read_samples(inputs.data, split=split), size, decoded=decoded)


def _size(config: TransformerTraining, inputs: "Inputs") -> tuple[int, int] | None:
    """Width and height of what a captioned set is trained on, by the tokenizer given."""
    folder = None
    if inputs.tokenizer is not None:
        folder = find_tokenizer(resolve_model(inputs.tokenizer, what="tokenizer"))
    elif inputs.initial is not None:
        folder = find_tokenizer(find_start(inputs.initial))
    if folder is None or not (folder / "identity.json").is_file():  # a checkpoint of another run
        return None
    verify_part(folder)  # before a size in it is believed
    return image_size(config, TokenizerConfig.load(folder / "config.json").stride)


def image_size(config: TransformerTraining, stride: int) -> tuple[int, int]:
    """Width and height in pixels of the images of a captioned set, which is on the first schedule."""
    h, w = config.model.all_schedules()[0].grids[-1]
    side = stride * config.model.patch_size
    return w * side, h * side


def check_attention(attention: str, device: str) -> None:
    """Refuse a way to compute attention that is unknown, or can't train on the device."""
    if attention not in ATTENTION:
        raise UsageError(unknown(f"attention {attention!r}", attention, list(ATTENTION)))
    if attention == "flex" and device != "cuda":
        why = "PyTorch computes its gradients on CUDA only"
        raise UsageError(f"FlexAttention can't train on {device}.", why, "leave --attention flex out")


def _check_schedules(config: TransformerTraining) -> None:
    """Refuse a model without schedules, with unknown ones, or with more scales than it has rows for."""
    schedules = config.model.all_schedules()
    if not schedules:
        todo = "set model.schedules, or model.budgets to official ones"
        raise UsageError("The model has no schedule.", "model.schedules and model.budgets are empty", todo)
    longest = max(len(schedule) for schedule in schedules)
    if longest > config.model.max_scales:
        why = f"a schedule has {longest} scales, and model.max_scales is {config.model.max_scales}"
        raise UsageError("The model has too few scales.", why, f"set model.max_scales={longest}")
    if config.num_scales is not None and config.num_scales > longest:
        why = f"num_scales is {config.num_scales}, and the longest schedule has {longest}"
        raise UsageError("There are not so many scales.", why, "leave num_scales out for all of them")
