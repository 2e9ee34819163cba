"""What `bitvar train` puts together: recipe, data, frozen encoders, task and loop."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bitvar.cli.training_display import Display
from bitvar.costs.devices import peak_flops
from bitvar.data.index import SampleIndex, is_index
from bitvar.errors import UsageError
from bitvar.lora.layers import LoraBase, save_adapter
from bitvar.pipeline import InfinityPipeline
from bitvar.runtime.attention import attention_fns
from bitvar.runtime.compile import compile_blocks
from bitvar.runtime.placement import resolve_device
from bitvar.text import TextEncoder, load_text_encoder, published_settings
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training.checks import check_data, check_run, image_size
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.training.engine import distributed, loop
from bitvar.training.engine.checkpoint import Initial, is_checkpoint
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.identity import NONE, digest_of
from bitvar.training.engine.loop import TrainerConfig
from bitvar.training.engine.metrics_log import from_one
from bitvar.training.engine.retention import step_reached
from bitvar.training.engine.supervisor import HEARTBEAT
from bitvar.training.expected_work import sample_flops
from bitvar.training.monitor.health import describe_set
from bitvar.training.monitor.sample_sheets import choose_samples, sample_grid
from bitvar.training.monitor.trackers import make_tracker
from bitvar.training.recipes import read_recipe
from bitvar.training.run_inputs import find_start, find_text_encoder, identify_run, telling_failed_save, weights_digest
from bitvar.training.streaming import BadSamples, IndexData
from bitvar.training.tokenizer.assemble import train_tokenizer
from bitvar.training.transformer.feature_cache import FeaturesKey, digest_tensors, features_key, load_feature_set
from bitvar.training.transformer.long_captions import CaptionLimit
from bitvar.training.transformer.task import TransformerData, TransformerTask
from bitvar.transformer import InfinityTransformer
from bitvar.weights.digests import require_replaceable
from bitvar.weights.hub import resolve_named
from bitvar.weights.model_folder import (
    Components,
    ModelIndex,
    TokenizerIdentity,
    check_bits,
    check_pair,
    find_tokenizer,
    load_component,
    verify_part,
)

if TYPE_CHECKING:
    from bitvar.cli.train import Inputs

__all__ = ["is_child", "read_recipe", "train"]

VALIDATION_SAMPLES = 1000
"""Of each ratio of an index; a captioned set's validation split is used whole."""


def is_child() -> bool:
    """Whether this process is one of several, or one that a supervisor watches."""
    return HEARTBEAT in os.environ or "RANK" in os.environ


def train(config: TokenizerTraining | TransformerTraining, inputs: "Inputs", stop: Callable[[], bool]) -> Path | None:
    """Train to the end. Returns the folder of what came out; None on every rank but the main one."""
    check_run(config, inputs)
    device, ranks = _join(inputs)
    display = Display(config.optimization.steps, quiet=not ranks.is_main)
    tell = display.tell
    tell(_describe_batch(config, inputs, ranks))
    track = _tracker(config, inputs, tell) if ranks.is_main else None
    heartbeat = os.environ.get(HEARTBEAT)
    planned = TrainerConfig(
        required(inputs.out),
        config.dump(),
        config.optimization,
        config.intervals,
        extend=inputs.extend,
        micro_batch_size=inputs.micro_batch_size,
        ranks=ranks,
        peak_flops=peak_flops(device),
        stop=stop,
        heartbeat=Path(heartbeat).touch if heartbeat else lambda: None,
        log=tell,
        on_step=display.follow,
        log_metrics=_counted_from_one(track.log) if track else lambda step, phase, values: None,
        log_image=track.log_image if track else lambda step, path: None,
    )
    adapted = config.kind == "transformer" and config.lora is not None
    require_replaceable(required(inputs.out) / ("lora" if adapted else "model"))  # before the work, not after it
    try:
        if config.kind == "tokenizer":
            return train_tokenizer(config, planned, inputs, device)
        return _train_transformer(config, planned, inputs, device)
    finally:
        display.close()
        if track:
            track.close()


def required(path: Path | None) -> Path:
    """A path that was asked for before."""
    assert path is not None
    return path


def _counted_from_one(log: Callable[[int, str, Mapping[str, float]], None]) -> Callable[..., None]:
    """A tracker's log, for people: scales are counted from 1 there."""
    return lambda step, phase, values: log(step, phase, {from_one(name): value for name, value in values.items()})


def _join(inputs: "Inputs") -> tuple[torch.device, DistributedContext]:
    """This process's device and place: alone, or where a launcher put it."""
    device = resolve_device(inputs.device)
    if "RANK" not in os.environ:
        return device, DistributedContext()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return device, distributed.connect(device, rank=rank, world=world, shards=inputs.shards)


