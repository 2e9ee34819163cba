"""What `bitvar train` puts together: recipe, data, frozen encoders, task and loop."""

import inspect
import os
import runpy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer

from bitvar.checkpoints.files import require_replaceable
from bitvar.checkpoints.folder import Components, ModelIndex, TokenizerIdentity, check_bits, check_pair, load_component
from bitvar.checkpoints.hub import resolve_named
from bitvar.checkpoints.lora import LoraBase, save_adapter
from bitvar.cli.training_tokenizer import train_tokenizer
from bitvar.config import unknown
from bitvar.data.index import SampleIndex, is_index
from bitvar.errors import UsageError, explain
from bitvar.pipeline import InfinityPipeline
from bitvar.runtime.placement import resolve_device
from bitvar.scales import ScaleSchedule
from bitvar.text import TextEncoder, load_text_encoder, published_settings
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training import parallel
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.training.loop import Run, run
from bitvar.training.online import BadSamples, IndexData
from bitvar.training.parallel import Ranks
from bitvar.training.prepare import FeaturesKey, features_key, prepare
from bitvar.training.samples import sample_grid
from bitvar.training.state import is_checkpoint, load_initial, step_reached
from bitvar.training.supervisor import BEAT
from bitvar.training.trackers import make_tracker
from bitvar.training.transformer_task import TransformerData, TransformerTask
from bitvar.transformer import InfinityTransformer
from bitvar.transformer.cost import peak_tflops, training_flops

if TYPE_CHECKING:
    from bitvar.cli.train import Inputs

VALIDATION_SAMPLES = 1000
"""Of each ratio of an index; a captioned set's validation split is used whole."""


def read_recipe(path: Path, arguments: Sequence[str]) -> TokenizerTraining | TransformerTraining:
    """The configuration that a recipe's function returns, given `NAME=VALUE` arguments."""
    if not path.is_file():
        raise UsageError(
            explain(f"There is no recipe {path}.", "the file is missing", "see recipes/ for those that ship")
        )
    function = runpy.run_path(str(path)).get("recipe")
    if function is None:
        raise UsageError(explain(f"{path} is no recipe.", "it has no function recipe()", "write one"))
    config = function(**_read_arguments(function, arguments))
    if not isinstance(config, TokenizerTraining | TransformerTraining):
        raise UsageError(explain(f"{path} is no recipe.", "recipe() returns no training configuration", "correct it"))
    return config


