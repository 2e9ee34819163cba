"""From prompt to image: every option, every form of result, seeds in any batch, streaming, folders, the hub."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import bitvar
from bitvar import pyramid
from bitvar.bits import bits_to_codes
from bitvar.errors import UsageError, WeightsError
from bitvar.imaging.convert import to_pil
from bitvar.imaging.pixels import to_uint8
from bitvar.pipeline import GenerationOutput, InfinityPipeline, ScaleEvent
from bitvar.pipeline.request import GenerationKwargs
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.params import SamplingParams
from bitvar.text import TextEncoder
from bitvar.weights import hub
from bitvar.weights.model_folder import Components
from tests.support.tiny import SCHEDULES, tiny_components

PROMPTS = ("a red dog", "two cats on a blue square", "a cat", "green circle left of a dog")


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    """As `tiny_components`, but the transformer is rough, so that prompts and guidance change bits."""
    made = tiny_components(tmp_path_factory.mktemp("components"))
    generator = torch.Generator().manual_seed(1)
    for parameter in made.transformer.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def pipe(components: Components) -> InfinityPipeline:
    return InfinityPipeline(components)


@pytest.fixture(scope="module")
def folder(pipe: InfinityPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    pipe.save_pretrained(path)
    return path


def with_defaults(pipe: InfinityPipeline, **values: Any) -> InfinityPipeline:
    index = pipe.index.model_copy(update={"defaults": SamplingParams(**values)})
    return InfinityPipeline(replace(pipe.components, index=index))


def bits(pipe: InfinityPipeline, prompt: str | Sequence[str] = PROMPTS[0], **options: Any) -> list[Tensor]:
    return list(pipe(prompt, output_type="bits", **{"seed": 1, **options}).images)


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def image_bytes(output: GenerationOutput) -> list[bytes]:
    return [image.tobytes() for image in output.images]


@pytest.fixture
def decoded_scales(pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The scales that the transformer computes, as it does."""
    return spy(pipe.transformer, "decode_scale", monkeypatch, lambda tokens, k, state: k)


@pytest.fixture
def decoded_latents(pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each call of the tokenizer's decoder."""
    return spy(pipe.tokenizer, "reconstruct", monkeypatch, len)


def spy(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, note: Callable[..., Any]) -> list[Any]:
    """What `note` says of the arguments of each call."""
    seen: list[Any] = []
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        seen.append(note(*arguments, **options))
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, wrapped)
    return seen


# Options


def test_every_option_is_tested_here() -> None:
    assert set(GenerationKwargs.__annotations__) == {
        "height",
        "width",
        "guidance_scale",
        "temperature",
        "top_k",
        "top_p",
        "negative_prompt",
        "num_images_per_prompt",
        "seed",
        "constraint",
        "watermark",  # in test_watermark.py
        "control",  # in test_control.py
        "batch_invariant",
        "background",  # in test_background.py
        "edit",  # in test_edits.py
        "mix",  # in test_mixed_prompts.py
        "mixed_seed",  # in test_mixed_prompts.py
        "quality",  # in test_quality.py
    }


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, (16, 16)),
        ({"height": 16, "width": 16}, (16, 16)),
        ({"height": 8, "width": 16}, (16, 8)),
        ({"height": 9, "width": 17}, (16, 8)),
        ({"height": 24, "width": 20}, (16, 16)),
    ],
    ids=str,
)
def test_height_and_width_choose_the_schedule(
    pipe: InfinityPipeline, asked: dict[str, Any], size: tuple[int, int]
) -> None:
    out = pipe("a dog", seed=1, **asked)
    assert out.images[0].size == size
    assert (out.metadata[0]["width"], out.metadata[0]["height"]) == size


def test_the_sizes_are_those_trained_on(pipe: InfinityPipeline) -> None:
    assert pipe.stride == 4
    assert pipe.sizes == [(16, 16), (16, 8)]
    assert pipe.schedule_for(None, None).grids == SCHEDULES[0]["grids"]
    assert pipe.schedule_for(8, 16).grids == SCHEDULES[1]["grids"]


