"""The estimate of what generating takes, against allocated tensors and the memory of a process."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bitvar.condition import TextCondition
from bitvar.costs.inference_memory import KERNEL_LIBRARIES, MAX_FRAGMENTS, InferencePlan, estimate_inference_memory
from bitvar.imaging.convert import to_pil
from bitvar.sampling.generate import generate, generate_apart
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule
from bitvar.tokenizer import TOKENIZER_PRESETS, InfinityTokenizer, TokenizerConfig
from bitvar.transformer import PRESETS, InfinityTransformer, TransformerConfig
from tests.support.live_tensors import LiveTensors

SCHEDULE = ScaleSchedule(((1, 1), (2, 2), (4, 4), (8, 8), (12, 16)), (12, 16))
MODEL = TransformerConfig(depth=3, width=128, num_heads=4, bits=16, text_width=96, max_text_tokens=40)
PATCHED = MODEL.model_copy(update={"bits": 64, "patch_size": 2})
DECODER = TokenizerConfig(bits=16, base_channels=32, channel_multipliers=(1, 2, 3), norm_groups=8)
FLAT = TokenizerConfig(
    bits=16, base_channels=48, channel_multipliers=(1,), norm="pixel", linear_skip=True, pixel_patch=2
)
PLAIN = InferencePlan(MODEL, SCHEDULE, DECODER, text_tokens=12)
PLANS = {
    "one image": PLAIN,
    "without guidance": replace(PLAIN, guided=False),
    "images one by one": replace(PLAIN, images=3),
    "images together": replace(PLAIN, images=3, batch_invariant=False),
    "bf16": replace(PLAIN, itemsize=2),
    "patches": replace(PLAIN, model=PATCHED),
    "pixel norm": replace(PLAIN, model=PATCHED, decoder=FLAT),
    "pixel norm in bf16": replace(PLAIN, model=PATCHED, decoder=FLAT, itemsize=2),
    "long text": replace(PLAIN, text_tokens=40),
}
BIG = InferencePlan(PRESETS["2B"], PRESETS["2B"].all_schedules()[0], TOKENIZER_PRESETS["d32"])


def dtype_of(plan: InferencePlan) -> torch.dtype:
    return torch.float32 if plan.itemsize == 4 else torch.bfloat16


def build(plan: InferencePlan) -> InfinityTransformer:
    model = InfinityTransformer(plan.model)
    model.init_weights(torch.Generator().manual_seed(0))
    return model.to(dtype_of(plan)).eval().requires_grad_(False)


def condition_of(plan: InferencePlan, rows: int) -> TextCondition:
    return TextCondition.from_list([torch.randn(plan.text_tokens, plan.model.text_width) for _ in range(rows)])


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_caches_and_text_keys_are_exact(plan: InferencePlan) -> None:
    with torch.inference_mode():
        state = build(plan).start_decoding(condition_of(plan, plan.rows), plan.schedule)
    storages = [part.untyped_storage() for text in state.text for part in (text.k, text.v)]
    estimate = estimate_inference_memory(plan)
    assert estimate.cache == state.cache.num_bytes == state.cache.buffer.nbytes
    assert estimate.text_keys == sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_the_peak_of_tensors_is_estimated(plan: InferencePlan) -> None:
    model = build(plan)
    tokenizer = InfinityTokenizer(plan.decoder).to(dtype_of(plan)).eval().requires_grad_(False)
    condition, seeds, shown = condition_of(plan, plan.images), range(plan.images), []
    loop = generate_apart if plan.batch_invariant else generate
    params = SamplingParams(guidance_scale=3.0 if plan.guided else 1.0)
    with LiveTensors([*model.parameters(), *tokenizer.parameters()]) as live:
        for result in loop(model, condition, plan.schedule, params=params, seeds=seeds):
            parts = result.latent.split(plan.images_together)
            with torch.inference_mode():
                shown = to_pil(torch.cat([tokenizer.decode(part) for part in parts]))
    assert len(shown) == plan.images
    assert shown[0].width * shown[0].height == plan.num_pixels
    estimate = estimate_inference_memory(plan)
    assert live.peak < estimate.held + estimate.transient < 1.35 * live.peak


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(
    "decoder",
    [
        DECODER,
        DECODER.model_copy(update={"res_blocks": 2}),
        DECODER.model_copy(update={"channel_multipliers": (3, 2, 1)}),
        DECODER.model_copy(update={"channel_multipliers": (1, 1, 8)}),
        FLAT,
    ],
)
def test_the_peak_of_decoding_is_estimated(decoder: TokenizerConfig, itemsize: int) -> None:
    plan = replace(PLAIN, decoder=decoder, itemsize=itemsize)
    tokenizer = InfinityTokenizer(decoder).to(dtype_of(plan)).eval().requires_grad_(False)
    latent = torch.randn(1, decoder.bits, *SCHEDULE[-1])
    with torch.inference_mode(), LiveTensors([*tokenizer.parameters(), latent]) as live:
        tokenizer.reconstruct(latent)
    assert estimate_inference_memory(plan).decoding == pytest.approx(live.peak, rel=0.1)


def test_each_setting_changes_the_parts_that_it_should() -> None:
    before = estimate_inference_memory(BIG).named()

    def changed(**changes: Any) -> dict[str, float]:
        after = estimate_inference_memory(replace(BIG, **changes)).named()
        return {name: after[name] / before[name] for name in before if after[name] != before[name]}

    bounded = {"libraries", "fragments"}
    held = {"cache", "text_keys", "text", "latents", "draws"}
    assert changed(images=2) == dict.fromkeys([*held, "pixels"], 2.0)
    assert changed(images=2, batch_invariant=False) == dict.fromkeys(before.keys() - bounded, 2.0)
    assert changed(guided=False)["cache"] == 0.5
    assert changed(guided=False).keys() == {"cache", "text_keys", "text", "draws", "activations"}
    assert changed(itemsize=2)["cache"] == changed(itemsize=2)["decoding"] == 0.5
    assert changed(text_tokens=512) == {"text_keys": 4.0, "text": 4.0}
    assert changed(decoder=TOKENIZER_PRESETS["d32"].model_copy(update={"base_channels": 64})) == {"decoding": 0.5}
    shorter = changed(schedule=BIG.schedule.first(8))
    assert shorter.keys() == before.keys() - {"text_keys", "text"} - bounded
    assert max(shorter.values()) < 0.6


def test_the_total_adds_what_coincides() -> None:
    estimate = estimate_inference_memory(BIG)
    parts = estimate.named()
    scale, decode = parts["activations"], parts["decoding"] + parts["pixels"]
    assert estimate.total == sum(parts.values()) - min(scale, decode)
    assert estimate.fragments == MAX_FRAGMENTS < max(scale, decode)
    small = estimate_inference_memory(PLAIN)
    assert small.fragments == small.transient < MAX_FRAGMENTS
    assert estimate.libraries == KERNEL_LIBRARIES
    assert estimate_inference_memory(replace(BIG, images=0)).total == KERNEL_LIBRARIES


@dataclass(frozen=True)
class Process:
    """What a process measured and what it predicted, in bytes."""

    measured: int
    predicted: int


_MEASURE = """
import ctypes, json, sys
from pathlib import Path
import torch
from bitvar.costs.inference_memory import InferencePlan, estimate_inference_memory
from bitvar.pipeline import InfinityPipeline
from bitvar.profiling.generation import RANDOM_TEXT_TOKENS, random_pipeline

