"""Assembly of an instruction editor's run: a set of instructions, the frozen models, the task and the loop."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from bitvar.errors import UsageError
from bitvar.lora.layers import LoraBase, save_adapter
from bitvar.training.checks import check_data, image_size
from bitvar.training.config import TransformerTraining
from bitvar.training.engine import loop
from bitvar.training.engine.checkpoint import Initial
from bitvar.training.engine.identity import FileDigests, describe_data, digest_of
from bitvar.training.engine.loop import TrainerConfig
from bitvar.training.expected_work import sample_flops
from bitvar.training.instruction.task import InstructionTask
from bitvar.training.options import FrozenModels
from bitvar.training.run_identity import identify_run
from bitvar.training.transformer.assemble import FrozenComponents, load_frozen
from bitvar.training.transformer.feature_cache import load_feature_set
from bitvar.training.transformer.task import FeatureSet, TransformerTask
from bitvar.weights.instruction import INSTRUCTION, InstructionSettings

SOURCES: Final = "sources"
TARGETS: Final = "targets"
RESULT: Final = "editor"
"""Folder of the run in which the editor is written."""


def train_instruction_editor(
    config: TransformerTraining,
    run: TrainerConfig,
    *,
    data: Path,
    models: FrozenModels,
    device: torch.device,
    settings: InstructionSettings | None = None,
) -> Path:
    """Train an adapter that turns a model into an instruction editor, resuming from the newest checkpoint.

    Args:
        config: Configuration of the run; `lora` must be set.
        run: Settings of the loop.
        data: Folder of the two captioned sets "sources" and "targets", with the same lines; the captions of the targets
            are the instructions.
        models: Frozen models; `initial` is the model to adapt.
        device: Device of the run.
        settings: Settings of the editor; None for the defaults.

    Returns:
        Folder of the adapter, once the run is finished.

    Raises:
        UsageError: If the configuration has no adapter, or the sets don't belong together.
        WeightsError: If files of the model are missing or altered.
    """
    if config.lora is None or config.guidance_distillation is not None:
        why = "only adapters are trained on instructions, without distillation"
        raise UsageError("This recipe trains no instruction editor.", why, "set lora, and leave out the distillation")
    settings = settings or InstructionSettings()
    check_data(config, data / TARGETS, models)
    frozen = load_frozen(config, models, device)
    assert frozen.initial is not None, "load_frozen refuses an adapter without a model"
    initial = Initial.read(frozen.initial)
    run = replace(run, identity=_identify(run, data, frozen))
    targets, sources = ({split: _features(config, run, data, side, split, frozen) for split in ("train", "val")}
                        for side in (TARGETS, SOURCES))  # fmt: skip
    plain = TransformerTask(
        config,
        train=targets["train"],
        validation=targets["val"],
        device=device,
        flops=[sample_flops(config, schedule) for schedule in config.schedules],
    )
    initial.load_into(plain.model)
    base = LoraBase.of_folder(initial.source, initial.sums)
    plain.adapt()
    task = InstructionTask(
        plain,
        sources=sources["train"].features,
        validation_sources=sources["val"].features,
        positions=settings.positions,
    )
    model = loop.train(task, replace(run, base_sha256=base.transformer))
    result = run.folder / RESULT
    if model is not None:
        save_editor(model, result, config=config, base=base, settings=settings)
    return result


def save_editor(
    model: torch.nn.Module,
    folder: Path,
    *,
    config: TransformerTraining,
    base: LoraBase | None,
    settings: InstructionSettings,
) -> None:
    """Write an instruction editor atomically: a folder with its adapter, in fp16, and its settings.

    Args:
        model: Model with the adapter.
        folder: Folder to write.
        config: Configuration that the adapter was added with.
        base: Model that the adapter was trained for; None if it has no name.
        settings: Settings of the editor.
    """
    assert config.lora is not None
    texts = {INSTRUCTION: settings.dump()}
    save_adapter(model, folder, settings=config.lora, base=base, dtype=torch.float16, texts=texts)


def _features(
    config: TransformerTraining, run: TrainerConfig, data: Path, side: str, split: str, frozen: FrozenComponents
) -> FeatureSet:
    return load_feature_set(
        data / side, split, tokenizer=frozen.tokenizer, text_encoder=frozen.text_encoder,
        cache=run.folder / f"features-{side}-{split}.safetensors", key=frozen.key, log=run.log,
        size=image_size(config, frozen.tokenizer.config.stride), max_text_tokens=config.model.max_text_tokens,
    )  # fmt: skip


def _identify(run: TrainerConfig, data: Path, frozen: FrozenComponents) -> dict[str, str]:
    run.folder.mkdir(parents=True, exist_ok=True)
    described = describe_data(data / SOURCES, FileDigests(run.folder / "source_digests.json"), images=tuple)
    digests = {**frozen.digests, "data (sources)": digest_of(f"{name} {value}" for name, value in described.items())}
    return identify_run(run, data / TARGETS, digests)