@pytest.mark.parametrize("name", ["guidance_scale", "temperature"])
@pytest.mark.parametrize("value", [0.0, 1.5, (0.0, 2.0, 1.5)], ids=str)
def test_defaults_come_from_the_model_and_are_overridden(pipe: InfinityPipeline, name: str, value: Any) -> None:
    tuned = with_defaults(pipe, **{name: value})
    options: dict[str, Any] = {
        "guidance_scale": 3.0,
        "temperature": 1.0,
    }  # the package's own, where the index says nothing
    expected = bits(pipe, **{**options, name: value})
    assert same(bits(tuned, **{key: v for key, v in options.items() if key != name}), expected)
    assert not same(bits(tuned, **options), expected)
    assert same(bits(tuned, **options), bits(pipe, **options))


@pytest.mark.parametrize(("name", "default", "other"), [("top_k", 1, 0), ("top_p", 0.7, 0.0)])
def test_top_k_and_top_p_of_the_model_can_be_switched_off(
    pipe: InfinityPipeline, name: str, default: Any, other: Any
) -> None:
    tuned, plain = with_defaults(pipe, **{name: default}), with_defaults(pipe)
    assert same(bits(tuned), bits(plain, **{name: default}))
    assert same(bits(tuned, **{name: other}), bits(plain))
    assert not same(bits(tuned), bits(plain))


def test_greedy_is_the_same_for_every_seed(pipe: InfinityPipeline) -> None:
    for greedy in (dict[str, Any](temperature=0), dict[str, Any](top_k=1)):
        assert same(bits(pipe, seed=1, **greedy), bits(pipe, seed=2, **greedy))
    assert same(bits(pipe, temperature=0), bits(pipe, top_k=1))


