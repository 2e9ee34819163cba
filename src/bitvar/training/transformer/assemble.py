"""Assembly of a transformer run: data, frozen tokenizer and text encoder, initial weights, task and loop."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from bitvar.control.adapter import ControlAdapter
from bitvar.control.file import save_control
from bitvar.data.index import SampleIndex, is_index
from bitvar.errors import UsageError
from bitvar.lora.layers import LoraBase, save_adapter
from bitvar.pipeline import InfinityPipeline
from bitvar.runtime.attention import attention_fns
from bitvar.runtime.compile import compile_blocks
from bitvar.sampling.params import SamplingParams
from bitvar.text import TextEncoder, load_text_encoder, published_settings
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.training.checks import check_data, image_size
from bitvar.training.config import TransformerTraining
from bitvar.training.engine import loop
from bitvar.training.engine.checkpoint import Initial, is_checkpoint, load_pretrained
from bitvar.training.engine.identity import NONE, digest_of
from bitvar.training.engine.loop import TrainerConfig
from bitvar.training.expected_work import sample_flops
from bitvar.training.export import result_folder, warn_of_failed_save
from bitvar.training.frozen_models import digest_weights, find_frozen, find_initial, find_tokenizer_folder
from bitvar.training.monitor.health import describe_set
from bitvar.training.monitor.sample_sheets import choose_samples, sample_grid
from bitvar.training.options import FrozenModels, Loading, Placement, RunPaths
from bitvar.training.run_identity import identify_run
from bitvar.training.streaming import BadSamples, IndexData
from bitvar.training.transformer.control import ControlTask, load_edge_maps
from bitvar.training.transformer.feature_cache import FeaturesKey, digest_tensors, features_key, load_feature_set
from bitvar.training.transformer.long_captions import CaptionLimit
from bitvar.training.transformer.task import TransformerData, TransformerTask
from bitvar.transformer import InfinityTransformer
from bitvar.weights.model_folder import (
    Components,
    ModelIndex,
    TokenizerIdentity,
    check_bits,
    check_pair,
    load_component,
    verify_part,
)

VALIDATION_SAMPLES: Final = 1000
"""Number of validation samples per aspect ratio of an index. A captioned set's validation split is used whole."""


@dataclass(frozen=True, kw_only=True)
class FrozenComponents:
    """Loaded tokenizer and text encoder of a transformer run, with the digests that identify them.

    Attributes:
        tokenizer: Tokenizer, on the device.
        text_encoder: Text encoder, on the device.
        identity: Identity of the tokenizer.
        defaults: Sampling defaults of the initial model, which the trained model inherits.
        key: Cache key of the features that the two encoders compute.
        initial: Model folder or checkpoint to start from, if any.
        digests: Digests of tokenizer, text encoder and initial model, keyed by their options; part of the run's
            identity.
    """

    tokenizer: InfinityTokenizer
    text_encoder: TextEncoder
    identity: TokenizerIdentity
    defaults: SamplingParams | None
    key: FeaturesKey
    initial: Path | None
    digests: dict[str, str]

    def index(self, name: str) -> ModelIndex:
        """Build the index of a model trained with these components."""
        index = ModelIndex(name=name, tokenizer=self.identity)
        return index if self.defaults is None else index.model_copy(update={"defaults": self.defaults})