def _describe_batch(
    config: TokenizerTraining | TransformerTraining, inputs: "Inputs", ranks: DistributedContext
) -> str:
    """What a step is: nothing multiplies the learning rate, and everybody should see that."""
    optimization = config.optimization
    share = optimization.batch_size // ranks.world
    at_once = min(inputs.micro_batch_size or share, share)
    return (
        f"batch {optimization.batch_size} = {ranks.world} rank{'s' * (ranks.world > 1)} x {max(1, share // at_once)}"
        f" part{'s' * (share > at_once)} of {at_once}; learning rate {optimization.learning_rate:g} at its peak, as"
        f" set: nothing multiplies it; {optimization.optimizer}, activations in {optimization.precision}"
    )


def _tracker(config: TokenizerTraining | TransformerTraining, inputs: "Inputs", tell: Callable[[str], None]) -> Any:
    if inputs.tracker is None:
        return None
    return make_tracker(
        inputs.tracker,
        folder=required(inputs.out),
        run_name=inputs.name,
        config=config.model_dump(mode="json"),
        step=step_reached(required(inputs.out)),
        log=tell,
    )


@dataclass(frozen=True)
class Frozen:
    """The parts that a transformer is trained with, and does not change.

    Attributes:
        tokenizer, encoder: on the device.
        index: of the model that comes out.
        key: of the features that the two give.
        start: the model or checkpoint to begin from, if any.
        parts: their digests by the name of the option they came by, as fields of the run's identity.
    """

    tokenizer: InfinityTokenizer
    encoder: TextEncoder
    index: ModelIndex
    key: FeaturesKey
    start: Path | None
    parts: dict[str, str]


def load_frozen(config: TransformerTraining, inputs: "Inputs", device: torch.device) -> Frozen:
    """Find, verify and load the frozen parts, and refuse those that don't fit the configuration.

    Raises:
        UsageError: if one is missing, or of other sizes.
        WeightsError: if files of one are missing or altered, or the two don't belong together.
    """
    start = None if inputs.initial is None else find_start(inputs.initial)
    tokenizer_folder, encoder_folder = _frozen_parts(inputs, start)
    if config.lora is not None and (start is None or is_checkpoint(start)):
        todo = "add --init, such as --init icons"
        raise UsageError("Adapters need a model to --init from.", "they change one that is finished", todo)
    verify_part(tokenizer_folder)
    verify_part(encoder_folder)
    identity = TokenizerIdentity.load(tokenizer_folder / "identity.json")
    index = ModelIndex(name=inputs.name, tokenizer=identity)
    if start is not None and not is_checkpoint(start):
        begun_with = ModelIndex.load(start / "model_index.json")
        check_pair(begun_with.tokenizer, identity)
        index = index.model_copy(update={"defaults": begun_with.defaults})
    tokenizer = load_component(InfinityTokenizer, tokenizer_folder).to(device)
    check_bits(config.model, tokenizer.config)
    encoder = load_text_encoder(encoder_folder, settings=published_settings(encoder_folder)).to(device)
    width = encoder.encode(["a"]).features.shape[-1]
    its_own = (
        start is not None and not is_checkpoint(start) and inputs.text_encoder is None
    )  # sizes: `Initial.load_into`
    if width != config.model.text_width and not its_own:
        why = f"it gives {width} features a token, and model.text_width is {config.model.text_width}"
        raise UsageError("The text encoder does not fit this model.", why, f"set model.text_width={width}")
    if encoder.max_tokens is not None and encoder.max_tokens < config.model.max_text_tokens and not its_own:
        why = f"it reads {encoder.max_tokens} tokens, and model.max_text_tokens is {config.model.max_text_tokens}"
        todo = f"set model.max_text_tokens={encoder.max_tokens}"
        raise UsageError("The text encoder does not fit this model.", why, todo)
    key = features_key(identity.bits_sha256, encoder, encoder_folder)
    own = digest_of([tokenizer.config.dump(), digest_tensors(tokenizer.state_dict())])
    begun = NONE if start is None else weights_digest(start)
    parts = {"--tokenizer": own, "--text-encoder": digest_of([key.text_encoder]), "--init": begun}
    return Frozen(tokenizer, encoder, index, key, start, parts)


