"""The first stage of a published benchmark: draw its prompts into the folder that its own scorer reads.

An image is addressed by prompt, seed, settings and model. Several processes may share the work, and a killed one loses
nothing: `bitvar.bulk` draws. This file knows no scorer.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from filelock import FileLock

from bitvar.bulk import WorkItem, generate_work
from bitvar.config import Config
from bitvar.data.captions import cut_to
from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalPrompt
from bitvar.evaluation.benchmarks.layout import Drawing, Layout
from bitvar.evaluation.benchmarks.prompt_sets import PromptSet
from bitvar.evaluation.run_folder import SETTINGS, claim_shared, require_own
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.request import GenerationRequest
from bitvar.sampling.params import MAX_SEED

RAW: Final = "raw"
REWRITTEN: Final = "rewritten"
VARIANTS: Final = (RAW, REWRITTEN)
"""Folders of the images: drawn from the benchmark's prompts, and from the prompts that a rewriter made of them."""

_FINISHING: Final = ".finishing"


class FieldSettings(Config):
    """Everything that determines the images of a benchmark.

    Attributes:
        benchmark: Name of the benchmark.
        prompts, prompts_sha256: Where all its prompts come from, and their digest.
        limit: Number of prompts of each skill; None for all.
        images_per_prompt: Number of images of a prompt.
        seed: Number added to every image's own seed.
        model, model_sha256: Name of the model, and the digest of its folder.
        adapters: LoRA adapters of the model, with their weights.
        dtype, device: Precision and kind of device of the model.
        request: Further settings of each request, such as guidance; what isn't there is the model's default.
        rewrites_sha256: Digest of the rewritten prompts; None without any.
        cut_prompts: Number of prompts that were cut, since the model reads no more, over all variants.
        variants: Prompts that are drawn: "raw", "rewritten" or both.
    """

    format: Literal[1] = 1
    benchmark: str
    prompts: str
    prompts_sha256: str
    limit: int | None
    images_per_prompt: int
    seed: int
    model: str
    model_sha256: str
    adapters: tuple[dict[str, Any], ...] = ()
    dtype: str
    device: str
    request: dict[str, Any]
    rewrites_sha256: str | None = None
    cut_prompts: int = 0
    variants: tuple[str, ...]


@dataclass(frozen=True)
class GenerateChoices:
    """How the images of a benchmark are drawn.

    Attributes:
        limit: Number of prompts of each skill; None for all.
        images_per_prompt: Number of images of a prompt; None for the number that the benchmark's authors use.
        seed: Number added to every image's own seed.
        options: Further fields of `GenerationRequest` and `SamplingParams`.
        rewrites: Rewritten prompt of each prompt; None without any.
        variants: "raw", "rewritten" or both; None for all there are prompts for.
        cut_prompts: Whether to cut prompts that are longer than the model reads, instead of refusing them.
        batch_size: Number of images drawn at once.
    """

    limit: int | None = None
    images_per_prompt: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    rewrites: Mapping[str, str] | None = None
    variants: tuple[str, ...] | None = None
    cut_prompts: bool = False
    batch_size: int = 8


def generate_benchmark(
    pipeline: InfinityPipeline,
    layout: Layout,
    prompts: PromptSet,
    folder: Path,
    choices: GenerateChoices,
    *,
    log: Callable[[str], None] = lambda text: None,
) -> FieldSettings:
    """Draw the images of a benchmark. The same call in the same folder resumes; others may make it at the same time.

    Args:
        pipeline: Model.
        layout: Layout of the benchmark.
        prompts: All its prompts.
        folder: Output folder.
        choices: What is drawn, and how.
        log: Function that receives lines of progress.

    Raises:
        UsageError: if the folder holds something else, or a prompt has no rewritten one.
    """
    chosen = prompts.choose(choices.limit)
    names = choices.variants or (VARIANTS if choices.rewrites else (RAW,))
    texts = {name: {prompt.id: _text(prompt, name, choices.rewrites) for prompt in chosen} for name in names}
    cut = sum(_fit(pipeline, drawn, choices.cut_prompts, layout.title) for drawn in texts.values())
    settings = _settings(pipeline, layout, prompts, choices, variants=names, cut=cut)
    drawings = layout.drawings(chosen, settings.images_per_prompt)
    work = {
        name: [_item(layout, drawing, texts[name][drawing.prompt.id], choices) for drawing in drawings]
        for name in names
    }
    require_own(folder, (*VARIANTS, SETTINGS))
    claim_shared(folder, settings, outputs=VARIANTS)
    for name, items in work.items():
        log(f"{layout.name}, {name} prompts: {len(items)} images of {len(chosen)} prompts")
        generate_work(pipeline, items, folder / name, batch_size=choices.batch_size, log=log)
        with FileLock(folder / name / _FINISHING):
            layout.finish(folder / name, chosen, settings.images_per_prompt)
    return settings