def train_transformer(
    config: TransformerTraining,
    run: TrainerConfig,
    *,
    paths: RunPaths,
    models: FrozenModels,
    placement: Placement,
    loading: Loading,
    device: torch.device,
) -> None:
    """Train a transformer to the end. The main rank writes the model or the adapter to `result_folder`."""
    check_data(config, paths.data, models)
    frozen = load_frozen(config, models, device)
    initial = None if frozen.initial is None else _read_initial(config, frozen.initial)  # before hours of encoding
    functions = attention_fns(config.schedules, placement.attention, device)
    run.folder.mkdir(parents=True, exist_ok=True)
    run = replace(run, identity=identify_run(run, paths.data, frozen.digests))
    bad = BadSamples(run.folder / f"bad_samples-{run.context.rank}.jsonl", loading.max_bad_fraction, run.log)
    train_data, validation = (
        _open_data(config, run, paths.data, split, frozen=frozen, bad=bad, workers=workers)
        for split, workers in (("train", loading.workers), ("val", 0))
    )
    for line in describe_set(sum(train_data.counts), config, is_new=frozen.initial is None):
        run.log(line)
    task = TransformerTask(
        config,
        train=train_data,
        validation=validation,
        device=device,
        attention_fns=functions,
        flops=[sample_flops(config, schedule) for schedule in config.schedules],
    )
    base = None
    if initial is not None:
        initial.load_into(task.model)
        frozen_base = config.lora is not None or config.control is not None
        base = LoraBase.of_folder(initial.source, initial.sums) if frozen_base else None
    if config.control is not None:
        assert base is not None, "load_frozen requires a model to start from"
        _train_control(task, run, paths.data, frozen=frozen, base=base)
        return
    task.adapt()
    compile_blocks(
        task.fsdp_units, activation_checkpointing=placement.activation_checkpointing, compiled=placement.compile
    )
    index, card = frozen.index(paths.name), f"# {paths.name}\n"

    def as_pipeline(model: torch.nn.Module) -> InfinityPipeline:
        assert isinstance(model, InfinityTransformer)
        return InfinityPipeline(Components(model, frozen.tokenizer, frozen.text_encoder, index, card))

    limit = CaptionLimit(config.model.max_text_tokens, frozen.text_encoder.num_tokens)
    sheet = choose_samples(paths.data, seed=config.optimization.seed, fit=limit.fit)

    def sample(model: torch.nn.Module, path: Path) -> None:
        if model is not task.model:  # gathered from shards onto the CPU
            model.to(device, task.dtype)
        sample_grid(as_pipeline(model), path, sheet)

    if not sheet.captions:
        run.log("WARNING: no sample sheets will be drawn: none of their images can be read")
    base_sha256 = base.transformer if base else None
    model = loop.train(task, replace(run, base_sha256=base_sha256, sample=sample if sheet.captions else None))
    if model is None:
        return
    with warn_of_failed_save(run.log):
        if config.lora is not None:
            save_adapter(model, result_folder(config, run.folder), settings=config.lora, base=base)
        else:
            as_pipeline(model).save_pretrained(result_folder(config, run.folder))


def _train_control(
    plain: TransformerTask, run: TrainerConfig, data: Path, *, frozen: FrozenComponents, base: LoraBase
) -> None:
    """Train a control adapter on the task's model. The main rank writes it to `result_folder`."""
    train, validation = (load_edge_maps(data, split) for split in ("train", "val"))
    task = ControlTask(plain, train=train, validation=validation, stride=frozen.tokenizer.config.stride)
    adapter = loop.train(task, replace(run, base_sha256=base.transformer))
    if isinstance(adapter, ControlAdapter):
        with warn_of_failed_save(run.log):
            save_control(adapter, result_folder(plain.config, run.folder), base=base)


def dry_run(config: TransformerTraining, *, data: Path | None, models: FrozenModels, device: torch.device) -> None:
    """Check the data and models as a run would, and write nothing."""
    if data is not None:
        check_data(config, data, models, decoded=True)
    if models.initial is not None or (models.tokenizer is not None and models.text_encoder is not None):
        frozen = load_frozen(config, models, device)
        if frozen.initial is not None:
            load_pretrained(InfinityTransformer(config.model), frozen.initial)
    elif models.tokenizer is not None:
        folder = find_tokenizer_folder(models.tokenizer)
        verify_part(folder)
        check_bits(config.model, TokenizerConfig.load(folder / "config.json"))