def _read_arguments(function: Callable[..., Any], arguments: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` by the function's own signature; values take the type of the default."""
    known = inspect.signature(function).parameters
    values: dict[str, Any] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        if not separator or name not in known:
            raise UsageError(unknown(f"argument {argument!r} of the recipe", name, list(known)))
        kind = type(known[name].default)
        try:
            values[name] = kind(text) if kind in (int, float, str) else text
        except ValueError:
            why = f"{name} is of type {kind.__name__}"
            raise UsageError(explain(f"Can't read --with {argument!r}.", why, "correct the value")) from None
    return values


def is_child() -> bool:
    """Whether this process is one of several, or one that a supervisor watches."""
    return BEAT in os.environ or "RANK" in os.environ


def train(config: TokenizerTraining | TransformerTraining, inputs: "Inputs", stop: Callable[[], bool]) -> Path | None:
    """Train to the end. Returns the folder of what came out; None on every rank but the main one."""
    device, ranks = _join(inputs)
    tell = _tell if ranks.is_main else _quiet
    _describe_batch(config, inputs, ranks, tell)
    track = _tracker(config, inputs, tell) if ranks.is_main else None
    beat = os.environ.get(BEAT)
    planned = Run(
        inputs.out,
        config.dump(),
        config.optimization,
        config.intervals,
        per_part=inputs.per_part,
        ranks=ranks,
        peak=_peak(device),
        stop=stop,
        beat=Path(beat).touch if beat else lambda: None,
        report=tell,
        track=track.log if track else lambda step, phase, values: None,
        show=track.picture if track else lambda step, path: None,
    )
    adapted = config.kind == "transformer" and config.lora is not None
    require_replaceable(inputs.out / ("lora" if adapted else "model"))  # before the work, not after it
    try:
        if config.kind == "tokenizer":
            return train_tokenizer(config, planned, inputs, device)
        return _train_transformer(config, planned, inputs, device)
    finally:
        if track:
            track.close()


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _quiet(line: str) -> None:
    pass


def _join(inputs: "Inputs") -> tuple[torch.device, Ranks]:
    """This process's device and place: alone, or where a launcher put it."""
    device = resolve_device(inputs.device)
    if "RANK" not in os.environ:
        if inputs.shards not in (None, 1):
            todo = "add --nproc, or use torchrun"
            raise UsageError(explain("--shards needs several processes.", "this is one", todo))
        return device, Ranks()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return device, parallel.connect(device, rank=rank, world=world, shards=inputs.shards)


def _describe_batch(
    config: TokenizerTraining | TransformerTraining, inputs: "Inputs", ranks: Ranks, tell: Callable[[str], None]
) -> None:
    """Say what a step is: nothing multiplies the learning rate, and everybody should see that."""
    optimization = config.optimization
    share = optimization.batch_size // ranks.world
    at_once = min(inputs.per_part or share, share)
    tell(
        f"batch {optimization.batch_size} = {ranks.world} rank{'s' * (ranks.world > 1)} x {max(1, share // at_once)}"
        f" part{'s' * (share > at_once)} of {at_once}; learning rate {optimization.learning_rate:g} at its peak, as"
        f" set: nothing multiplies it; {optimization.optimizer}, activations in {optimization.precision}"
    )


def _tracker(config: TokenizerTraining | TransformerTraining, inputs: "Inputs", tell: Callable[[str], None]) -> Any:
    if inputs.tracker is None:
        return None
    return make_tracker(
        inputs.tracker,
        folder=inputs.out,
        run_name=inputs.out.name,
        config=config.model_dump(mode="json"),
        step=step_reached(inputs.out),
        report=tell,
    )


def _peak(device: torch.device) -> float | None:
    """Operations a second that the device can do, where that is known."""
    peak = peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if peak is None else peak * 1e12


def _train_transformer(
    config: TransformerTraining, planned: Run, inputs: "Inputs", device: torch.device
) -> Path | None:
    start = None if inputs.initial is None else resolve_named(inputs.initial)
    tokenizer_folder, encoder_folder = _frozen_parts(inputs, start)
    if config.lora is not None and (start is None or is_checkpoint(start)):
        todo = "add --init, such as --init icons"
        raise UsageError(explain("Adapters need a model to --init from.", "they change one that is finished", todo))
    identity = TokenizerIdentity.load(tokenizer_folder / "identity.json")
    index = ModelIndex(name=inputs.name, tokenizer=identity)
    if start is not None and not is_checkpoint(start):
        begun_with = ModelIndex.load(start / "model_index.json")
        check_pair(begun_with.tokenizer, identity)
        index = index.model_copy(update={"defaults": begun_with.defaults})
    tokenizer = load_component(InfinityTokenizer, tokenizer_folder).to(device)
    check_bits(config.model, tokenizer.config)
    encoder = load_text_encoder(encoder_folder, settings=published_settings(encoder_folder)).to(device)
    patterns = attention_patterns(config, inputs.attention, device)
    planned.folder.mkdir(parents=True, exist_ok=True)
    key = features_key(identity.bits_sha256, encoder, encoder_folder)
    bad = BadSamples(planned.folder / f"bad_samples-{planned.ranks.rank}.jsonl", inputs.max_bad_fraction)
    train_data, validation = (
        _data(config, inputs, planned, split, tokenizer=tokenizer, encoder=encoder, key=key, bad=bad)
        for split in ("train", "val")
    )
    task = TransformerTask(
        config,
        train=train_data,
        validation=validation,
        device=device,
        patterns=patterns,
        operations=[operations_of(config, schedule) for schedule in config.schedules],
    )
    sums = {} if start is None else load_initial(task.model, start)
    base = None if config.lora is None or start is None else LoraBase.of_folder(start, sums)
    task.adapt()
    parallel.lighten(task.units, recompute=inputs.recompute, compiled=inputs.compiled)

    def pipeline(model: torch.nn.Module) -> InfinityPipeline:
        assert isinstance(model, InfinityTransformer)
        return InfinityPipeline(Components(model, tokenizer, encoder, index, f"# {inputs.name}\n"))

    begun_from = base.transformer if base else None

    def sample(model: torch.nn.Module, path: Path) -> None:
        if model is not task.model:  # gathered on the CPU
            model.to(device, task.dtype)
        sample_grid(pipeline(model), path)

    model = run(task, replace(planned, begun_from=begun_from, sample=sample))
    if model is None:
        return None
    if config.lora is not None:
        save_adapter(model, planned.folder / "lora", settings=config.lora, base=base)
        return planned.folder / "lora"
    pipeline(model).save_pretrained(planned.folder / "model")
    return planned.folder / "model"


def _frozen_parts(inputs: "Inputs", start: Path | None) -> tuple[Path, Path]:
    """The folders of the tokenizer and the text encoder."""
    tokenizer, encoder = inputs.tokenizer, inputs.text_encoder
    if start is not None and not is_checkpoint(start):
        tokenizer, encoder = tokenizer or start / "image_tokenizer", encoder or start / "text_encoder"
    if tokenizer is None or encoder is None:
        raise UsageError(
            explain(
                "A transformer run needs --tokenizer and --text-encoder, or a model to --init from.",
                "it learns to predict that tokenizer's bits from that encoder's features",
                "train the tokenizer first, and give its OUT/model",
            )
        )
    return tokenizer, encoder


def _data(
    config: TransformerTraining,
    inputs: "Inputs",
    planned: Run,
    split: str,
    *,
    tokenizer: InfinityTokenizer,
    encoder: TextEncoder,
    key: FeaturesKey,
    bad: BadSamples,
) -> TransformerData:
    """A captioned set's features, made once and kept; or an index, encoded as it is read."""
    if is_index(inputs.data):
        train_split = split == "train"
        indexed = IndexData(
            SampleIndex.open(inputs.data),
            split,
            schedules=config.model.all_schedules(),
            stride=tokenizer.config.stride * config.model.patch_size,
            tokenizer=tokenizer,
            text_encoder=encoder,
            bad=bad,
            workers=inputs.workers if train_split else 0,
            most=None if train_split else VALIDATION_SAMPLES,
            max_text_tokens=config.model.max_text_tokens,
        )
        indexed.report = planned.report
        return indexed

    def made() -> TransformerData:
        cache = planned.folder / f"features-{split}.safetensors"
        parts = {"tokenizer": tokenizer, "text_encoder": encoder, "max_text_tokens": config.model.max_text_tokens}
        return prepare(inputs.data, split, **parts, cache=cache, key=key, report=planned.report)

    if planned.ranks.is_main:
        made()
    planned.ranks.first("made")
    return made()


def attention_patterns(config: TransformerTraining, attention: str, device: torch.device) -> dict[int, Any]:
    """FlexAttention on every schedule, where it is asked for."""
    if attention not in ("sdpa", "flex"):
        raise UsageError(unknown(f"attention {attention!r}", attention, ["sdpa", "flex"]))
    if attention == "sdpa":
        return {}
    if device.type != "cuda":
        why = "PyTorch computes its gradients on CUDA only"
        raise UsageError(explain(f"FlexAttention can't train on {device.type}.", why, "leave --attention flex out"))
    from bitvar.runtime.flex import FlexBlockCausal

    return {which: FlexBlockCausal(schedule.offsets, device) for which, schedule in enumerate(config.schedules)}


def operations_of(config: TransformerTraining, schedule: ScaleSchedule) -> float:
    """Of one sample's step on a schedule, with a text of middling length."""
    return training_flops(config.model, schedule, text_tokens=text_length(config))


def text_length(config: TransformerTraining) -> int:
    """Tokens of a text of middling length, where figures need one."""
    return min(64, config.model.max_text_tokens)