def _settings(
    pipeline: InfinityPipeline,
    layout: Layout,
    prompts: PromptSet,
    choices: GenerateChoices,
    *,
    variants: tuple[str, ...],
    cut: int,
) -> FieldSettings:
    request, count = _request("-", choices.options), choices.images_per_prompt
    return FieldSettings(
        benchmark=layout.name,
        prompts=prompts.source,
        prompts_sha256=prompts.sha256,
        limit=choices.limit,
        images_per_prompt=layout.images_per_prompt if count is None else count,
        seed=choices.seed,
        model=pipeline.model_name,
        model_sha256=pipeline.components.digest,
        adapters=tuple(adapter.model_dump(mode="json") for adapter in pipeline.used_adapters),
        dtype=str(pipeline.dtype).removeprefix("torch."),
        device=pipeline.device.type,
        request=request.model_dump(mode="json", exclude_defaults=True, exclude={"prompts", "seed"}),
        rewrites_sha256=None if choices.rewrites is None else _digest(choices.rewrites),
        cut_prompts=cut,
        variants=variants,
    )


def _fit(pipeline: InfinityPipeline, texts: dict[str, str], allowed: bool, title: str) -> int:
    """Cut the texts that the model can't read whole, in place, and count them; refuse them unless that is allowed."""
    encoder, limit = pipeline.text_encoder, pipeline.transformer.config.max_text_tokens
    if encoder is None:
        return 0  # drawing says that there is none
    lengths = {name: encoder.num_tokens(text) for name, text in texts.items()}
    longer = {name: length for name, length in lengths.items() if length > limit}
    if longer and not allowed:
        why = f"{len(longer)} of {len(texts)} have up to {max(longer.values())} tokens, and this model reads {limit}"
        fix = "use a model that reads more, or add --cut-prompts, which every result then says"
        raise UsageError(f"Prompts of {title} are too long for this model.", why, fix)
    for name in longer:
        texts[name] = cut_to(texts[name], encoder.num_tokens, limit)
    return len(longer)


def _text(prompt: EvalPrompt, variant: str, rewrites: Mapping[str, str] | None) -> str:
    if variant == RAW:
        return prompt.text
    if rewrites is None or prompt.text not in rewrites:
        why = f"there is none for {prompt.text[:60]!r}" if rewrites else "no rewrites are given"
        raise UsageError(
            "A prompt has no rewritten one.", why, "rewrite all prompts of the benchmark, and give --rewrites"
        )
    return rewrites[prompt.text]


def _item(layout: Layout, drawing: Drawing, text: str, choices: GenerateChoices) -> WorkItem:
    prompt = drawing.prompt
    own = zlib.crc32(f"{layout.name}/{prompt.id}".encode()) + drawing.number
    note = {"prompt_id": prompt.id, "number": drawing.number}
    if text != prompt.text:
        note["original_prompt"] = prompt.text
    return WorkItem(drawing.file, _request(text, choices.options), (choices.seed + own) % (MAX_SEED + 1), note)


def _request(text: str, options: Mapping[str, Any]) -> GenerationRequest:
    return GenerationRequest.from_options(text, options, source="the options of this benchmark")


def _digest(rewrites: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(rewrites), sort_keys=True).encode()).hexdigest()