def load_frozen(config: TransformerTraining, models: FrozenModels, device: torch.device) -> FrozenComponents:
    """Find, verify and load the frozen components, and reject those that don't fit the configuration.

    Raises:
        UsageError: If a component is missing or its sizes don't fit.
        WeightsError: If a file is missing or altered, or the initial model was trained with another tokenizer.
    """
    initial = None if models.initial is None else find_initial(models.initial)
    from_model = initial is not None and not is_checkpoint(initial)
    tokenizer_folder, encoder_folder = find_frozen(models, initial)
    if (config.lora is not None or config.control is not None) and not from_model:
        fix = "add --init with the model to adapt: a folder, a name in the package or a hub id"
        raise UsageError("Adapters need a model to --init from.", "they adapt a finished model", fix)
    if config.guidance_distillation is not None and initial is None:
        fix = "add --init with the model to distil: a folder, a name in the package, a hub id or a checkpoint"
        raise UsageError("Distillation needs a model to --init from.", "its guided draws are the targets", fix)
    verify_part(tokenizer_folder)
    verify_part(encoder_folder)
    identity = TokenizerIdentity.load(tokenizer_folder / "identity.json")
    defaults = None
    if initial is not None and from_model:
        index = ModelIndex.load(initial / "model_index.json")
        check_pair(index.tokenizer, identity)
        defaults = index.defaults
    if config.guidance_distillation is not None:
        defaults = replace(defaults or SamplingParams(), guidance_scale=1.0)
    tokenizer = load_component(InfinityTokenizer, tokenizer_folder).to(device)
    check_bits(config.model, tokenizer.config)
    encoder = load_text_encoder(encoder_folder, settings=published_settings(encoder_folder)).to(device)
    if not from_model or models.text_encoder is not None:  # otherwise `Initial.load_into` compares the sizes
        _check_text_encoder(config, encoder)
    key = features_key(identity.bits_sha256, encoder, encoder_folder)
    digests = {
        "--tokenizer": digest_of([tokenizer.config.dump(), digest_tensors(tokenizer.state_dict())]),
        "--text-encoder": digest_of([key.text_encoder]),
        "--init": NONE if initial is None else digest_weights(initial),
    }
    return FrozenComponents(
        tokenizer=tokenizer, text_encoder=encoder, identity=identity, defaults=defaults, key=key, initial=initial,
        digests=digests,
    )  # fmt: skip


def _check_text_encoder(config: TransformerTraining, encoder: TextEncoder) -> None:
    """Reject a text encoder whose width differs from the model's, or that reads fewer tokens."""
    what, model = "The text encoder does not fit this model.", config.model
    width = encoder.encode(["a"]).features.shape[-1]
    if width != model.text_width:
        why = f"it gives {width} features per token, but model.text_width is {model.text_width}"
        raise UsageError(what, why, f"set model.text_width={width}")
    if encoder.max_tokens is not None and encoder.max_tokens < model.max_text_tokens:
        why = f"it reads {encoder.max_tokens} tokens, but model.max_text_tokens is {model.max_text_tokens}"
        raise UsageError(what, why, f"set model.max_text_tokens={encoder.max_tokens}")


def _read_initial(config: TransformerTraining, source: Path) -> Initial:
    """Read the initial weights, and reject them if they don't fit the configuration."""
    initial = Initial.read(source)
    with torch.device("meta"):
        initial.load_into(InfinityTransformer(config.model))
    return initial


def _open_data(
    config: TransformerTraining,
    run: TrainerConfig,
    data: Path,
    split: str,
    *,
    frozen: FrozenComponents,
    bad: BadSamples,
    workers: int,
) -> TransformerData:
    """Open a split of an index, encoded as it is read, or of a captioned set, encoded once into a file."""
    tokenizer, max_text_tokens = frozen.tokenizer, config.model.max_text_tokens
    if is_index(data):
        return IndexData(
            SampleIndex.open(data),
            split,
            schedules=config.model.all_schedules(),
            stride=tokenizer.config.stride * config.model.patch_size,
            tokenizer=tokenizer,
            text_encoder=frozen.text_encoder,
            bad=bad,
            workers=workers,
            max_samples=None if split == "train" else VALIDATION_SAMPLES,
            max_text_tokens=max_text_tokens,
        )

    def encode() -> TransformerData:
        return load_feature_set(
            data, split, tokenizer=tokenizer, text_encoder=frozen.text_encoder,
            cache=run.folder / f"features-{split}.safetensors", key=frozen.key, log=run.log,
            size=image_size(config, tokenizer.config.stride), max_text_tokens=max_text_tokens,
        )  # fmt: skip

    if run.context.is_main:
        encode()
    run.context.broadcast_from_main("encoded")  # the others wait for the file
    return encode()
