"""The prediction of `bitvar fit`: phases, what each option saves, and the first settings that fit."""

from dataclasses import replace

import pytest
import torch

from bitvar.costs.flops import num_parameters
from bitvar.costs.generation_memory import (
    CONTEXT,
    GenerationPlan,
    ModelSizes,
    PartSizes,
    changes_that_fit,
    describe_changes,
    describe_generation,
    estimate_generation_memory,
)
from bitvar.costs.inference_memory import InferencePlan, estimate_inference_memory
from bitvar.costs.training_memory import GIB
from bitvar.nn.linear import Linear
from bitvar.runtime.optimization import block_layers
from bitvar.runtime.weight_only import group_weights
from bitvar.tokenizer import TOKENIZER_PRESETS, InfinityTokenizer, TokenizerConfig
from bitvar.transformer import PRESETS, InfinityTransformer
from tests.support.live_tensors import LiveTensors
from tests.support.tiny import tiny_transformer

CONFIG = PRESETS["2B"]
MODEL = ModelSizes(
    CONFIG,
    TOKENIZER_PRESETS["d32"],
    PartSizes(num_parameters(CONFIG)),
    PartSizes(110_000_000),
    PartSizes(1_200_000_000, kept_wide=250_000_000, kept_here=60_000_000, library=150 << 20),
)
CARD = GenerationPlan(MODEL, CONFIG.all_schedules()[0])
HOST = replace(CARD, device="cpu", process=300 << 20, packed=True, precision="fp32")


def peak(plan: GenerationPlan) -> int:
    return estimate_generation_memory(plan).peak


def test_phases_and_parts_add_up() -> None:
    small = replace(CARD, weight_bits=4, int8_text=True, int8_cache=True)
    for plan in (CARD, HOST, replace(CARD, images=4), replace(CARD, offload=frozenset({"text", "blocks"})), small):
        memory = estimate_generation_memory(plan)
        assert memory.peak == max(memory.phases.values()) == memory.phases[memory.peak_phase]
        assert sum(memory.named().values()) == max(memory.drawing, memory.decoding)
        assert memory.resident < memory.peak


def test_weights_of_a_card_are_those_of_the_parts() -> None:
    memory = estimate_generation_memory(CARD)
    assert memory.process == CONTEXT
    assert memory.transformer == 2 * num_parameters(CONFIG)
    assert memory.text_encoder == 2 * 1_200_000_000
    half = estimate_generation_memory(replace(CARD, precision="fp16"))
    assert half.text_encoder - memory.text_encoder == 2 * 250_000_000, "T5 keeps some layers in fp32"


def test_offloading_saves_what_leaves() -> None:
    before, after = (estimate_generation_memory(replace(CARD, offload=frozenset(o))) for o in ((), ("text",)))
    assert before.resident - after.resident == before.text_encoder
    assert after.encoding == before.encoding, "it is there while it encodes"
    blocks = estimate_generation_memory(replace(CARD, offload=frozenset(["blocks"])))
    assert blocks.transformer + blocks.offloaded < 0.1 * before.transformer
    here = estimate_generation_memory(replace(HOST, offload=frozenset(["text"])))
    assert here.text_encoder == 4 * 60_000_000


def test_a_cast_file_is_counted_while_it_loads() -> None:
    stored = replace(MODEL, transformer=PartSizes(MODEL.transformer.parameters, 4 * MODEL.transformer.parameters))
    same, cast = (replace(HOST, model=stored, precision=p, packed=False) for p in ("fp32", "bf16"))
    assert estimate_generation_memory(cast).loading == HOST.process + 6 * MODEL.transformer.parameters
    assert estimate_generation_memory(same).loading < estimate_generation_memory(same).drawing


def test_packed_weights_are_those_of_the_linear_layers() -> None:
    with torch.device("meta"):
        model = InfinityTransformer(CONFIG)
    linear = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, Linear))
    before, after = (estimate_generation_memory(replace(HOST, packed=packed)) for packed in (False, True))
    folded = 16 * (256**2 + 3 * 512**2)
    assert after.packed == pytest.approx(4 * (linear + folded), rel=0.001)
    assert after.peak - before.peak == after.packed
    assert after.loading == before.loading, "they are packed by the first image"


def test_sequential_guidance_halves_activations_and_nothing_else() -> None:
    before, after = (estimate_generation_memory(replace(CARD, sequential_guidance=s)).inference for s in (False, True))
    assert after.activations * 2 == before.activations
    assert replace(after, activations=before.activations, fragments=before.fragments) == before