def test_values_may_differ_per_scale(pipe: InfinityPipeline) -> None:
    ours = [bits(pipe, seed=seed, temperature=(0, 0, 1.0)) for seed in (1, 2)]
    assert same(ours[0][:2], ours[1][:2])
    assert not torch.equal(ours[0][2], ours[1][2])
    assert same(bits(pipe, guidance_scale=[2.0, 2.0, 2.0]), bits(pipe, guidance_scale=2.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"height": 1024, "width": 1024}, "out of this model's range"),
        ({"height": 2, "width": 16}, "out of this model's range"),
        ({"height": 16}, "Only one of height and width"),
        ({"width": 16}, "Only one of height and width"),
        ({"height": 0, "width": 16}, "'height'"),
        ({"guidance_scale": -1}, "'guidance_scale'"),
        ({"guidance_scale": (1.0, 2.0)}, "3 scales"),
        ({"guidance_scale": ()}, "3 scales"),
        ({"temperature": float("nan")}, "'temperature'"),
        ({"temperature": (1.0,) * 4}, "3 scales"),
        ({"temperature": "hot"}, "'temperature"),
        ({"top_k": -1}, "'top_k'"),
        ({"top_p": 1.5}, "'top_p'"),
        ({"num_images_per_prompt": 0}, "'num_images_per_prompt'"),
        ({"seed": -1}, "between 0 and 2\\^63 - 1, got -1"),
        ({"seed": 2**63}, "between 0 and 2\\^63 - 1"),
        ({"seed": (1, 2**63)}, "between 0 and 2\\^63 - 1"),
        ({"seed": (1, 2)}, "has 2, and 1 are needed"),
        ({"seed": ()}, "has 0, and 1 are needed"),
        ({"seed": (1, 2, 3), "num_images_per_prompt": 2}, "has 3, and 2 are needed"),
        ({"negative_prompt": ("a cat", "a dog")}, "2 negative prompts for 1 prompts"),
        ({"negative_prompt": ()}, "0 negative prompts for 1 prompts"),
        ({"negative_prompt": "a dog " * 20}, "too long"),
        ({"constraint": ("10",)}, "constraint takes a BitConstraint"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_values_are_refused_before_any_work(
    pipe: InfinityPipeline, decoded_scales: list[int], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=rf"{words}[\s\S]*do:"):
        pipe("a dog", **options)
    assert decoded_scales == []


@pytest.mark.parametrize(
    ("given", "meant"), [("sead", "seed"), ("guidance", "guidance_scale"), ("negative_promt", "negative_prompt")]
)
def test_an_unknown_option_is_refused_with_a_suggestion(pipe: InfinityPipeline, given: str, meant: str) -> None:
    wrong: dict[str, Any] = {given: 1}
    with pytest.raises(UsageError, match=rf"Unknown key '{given}'[\s\S]*did you mean '{meant}'\?"):
        pipe("a dog", **wrong)
    with pytest.raises(UsageError, match=meant):
        pipe.stream("a dog", **wrong)  # at once, not at the first step


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "There is no prompt"),
        ("", "The prompt is empty"),
        (["a dog", " \n"], "The prompt is empty"),
        ("a dog " * 20, "too long: 42 tokens"),
        (["a dog", "a " * 15], "too long: 17 tokens"),
    ],
    ids=str,
)
def test_bad_prompts_are_refused(pipe: InfinityPipeline, prompt: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pipe(prompt)


def test_the_longest_prompt_is_read_whole(pipe: InfinityPipeline) -> None:
    longest = "a " * 13 + "dog"
    assert pipe.encode_prompts([longest]).features.shape[1] == pipe.transformer.config.max_text_tokens
    options = {"num_images_per_prompt": 8, "guidance_scale": 4.0}
    assert not same(bits(pipe, longest, **options), bits(pipe, "a " * 13 + "cat", **options))


def test_a_model_without_a_text_encoder_says_so(components: Components) -> None:
    with pytest.raises(WeightsError, match="no text encoder"):
        InfinityPipeline(replace(components, text_encoder=None))("a dog")


# Negative prompts


def test_a_negative_prompt_steers(pipe: InfinityPipeline) -> None:
    plain = bits(pipe, guidance_scale=4.0)
    assert not same(bits(pipe, guidance_scale=4.0, negative_prompt="a blue circle"), plain)


def test_a_negative_prompt_without_guidance_is_refused(pipe: InfinityPipeline) -> None:
    scales = len(pipe.schedule_for(None, None))
    for off in (1.0, (1.0,) * scales):
        with pytest.raises(UsageError, match="The negative prompt would do nothing"):
            pipe("a red square", guidance_scale=off, negative_prompt="a blue circle")
    pipe("a red square", guidance_scale=(1.0,) * (scales - 1) + (3.0,), negative_prompt="a blue circle")


def test_negative_prompts_go_in_pairs(pipe: InfinityPipeline) -> None:
    prompts, negatives = list(PROMPTS[:2]), ("a cat", "a red square on a dog")
    shared = {"guidance_scale": 4.0, "num_images_per_prompt": 2}
    together = pipe(prompts, negative_prompt=negatives, seed=3, **shared)
    assert [m["negative_prompt"] for m in together.metadata] == [text for text in negatives for _ in range(2)]
    alone = [pipe(prompts[i], negative_prompt=negatives[i], seed=3 + 2 * i, **shared) for i in range(2)]
    assert image_bytes(together) == image_bytes(alone[0]) + image_bytes(alone[1])
    one_for_all = pipe(prompts, negative_prompt="a cat", seed=3, **shared)
    assert image_bytes(one_for_all) == image_bytes(pipe(prompts, negative_prompt=["a cat", "a cat"], seed=3, **shared))
    assert image_bytes(one_for_all)[2:] != image_bytes(together)[2:]


# Seeds and batches


def test_images_of_a_prompt_stand_together_and_seeds_count_up(pipe: InfinityPipeline) -> None:
    out = pipe(["a dog", "a cat"], num_images_per_prompt=3, seed=10)
    assert out.seeds == [10, 11, 12, 13, 14, 15]
    assert [m["prompt"] for m in out.metadata] == ["a dog"] * 3 + ["a cat"] * 3
    assert [m["seed"] for m in out.metadata] == out.seeds
    assert len(out.images) == 6
    assert image_bytes(pipe(["a dog", "a cat"], num_images_per_prompt=3, seed=(10, 11, 12, 13, 14, 15))) == image_bytes(
        out
    )


def test_seeds_after_the_last_one_begin_again(pipe: InfinityPipeline) -> None:
    assert pipe("a dog", num_images_per_prompt=2, seed=2**63 - 1).seeds == [2**63 - 1, 0]


def test_no_seed_draws_one_that_makes_the_image_again(pipe: InfinityPipeline) -> None:
    first, second = pipe("a dog"), pipe("a dog")
    assert first.seeds != second.seeds
    assert image_bytes(pipe("a dog", seed=first.seeds[0])) == image_bytes(first)


def test_a_call_leaves_the_global_random_state_alone(pipe: InfinityPipeline) -> None:
    before = torch.random.get_rng_state()
    pipe("a dog", seed=1)
    pipe("a dog")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_same_seed_gives_the_same_image_in_any_batch_and_order(pipe: InfinityPipeline) -> None:
    alone = [image_bytes(pipe(prompt, seed=20 + i))[0] for i, prompt in enumerate(PROMPTS)]
    assert len(set(alone)) == len(PROMPTS)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0], [1, 1]):
        batch = pipe([PROMPTS[i] for i in order], seed=tuple(20 + i for i in order))
        assert image_bytes(batch) == [alone[i] for i in order], order