preset, dtype, images, batch_invariant = json.loads(sys.argv[1])
torch.set_num_threads(2)
if preset == "icons":
    pipeline, tokens = InfinityPipeline.from_pretrained(dtype=dtype, device="cpu"), 8
else:
    pipeline, tokens = random_pipeline(preset, "d32", dtype=dtype, device="cpu"), RANDOM_TEXT_TOKENS

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

ctypes.CDLL(None).malloc_trim(0)  # what loading freed must not be used again uncounted
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
before = resident("VmRSS")
prompts = [f"a red apple {i}" for i in range(images)]
for event in pipeline.stream(prompts, guidance_scale=3.0, seed=1, batch_invariant=batch_invariant):
    event.preview()
plan = InferencePlan(
    pipeline.transformer.config, pipeline.schedule_for(None, None), pipeline.tokenizer.config, images=images,
    batch_invariant=batch_invariant, itemsize=pipeline.dtype.itemsize, text_tokens=tokens,
)
print(json.dumps([resident("VmHWM") - before, estimate_inference_memory(plan).total]))
"""


def measure(*settings: Any) -> Process:
    command = [sys.executable, "-c", _MEASURE, json.dumps(settings)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return Process(*json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset a process's peak")
@pytest.mark.parametrize(
    "settings",
    [("icons", "fp32", 1, True), ("icons", "fp32", 8, True), ("125M", "fp32", 1, True), ("125M", "bf16", 2, False)],
    ids=lambda settings: "-".join(map(str, settings)),
)
def test_the_growth_of_a_process_is_estimated(settings: tuple[Any, ...]) -> None:
    process = measure(*settings)
    assert 0.9 * process.measured < process.predicted < 2 * process.measured