def _train_transformer(
    config: TransformerTraining, planned: TrainerConfig, inputs: "Inputs", device: torch.device
) -> Path | None:
    check_data(config, inputs)
    frozen = load_frozen(config, inputs, device)
    tokenizer, encoder, index, start = frozen.tokenizer, frozen.encoder, frozen.index, frozen.start
    initial = None if start is None else _read_initial(config, start)  # before anything is encoded for hours
    attention = attention_fns(config.schedules, inputs.attention, device)
    data = required(inputs.data)
    planned.folder.mkdir(parents=True, exist_ok=True)
    planned = replace(planned, identity=identify_run(planned, data, frozen.parts))
    bad = BadSamples(planned.folder / f"bad_samples-{planned.ranks.rank}.jsonl", inputs.max_bad_fraction, planned.log)
    train_data, validation = (
        _data(config, inputs, planned, split, frozen=frozen, bad=bad) for split in ("train", "val")
    )
    for line in describe_set(sum(train_data.counts), config, is_new=start is None):
        planned.log(line)
    task = TransformerTask(
        config,
        train=train_data,
        validation=validation,
        device=device,
        attention_fns=attention,
        flops=[sample_flops(config, schedule) for schedule in config.schedules],
    )
    base = None
    if initial is not None:
        initial.load_into(task.model)
        base = None if config.lora is None else LoraBase.of_folder(initial.source, initial.sums)
    task.adapt()
    compile_blocks(task.fsdp_units, activation_checkpointing=inputs.activation_checkpointing, compiled=inputs.compiled)

    def pipeline(model: torch.nn.Module) -> InfinityPipeline:
        assert isinstance(model, InfinityTransformer)
        return InfinityPipeline(Components(model, tokenizer, encoder, index, f"# {inputs.name}\n"))

    base_sha256 = base.transformer if base else None

    limit = CaptionLimit(config.model.max_text_tokens, encoder.num_tokens)
    sheet = choose_samples(data, seed=config.optimization.seed, fit=limit.fit)

    def sample(model: torch.nn.Module, path: Path) -> None:
        if model is not task.model:  # gathered on the CPU
            model.to(device, task.dtype)
        sample_grid(pipeline(model), path, sheet)

    if not sheet.captions:
        planned.log("WARNING: no sample sheets: none of the images that they would show can be read")
    model = loop.train(task, replace(planned, base_sha256=base_sha256, sample=sample if sheet.captions else None))
    if model is None:
        return None
    with telling_failed_save(planned.log):
        if config.lora is not None:
            save_adapter(model, planned.folder / "lora", settings=config.lora, base=base)
            return planned.folder / "lora"
        pipeline(model).save_pretrained(planned.folder / "model")
        return planned.folder / "model"


def _read_initial(config: TransformerTraining, start: Path) -> Initial:
    initial = Initial.read(start)
    with torch.device("meta"):
        initial.load_into(InfinityTransformer(config.model))
    return initial


def _frozen_parts(inputs: "Inputs", start: Path | None) -> tuple[Path, Path]:
    """The folders of the tokenizer and the text encoder."""
    tokenizer = None if inputs.tokenizer is None else find_tokenizer(resolve_named(inputs.tokenizer, what="tokenizer"))
    encoder = None
    if inputs.text_encoder is not None:
        encoder = find_text_encoder(resolve_named(inputs.text_encoder, what="text encoder"))
    if start is not None and not is_checkpoint(start):
        tokenizer, encoder = tokenizer or start / "image_tokenizer", encoder or start / "text_encoder"
    if tokenizer is None or encoder is None:
        raise UsageError(
            "A transformer run needs --tokenizer and --text-encoder, or a model to --init from.",
            "it learns to predict that tokenizer's bits from that encoder's features",
            "train the tokenizer first, and give its OUT/model",
        )
    return tokenizer, encoder


def _data(
    config: TransformerTraining,
    inputs: "Inputs",
    planned: TrainerConfig,
    split: str,
    *,
    frozen: Frozen,
    bad: BadSamples,
) -> TransformerData:
    """A captioned set's features, made once and kept; or an index, encoded as it is read."""
    source, tokenizer, longest = required(inputs.data), frozen.tokenizer, config.model.max_text_tokens
    if is_index(source):
        train_split = split == "train"
        return IndexData(
            SampleIndex.open(source),
            split,
            schedules=config.model.all_schedules(),
            stride=tokenizer.config.stride * config.model.patch_size,
            tokenizer=tokenizer,
            text_encoder=frozen.encoder,
            bad=bad,
            workers=inputs.workers if train_split else 0,
            max_samples=None if train_split else VALIDATION_SAMPLES,
            max_text_tokens=longest,
        )

    def made() -> TransformerData:
        cache = planned.folder / f"features-{split}.safetensors"
        size = image_size(config, tokenizer.config.stride)
        return load_feature_set(
            source, split, tokenizer=tokenizer, text_encoder=frozen.encoder, cache=cache, key=frozen.key,
            log=planned.log, size=size, max_text_tokens=longest,
        )  # fmt: skip

    if planned.ranks.is_main:
        made()
    planned.ranks.broadcast_from_main("made")
    return made()