# Prefixes


def test_a_prefix_is_the_first_scales_of_another_image(pipe: InfinityPipeline) -> None:
    other = bits(pipe, PROMPTS[1], seed=8)
    free = bits(pipe, [PROMPTS[0], PROMPTS[2]], seed=1)
    made = bits(pipe, [PROMPTS[0], PROMPTS[2]], seed=1, constraint=PrefixBits([scale[0] for scale in other[:2]]))
    assert same(made[:2], [scale.expand(2, -1, -1, -1) for scale in other[:2]])
    assert not torch.equal(made[2], free[2])
    assert not torch.equal(made[2][0], made[2][1])


def test_a_prefix_of_all_bits_is_that_image_and_takes_no_last_scale(
    pipe: InfinityPipeline, decoded_scales: list[int]
) -> None:
    given = PrefixBits([scale[0] for scale in bits(pipe, seed=8)])
    original = image_bytes(pipe(PROMPTS[0], seed=8))
    decoded_scales.clear()
    assert image_bytes(pipe(PROMPTS[1], seed=9, constraint=given)) == original
    assert decoded_scales == [0, 1]


@pytest.mark.parametrize(
    ("shapes", "dtype", "words"),
    [
        ([(4, 2, 2)], torch.bool, r"Scale 0[\s\S]*\(4, 1, 1\)"),
        ([(4, 1, 1), (4, 3, 3)], torch.bool, r"Scale 1[\s\S]*\(4, 2, 2\)"),
        ([(1, 1, 1)], torch.bool, r"\(4, 1, 1\)"),
        ([(2, 4, 1, 1)], torch.bool, "for one image or for all 1"),
        ([(4, 1, 1)], torch.float32, "torch.float32"),
        ([(4, 1, 1), (4, 2, 2), (4, 4, 4), (4, 4, 4)], torch.bool, "3 scales"),
    ],
    ids=str,
)
def test_a_prefix_must_fit(
    pipe: InfinityPipeline,
    decoded_scales: list[int],
    shapes: list[tuple[int, ...]],
    dtype: torch.dtype,
    words: str,
) -> None:
    with pytest.raises(UsageError, match=words):
        pipe("a dog", constraint=PrefixBits([torch.zeros(shape, dtype=dtype) for shape in shapes]))
    assert decoded_scales == []


