"""The watermark: off it changes nothing, on it is found in the bits, and its key shows nowhere."""

import json
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitvar.errors import UsageError
from bitvar.pipeline.record import ImageRecord
from bitvar.pipeline.request import GenerationRequest
from bitvar.provenance.detection import GreenCount, count_green
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.draw import bit_probability, draw_bits
from bitvar.sampling.generate import generate_apart
from bitvar.sampling.noise import uniform_noise
from bitvar.sampling.params import SamplingParams, ScaleParams
from bitvar.sampling.watermark import Watermark
from tests.support.tiny import tiny_pipeline
from tests.unit.sampling.test_batch_invariance import rough_pipeline
from tests.unit.sampling.test_sampling import MODEL, TALL, same_bits, sample, texts

SECRET = bytes(range(32))
MARK = Watermark(SECRET, delta=2.0, context=2, first_scale=1)


def logits_of(seed: int, tokens: int = 16, bits: int = 12, spread: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(2, tokens, bits, 2, generator=generator)


def noise_of(seed: int, logits: torch.Tensor) -> torch.Tensor:
    return torch.stack([uniform_noise(seed + row, 0, logits.shape[1:3]) for row in range(len(logits))])


def slow_draw(logits: torch.Tensor, params: ScaleParams, noise: torch.Tensor, mark: Watermark, k: int) -> torch.Tensor:
    """Draw one bit after another: look up its green value, shift its logit, draw."""
    batch, tokens, bits = noise.shape
    lists = mark.green_lists(k, tokens, bits)
    assert lists is not None
    drawn = torch.zeros(batch, tokens, bits, dtype=torch.bool)
    for b in range(batch):
        for token in range(tokens):
            for i in range(bits):
                before = [
                    bool(drawn[b, token, i - back]) if i >= back else False for back in range(1, mark.context + 1)
                ]
                context = sum(int(bit) << place for place, bit in enumerate(before))
                green = int(lists.values[token, i, context])
                shifted = logits[b, token, i].clone()
                shifted[1] += mark.delta if green else -mark.delta
                one = bit_probability(shifted, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)
                drawn[b, token, i] = noise[b, token, i] < one
    return drawn


# off, nothing changes


def test_without_a_watermark_the_bits_are_those_of_the_plain_draw() -> None:
    logits = logits_of(0)
    noise = noise_of(0, logits)
    for params in (ScaleParams(), ScaleParams(temperature=0.25), ScaleParams(top_p=0.9), ScaleParams(temperature=0.0)):
        one = bit_probability(logits, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)
        assert torch.equal(draw_bits(logits, params, noise), noise < one)


def test_off_is_bit_identical_in_every_way_to_say_so(tmp_path: Path) -> None:
    pipe = rough_pipeline(tmp_path)
    plain = pipe("a red dog", seed=3, output_type="bits")
    off = pipe("a red dog", seed=3, output_type="bits", watermark=None)
    assert all(torch.equal(a, b) for a, b in zip(plain.images, off.images, strict=True))
    assert plain.metadata == off.metadata
    assert "watermark" not in plain.metadata[0]


def test_a_delta_of_zero_changes_no_bit() -> None:
    plain = [result.bits for result in sample(texts(3), [1])]
    assert same_bits(sample(texts(3), [1], watermark=Watermark(SECRET, delta=0.0, first_scale=0)), plain)


def test_a_key_that_marks_no_scale_is_refused(tmp_path: Path) -> None:
    pipe = tiny_pipeline(tmp_path)
    with pytest.raises(UsageError, match="would mark nothing"):
        pipe("a red dog", watermark=Watermark(SECRET, first_scale=3))
    plain = [result.bits for result in sample(texts(3), [1])]
    assert same_bits(sample(texts(3), [1], watermark=Watermark(SECRET, first_scale=len(TALL))), plain)


# on, it is drawn as specified


@pytest.mark.parametrize("context", [0, 1, 2, 5])
@pytest.mark.parametrize(
    "params",
    [ScaleParams(), ScaleParams(temperature=0.25), ScaleParams(temperature=0.0), ScaleParams(top_p=0.8)],
    ids=str,
)
def test_the_draw_equals_one_bit_after_another(context: int, params: ScaleParams) -> None:
    mark = Watermark(SECRET, delta=1.0, context=context, first_scale=0)
    logits = logits_of(1, tokens=6, bits=8)
    noise = noise_of(1, logits)
    lists = mark.green_lists(2, 6, 8)
    assert torch.equal(draw_bits(logits, params, noise, lists), slow_draw(logits, params, noise, mark, 2))


def test_a_certain_bit_stays_certain_and_an_open_one_turns_green() -> None:
    logits = torch.zeros(1, 64, 8, 2)
    logits[..., :4, 1] = 50.0
    mark = Watermark(SECRET, delta=20.0, context=2, first_scale=0)
    bits = draw_bits(logits, ScaleParams(), noise_of(3, logits), mark.green_lists(1, 64, 8))
    assert bits[..., :4].all()
    green = mark.green_bits(1, bits[0].numpy())
    assert green is not None
    assert green[:, 4:].mean() > 0.999
    assert 0.35 < green[:, :4].mean() < 0.65


def test_greedy_images_can_be_marked_too() -> None:
    plain = [result.bits for result in sample(texts(3), [1], temperature=0.0)]
    marked = sample(texts(3), [1], temperature=0.0, watermark=MARK)
    assert not same_bits(marked, plain)
    assert same_bits(sample(texts(3), [2], temperature=0.0, watermark=MARK), [result.bits for result in marked])


def test_scales_before_the_first_are_untouched() -> None:
    plain = sample(texts(3), [1])
    marked = sample(texts(3), [1], watermark=Watermark(SECRET, delta=8.0, first_scale=2))
    assert same_bits(marked[:2], [result.bits for result in plain[:2]])
    assert not torch.equal(marked[2].bits, plain[2].bits)


def test_every_setting_matters() -> None:
    def drawn(mark: Watermark) -> list[torch.Tensor]:
        return [result.bits for result in sample(texts(3), [1], watermark=mark)]

    reference = drawn(MARK)
    for change in (
        {"secret": bytes(32)},
        {"delta": 3.0},
        {"context": 1},
        {"first_scale": 2},
    ):
        values = {"secret": SECRET, "delta": 2.0, "context": 2, "first_scale": 1} | change
        other = Watermark(**values)
        assert not all(torch.equal(a, b) for a, b in zip(drawn(other), reference, strict=True)), change
        assert other.key_id != MARK.key_id
    assert Watermark(SECRET, delta=2.0, context=2, first_scale=1).key_id == MARK.key_id


def test_bits_that_a_constraint_fixes_are_not_marked() -> None:
    plain = [result.bits for result in sample(texts(3), [1])]
    marked = sample(texts(3), [1], watermark=MARK, constraint=PrefixBits([bits[0] for bits in plain]))
    assert same_bits(marked, plain)


def test_an_image_is_the_same_in_any_batch_with_a_watermark(tmp_path: Path) -> None:
    pipe = rough_pipeline(tmp_path)
    prompts, seeds = ["a red dog", "two cats on a blue square", "a cat"], [3, 2**40, 5]
    together = pipe(prompts, seed=seeds, guidance_scale=2.0, watermark=MARK, output_type="bits")
    for row, prompt in enumerate(prompts):
        alone = pipe(prompt, seed=seeds[row], guidance_scale=2.0, watermark=MARK, output_type="bits")
        for ours, theirs in zip(alone.images, together.images, strict=True):
            assert torch.equal(ours[0], theirs[row])


def test_seeds_are_the_only_randomness() -> None:
    condition = texts(3, 5)
    first = list(generate_apart(MODEL, condition, TALL, params=SamplingParams(), seeds=[1, 2], watermark=MARK))
    torch.manual_seed(99)
    np.random.seed(99)
    again = sample(condition, [1, 2], watermark=MARK)
    assert same_bits(again, [result.bits for result in first])
    assert not same_bits(sample(condition, [1, 3], watermark=MARK), [result.bits for result in first])


# lists


def test_lists_are_a_function_of_the_key_that_never_changes() -> None:
    lists = MARK.green_lists(2, 4, 12)
    assert lists is not None
    assert lists.values.shape == (4, 12, 4)
    packed = np.packbits(lists.values).tobytes().hex()
    assert packed == PACKED, packed
    assert MARK.key_id == KEY_ID, MARK.key_id
    assert MARK.green_lists(0, 1, 12) is None


PACKED = "2f68801114d91d0437d3c02d5fbcf0fe6e27b46907f78372"
KEY_ID = "4e8c8288906f740f"


def test_lists_are_balanced_and_unlike_each_other() -> None:
    marks = [Watermark(bytes([i]) * 32, context=2, first_scale=0) for i in range(4)]
    lists = [mark.green_lists(k, 64, 32) for mark in marks for k in range(4)]
    values = np.stack([one.values.ravel() for one in lists if one is not None]) * 2.0 - 1
    overlaps = values @ values.T / values.shape[1]
    assert np.abs(values.mean(axis=1)).max() < 0.05
    assert np.abs(overlaps - np.eye(16)).max() < 0.05


# detection on bits


def count(bits: torch.Tensor, mark: Watermark, k: int = 3) -> GreenCount:
    green = mark.green_bits(k, bits.numpy())
    assert green is not None
    return GreenCount(int(green.sum()), green.size)


def stream(seed: int, mark: Watermark | None, tokens: int = 64, bits: int = 32) -> torch.Tensor:
    """One scale of bits that a model of usual certainty draws at temperature 1."""
    logits = logits_of(seed, tokens, bits)[:1]
    lists = None if mark is None else mark.green_lists(3, tokens, bits)
    return draw_bits(logits, ScaleParams(), noise_of(seed, logits), lists)[0]


@pytest.mark.parametrize("number", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_streams_are_told_apart(number: int) -> None:
    """True positives at least 0.99 at a false positive rate of at most 1e-3, with one key."""
    marked = [count(stream(seed, MARK), MARK).z for seed in range(number)]
    unmarked = [count(stream(10_000 + seed, None), MARK).z for seed in range(number)]
    threshold = 3.0902  # one in a thousand
    assert np.mean(np.array(marked) > threshold) >= 0.99
    assert max(unmarked) < 5 < min(marked)
    assert np.sum(np.array(unmarked) > threshold) <= (1 if number < 1000 else 4)  # Poisson of mean 1: 99.6 %
    assert abs(np.std(unmarked) - 1) < (0.35 if number < 1000 else 0.1)
    other = Watermark(bytes(32), first_scale=1)
    assert np.mean([count(stream(seed, MARK), other).z for seed in range(number)]) < 1


def test_counts_say_z_and_p() -> None:
    assert GreenCount(50, 100).z == 0
    assert GreenCount(60, 100).z == 2
    assert GreenCount(50, 100).p_value == 0.5
    assert abs(GreenCount(60, 100).p_value - 0.02275) < 1e-5
    assert GreenCount(0, 0).z == 0


def test_the_bits_of_a_pipeline_are_counted_with_patches(tmp_path: Path) -> None:
    pipe = tiny_pipeline(tmp_path)
    mark = Watermark(SECRET, delta=20.0, first_scale=1)
    bits = pipe("a red dog", seed=1, output_type="bits", watermark=mark).images
    result = count_green([scale[0] for scale in bits], mark)
    assert result.total == 4 * (4 + 16)
    assert result.green / result.total > 0.95


# the key is a secret


def test_the_key_shows_in_no_text(tmp_path: Path) -> None:
    pipe = tiny_pipeline(tmp_path)
    output = pipe("a red dog", seed=1, watermark=MARK)
    request = GenerationRequest(prompts=("a red dog",), seed=1)
    texts_seen = [repr(MARK), str(MARK), f"{MARK}", repr(output.metadata), json.dumps(output.metadata)]
    texts_seen += [ImageRecord.of(output.metadata[0]).json_text(), request.model_dump_json()]
    for bad in ({"delta": -1.0}, {"context": 99}, {"first_scale": 64}, {"delta": float("nan")}):
        with pytest.raises(UsageError, match="of a watermark") as error:
            Watermark(**({"secret": SECRET} | bad))
        texts_seen.append("".join(traceback.format_exception(error.value)))
    with pytest.raises(UsageError) as error:
        Watermark(SECRET + b"x")
    texts_seen.append(str(error.value))
    with pytest.raises(UsageError) as error:
        pipe("a red dog", watermark=SECRET.hex())
    texts_seen.append(str(error.value))
    for text in texts_seen:
        assert SECRET.hex() not in text
        assert repr(SECRET)[2:20] not in text
    assert output.metadata[0]["watermark"] == MARK.key_id
    assert ImageRecord.of(output.metadata[0]).watermark == MARK.key_id


def test_new_keys_differ() -> None:
    made: list[Any] = [Watermark.new() for _ in range(3)]
    assert len({mark.key_id for mark in made}) == 3
    assert Watermark.new(delta=1.0).delta == 1.0