@pytest.mark.parametrize(("itemsize", "tile"), [(4, 32), (2, 32)])
def test_the_peak_of_tiled_decoding_is_estimated(itemsize: int, tile: int) -> None:
    decoder = TokenizerConfig(bits=16, base_channels=32, channel_multipliers=(1, 2, 3), norm_groups=8)
    tokenizer = InfinityTokenizer(decoder).to(torch.float32 if itemsize == 4 else torch.bfloat16).eval()
    schedule = replace(CARD.schedule, grids=((1, 1), (16, 16)), reference=(16, 16))
    plan = InferencePlan(CONFIG, schedule, decoder, itemsize=itemsize, tile=tile)
    latent = torch.randn(1, decoder.bits, 16, 16)
    with torch.inference_mode(), LiveTensors([*tokenizer.parameters(), latent]) as live:
        for _ in tokenizer.tiled_pixels(latent, tile=tile):
            pass
    estimate = estimate_inference_memory(plan).decoding
    assert 0.8 * live.peak < estimate < 1.5 * live.peak


def test_changes_begin_with_the_cheapest_and_end_when_it_fits() -> None:
    assert changes_that_fit(CARD, 80 * GIB) == []
    assert describe_changes(CARD, 80 * GIB) == []
    wide = replace(CARD, precision="fp32", images=2)
    options = [change.option.partition(",")[0] for change in changes_that_fit(wide, 10 * GIB)]
    assert options == ["--dtype bf16", "-n 1", "--offload text"]
    for gibibytes, smaller in ((7.2, "--fast int8-weights"), (6, "--offload blocks")):
        changes = changes_that_fit(wide, gibibytes * GIB)
        options = [change.option.partition(",")[0] for change in changes]
        assert options == ["--dtype bf16", "-n 1", "--offload text", smaller], "halves add nothing"
        peaks = [change.memory.peak for change in changes]
        assert peaks == sorted(peaks, reverse=True)
        assert changes[-1].fits(gibibytes * GIB)
        assert changes[-1].memory == estimate_generation_memory(changes[-1].plan)
        assert describe_changes(wide, gibibytes * GIB)[-1].endswith(f"of {gibibytes:.1f} GiB, fits")


@pytest.mark.parametrize("bits", [8, 4])
def test_integers_take_what_the_optimization_keeps(bits: int) -> None:
    transformer = tiny_transformer(width=128, num_heads=4)
    model = replace(MODEL, config=transformer.config, transformer=PartSizes(num_parameters(transformer.config)))
    plan = replace(CARD, model=model, schedule=transformer.config.all_schedules()[0], weight_bits=bits)
    layers = [layer for layer in block_layers(transformer) if isinstance(layer, Linear)]
    kept = sum(group_weights(layer.weight.detach(), bits).num_bytes for layer in layers)
    plain, memory = estimate_generation_memory(replace(plan, weight_bits=None)), estimate_generation_memory(plan)
    assert memory.integers == kept
    assert plain.transformer - memory.transformer == 2 * sum(layer.weight.numel() for layer in layers)
    on_host = estimate_generation_memory(replace(plan, device="cpu"))
    assert (on_host.integers, on_host.transformer) == (kept, plain.transformer), "a CPU keeps both"


def test_a_text_encoder_in_8_bits_keeps_its_embeddings() -> None:
    before, after = (estimate_generation_memory(replace(CARD, int8_text=chosen)) for chosen in (False, True))
    assert after.text_encoder == 2 * 60_000_000
    assert after.integers == 1_140_000_000 * 17 // 16
    assert after.encoding < before.encoding and after.loading == before.loading


def test_a_host_offloads_no_blocks_and_may_do_without_packed_weights() -> None:
    options = [change.option.partition(",")[0] for change in changes_that_fit(HOST, GIB)]
    assert "--fast off" in options
    assert "--offload blocks" not in options
    assert describe_changes(HOST, GIB)[-1] == "or a smaller --size, --guidance 1"
    assert describe_changes(CARD, GIB)[-1] == "or a smaller --size, --guidance 1, or --device cpu"


def test_the_table_ends_with_the_peak() -> None:
    lines = describe_generation(estimate_generation_memory(CARD)).splitlines()
    assert lines[-1].startswith("peak, drawing")
    assert lines[-1].endswith(f"{peak(CARD) / GIB:.2f} GiB")
    assert not any(" 0.00 GiB" in line for line in lines if line.startswith(("packed", "offloaded")))