# Forms


def test_the_forms_agree(pipe: InfinityPipeline) -> None:
    made = {form: pipe(PROMPTS[:2], seed=4, output_type=form, height=8, width=16) for form in ("pil", "np", "pt")}
    pil, array, tensor = made["pil"].images, made["np"].images, made["pt"].images
    assert (array.shape, array.dtype) == ((2, 8, 16, 3), np.uint8)
    assert (tensor.shape, tensor.dtype) == ((2, 3, 8, 16), torch.float32)
    assert tensor.abs().max() <= 1
    assert [(image.mode, image.size) for image in pil] == [("RGB", (16, 8))] * 2
    assert all(np.array_equal(np.asarray(image), entry) for image, entry in zip(pil, array, strict=True))
    assert np.array_equal(to_uint8(tensor).permute(0, 2, 3, 1).numpy(), array)
    assert all(out.seeds == [4, 5] and out.metadata == made["pil"].metadata for out in made.values())


def test_the_bits_are_the_image(pipe: InfinityPipeline, decoded_latents: list[int]) -> None:
    given = bits(pipe, PROMPTS[:2], seed=4)
    assert decoded_latents == []  # no image was asked for
    assert [(scale.shape, scale.dtype) for scale in given] == [((2, 4, s, s), torch.bool) for s in (1, 2, 4)]
    latent = pyramid.empty_latent(2, 4, (4, 4), torch.device("cpu"))
    for scale in given:
        latent = pyramid.add_scale(latent, bits_to_codes(scale))
    assert [image.tobytes() for image in to_pil(pipe.tokenizer.decode(latent))] == image_bytes(
        pipe(PROMPTS[:2], seed=4)
    )


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (-1.0, 0),
        (-1.5, 0),
        (1.0, 255),
        (7.0, 255),
        (0.0, 128),  # 127.5, half to even
        (1.4 / 127.5 - 1, 1),
        (1.6 / 127.5 - 1, 2),
        (254.4 / 127.5 - 1, 254),
    ],
)
def test_pixels_are_rounded_and_clamped(level: float, expected: int) -> None:
    assert to_uint8(torch.full((1, 3, 1, 1), level)).unique().tolist() == [expected]


def test_an_unknown_form_is_refused(
    pipe: InfinityPipeline, decoded_scales: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users: beartype would speak first
    unknown: Any = "jpeg"
    with pytest.raises(UsageError, match=r"'jpeg'[\s\S]*pil, np, pt, bits"):
        pipe("a dog", output_type=unknown)
    assert decoded_scales == []


def test_every_byte_survives_the_way_to_pixels_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(values.float() / 127.5 - 1), values)


# Metadata


def test_metadata_is_json_and_makes_the_image_again(pipe: InfinityPipeline) -> None:
    out = pipe(
        list(PROMPTS[:2]),
        seed=6,
        height=8,
        width=16,
        guidance_scale=(1.0, 2.0, 4.0),
        temperature=0.8,
        top_k=2,
        top_p=0.9,
        negative_prompt="a cat",
    )
    read = json.loads(json.dumps(out.metadata))
    assert read[1] == {
        "prompt": PROMPTS[1],
        "negative_prompt": "a cat",
        "seed": 7,
        "width": 16,
        "height": 8,
        "requested_width": 16,
        "requested_height": 8,
        "guidance_scale": [1.0, 2.0, 4.0],
        "temperature": 0.8,
        "top_k": 2,
        "top_p": 0.9,
        "model": "tiny",
        "dtype": "float32",
        "device": "cpu",
        "batch_invariant": True,
    }
    again = [make_again(pipe, entry) for entry in read]
    assert again == image_bytes(out)


def make_again(pipe: InfinityPipeline, entry: dict[str, Any]) -> bytes:
    options = {key: value for key, value in entry.items() if key in GenerationKwargs.__annotations__}
    return image_bytes(pipe(entry["prompt"], **options))[0]


def test_metadata_holds_the_values_that_came_from_the_model(pipe: InfinityPipeline) -> None:
    tuned = with_defaults(pipe, guidance_scale=(1.0, 2.0, 3.0), temperature=0.5, top_p=0.9)
    entry = tuned("a dog", seed=1).metadata[0]
    assert (entry["guidance_scale"], entry["temperature"], entry["top_p"]) == ((1.0, 2.0, 3.0), 0.5, 0.9)
    assert make_again(pipe, entry) == image_bytes(tuned("a dog", seed=1))[0]


# Streaming


def test_every_scale_is_an_event(pipe: InfinityPipeline) -> None:
    events = list(pipe.stream(list(PROMPTS[:2]), seed=5))
    assert [event.index for event in events] == [0, 1, 2]
    assert {event.total for event in events} == {3}
    assert [event.grid for event in events] == [(1, 1), (2, 2), (4, 4)]
    assert [event.tokens_done for event in events] == [1, 5, 21]
    assert {event.tokens_total for event in events} == {21}
    assert [len(event.bits) for event in events] == [1, 2, 3]
    called = pipe(list(PROMPTS[:2]), seed=5)
    assert all(event.seeds == called.seeds and event.metadata == called.metadata for event in events)
    assert [image.tobytes() for image in events[-1].preview()] == image_bytes(called)
    assert same(events[-1].bits, bits(pipe, PROMPTS[:2], seed=5))
    assert events[0].preview()[0].tobytes() != events[-1].preview()[0].tobytes()


@pytest.mark.parametrize(
    ("asked", "size", "expected"),
    [
        ((16, 16), None, (16, 16)),
        ((16, 16), 40, (40, 40)),
        ((8, 16), None, (16, 8)),
        ((8, 16), 64, (64, 32)),
        ((8, 16), 4, (4, 2)),
        ((8, 16), 1, (1, 1)),
    ],
)
def test_previews_are_whole_or_resized(
    pipe: InfinityPipeline, asked: tuple[int, int], size: int | None, expected: tuple[int, int]
) -> None:
    for event in pipe.stream(["a dog", "a cat"], seed=5, height=asked[0], width=asked[1]):
        assert event.pixels.shape == (2, 3, *asked)
        assert [image.size for image in event.preview(size)] == [expected] * 2
        assert all(isinstance(image, Image.Image) for image in event.preview(size))


def test_a_image_is_decoded_when_first_asked_for(pipe: InfinityPipeline, decoded_latents: list[int]) -> None:
    events = list(pipe.stream(["a dog", "a cat"], seed=5))
    assert decoded_latents == []
    events[1].preview()
    events[1].preview(8)
    assert torch.equal(events[1].pixels, events[1].pixels)
    assert decoded_latents == [1, 1]  # each by itself
    pipe("a dog", seed=5)
    assert decoded_latents == [1, 1, 1]  # a call decodes the last scale only
    pipe(["a dog", "a cat"], seed=5, batch_invariant=False)
    assert decoded_latents == [1, 1, 1, 2]


def test_leaving_the_loop_cancels_the_rest(pipe: InfinityPipeline, decoded_scales: list[int]) -> None:
    events = pipe.stream("a dog", seed=5)
    assert decoded_scales == []
    for event in events:
        if event.index == 1:
            break
    assert isinstance(events, Iterator)
    assert decoded_scales == [0, 1]
    del events
    assert decoded_scales == [0, 1]


def test_two_streams_side_by_side_do_not_meet(pipe: InfinityPipeline) -> None:
    streams = [pipe.stream(prompt, seed=i) for i, prompt in enumerate(PROMPTS[:2])]
    last: list[ScaleEvent] = []
    for pair in zip(*streams, strict=True):
        last = list(pair)
    for i, event in enumerate(last):
        assert same(event.bits, bits(pipe, PROMPTS[i], seed=i))


def test_gradients_stay_as_the_caller_set_them(pipe: InfinityPipeline) -> None:
    for event in pipe.stream("a dog", seed=5):
        assert event.pixels.isfinite().all()
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


# Threads


def test_threads_give_what_calls_in_turn_give(pipe: InfinityPipeline) -> None:
    jobs = [(prompts, seed) for seed, prompts in enumerate((PROMPTS[:1], PROMPTS[1:3], PROMPTS, PROMPTS[2:]))]
    expected = [image_bytes(pipe(list(prompts), seed=seed)) for prompts, seed in jobs]
    found: dict[int, list[list[bytes]]] = {}

    def work(mine: int) -> None:
        found[mine] = [image_bytes(pipe(list(jobs[i][0]), seed=jobs[i][1])) for i in (mine, mine + 2) * 2]

    threads = [threading.Thread(target=work, args=(mine,)) for mine in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {mine: [expected[mine], expected[mine + 2]] * 2 for mine in (0, 1)}


def test_another_thread_counting_tokens_at_the_worst_moment_changes_nothing(
    pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vocabulary is shared: a call must not depend on settings that another call changes under it."""
    encoder = pipe.text_encoder
    assert encoder is not None
    expected = encoder.encode(PROMPTS)
    original = encoder.tokenizer
    interrupting = False

    def interrupted(prompt: str) -> list[int]:
        nonlocal interrupting
        if not interrupting:
            interrupting = True
            encoder.num_tokens("a dog")
            interrupting = False
        return original(prompt)

    monkeypatch.setattr(encoder, "tokenizer", interrupted)
    found = encoder.encode(PROMPTS)
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.mask, expected.mask)


# Folders and the hub


def test_a_folder_gives_the_same_images(pipe: InfinityPipeline, folder: Path, tmp_path: Path) -> None:
    loaded = InfinityPipeline.from_pretrained(str(folder), dtype="fp32", device="cpu")
    assert same(bits(loaded, PROMPTS[:2]), bits(pipe, PROMPTS[:2]))
    before = [f(PROMPTS[:2], seed=1, output_type="pt").images for f in (pipe, loaded)]
    torch.testing.assert_close(before[1], before[0])  # the memory format differs, so the last digit may
    loaded.save_pretrained(str(tmp_path / "again"))
    again = InfinityPipeline.from_pretrained(tmp_path / "again", dtype=torch.float32, device=torch.device("cpu"))
    assert image_bytes(again(PROMPTS[:2], seed=1)) == image_bytes(loaded(PROMPTS[:2], seed=1))
    assert again.index == loaded.index
    assert again.components.card == loaded.components.card


def test_the_name_says_which_model_exactly(pipe: InfinityPipeline, folder: Path, tmp_path: Path) -> None:
    loaded = InfinityPipeline.from_pretrained(folder)
    assert pipe.model_name == "tiny"
    assert loaded.model_name == f"tiny@{loaded.components.digest[:12]}"
    assert loaded("a dog", seed=1).metadata[0]["model"] == loaded.model_name
    loaded.save_pretrained(tmp_path / "used")
    InfinityPipeline.from_pretrained(tmp_path / "used").save_pretrained(tmp_path / "unused")
    names = [InfinityPipeline.from_pretrained(tmp_path / name).model_name for name in ("used", "unused")]
    assert names[0] == names[1]  # whether it was used before it was saved


@pytest.mark.parametrize(
    ("name", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), (torch.bfloat16, torch.bfloat16)], ids=str
)
def test_dtypes(folder: Path, name: Any, expected: torch.dtype) -> None:
    loaded = InfinityPipeline.from_pretrained(folder, dtype=name, device="cpu")
    assert {loaded.transformer.dtype, loaded.tokenizer.dtype} == {expected}
    encoder = loaded.text_encoder
    assert encoder is not None
    assert next(encoder.model.parameters()).dtype == expected
    out = loaded("a dog", seed=1, output_type="pt")
    assert out.images.dtype == torch.float32
    assert out.metadata[0]["dtype"] == str(expected).removeprefix("torch.")


def test_auto_is_fp32_on_the_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    loaded = InfinityPipeline.from_pretrained(folder)
    assert (loaded.transformer.device.type, loaded.transformer.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "fp7"}, r"Unknown dtype 'fp7'[\s\S]*'auto', 'fp32', 'bf16', 'fp16'"),
        ({"dtype": "float32"}, "Unknown dtype"),
        ({"dtype": torch.int64}, "dtype"),
        ({"device": "abacus"}, r"no device 'abacus'[\s\S]*'cpu'"),
        ({"device": "cuda"}, r"no device 'cuda'[\s\S]*'cpu'"),
        ({"device": torch.device("cuda", 1)}, "no device 'cuda:1'"),
        ({"device": "meta"}, "no device 'meta'"),
    ],
    ids=str,
)
def test_unknown_dtypes_and_devices(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=words):
        InfinityPipeline.from_pretrained(folder, **options)


@pytest.mark.parametrize("model", ["nowhere", "./nowhere/model", "/nowhere/model", "~/model", "a/b/c"])
def test_a_model_that_is_not_there(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # and nothing is looked up
    monkeypatch.chdir(tmp_path)
    calls = spy(huggingface_hub, "snapshot_download", monkeypatch, lambda *a, **o: a)
    for given in (model, Path(model)) if not model.startswith("./") else (model,):
        with pytest.raises(UsageError, match=r"There is no model[\s\S]*why:[\s\S]*do:"):
            InfinityPipeline.from_pretrained(given)
    assert calls == []


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model_index\.json"):
        InfinityPipeline.from_pretrained(tmp_path)


def test_no_model_is_the_embedded_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "EMBEDDED_MODEL", folder)
    assert InfinityPipeline.from_pretrained().index.name == "tiny"


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_a_hub_id_is_downloaded_at_its_revision(
    folder: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    calls: list[Any] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((name, revision))
        assert not {"*.bin", "*.pth", "*.pt", "*.pkl", "*.py", "*"} & set(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert InfinityPipeline.from_pretrained("owner/name", revision=revision).index.name == "tiny"
    assert calls == [("owner/name", revision)]


@pytest.mark.parametrize(
    "error",
    [
        OSError("We couldn't connect to the hub\nmore"),
        ConnectionError(),
        huggingface_hub.errors.LocalEntryNotFoundError("not in the cache"),
        huggingface_hub.errors.HFValidationError("Repo id must be plain"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_can_not_be_reached(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises((UsageError, WeightsError), match=r"'owner/name'[\s\S]*why:[\s\S]*do:") as caught:
        InfinityPipeline.from_pretrained("owner/name")
    assert len(str(caught.value).splitlines()) == 3
    assert caught.value.__cause__ is None


# The package


def test_public_names() -> None:
    assert bitvar.__all__ == sorted(bitvar.__all__)
    for name in bitvar.__all__:
        assert getattr(bitvar, name).__name__ == name
        assert getattr(bitvar, name).__module__.startswith("bitvar.")
    assert bitvar.InfinityPipeline is InfinityPipeline
    with pytest.raises(AttributeError, match="'Pipeline'"):
        _ = bitvar.Pipeline


def test_components_are_reachable(pipe: InfinityPipeline, components: Components) -> None:
    assert pipe.transformer is components.transformer
    assert pipe.tokenizer is components.tokenizer
    assert isinstance(pipe.text_encoder, TextEncoder)
    assert pipe.index is components.index
