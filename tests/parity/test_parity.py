"""Every kind of golden fixture, at the tolerances its makers state: values 1e-4 relative, bits equal, losses 1e-5."""

from collections.abc import Callable

import torch
from einops import rearrange

from bitvar.bits import to_cells, to_tokens
from bitvar.condition import TextCondition
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.draw import bit_probability
from bitvar.sampling.generate import generate
from bitvar.sampling.params import SamplingParams
from bitvar.training.transformer.self_correction import teacher_forcing
from bitvar.transformer import bitwise_loss
from tests.parity.fixtures import Case, relative_error, to_rows

TOLERANCE = 1e-4


def checks(kind: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    def mark(test: Callable[[Case], None]) -> Callable[[Case], None]:
        test.kind = kind  # type: ignore[attr-defined]
        return test

    return mark


@checks("tokenizer")
@torch.inference_mode()
def test_tokenizer(case: Case) -> None:
    tensors, tokenizer = case.tensors, case.tokenizer("weights")
    images = tensors["image_uint8"].float() / 127.5 - 1
    assert relative_error(tokenizer.features(images), tensors["features"]) < TOLERANCE
    bits, latent = tokenizer.encode(images, case.grids)
    for k, scale_bits in enumerate(bits):
        assert torch.equal(to_rows(scale_bits), tensors[f"bits.{k:02d}"].bool())
    assert relative_error(latent, tensors["quantized"]) < TOLERANCE
    image = tokenizer.decode(latent)[..., ::4, ::4]
    assert relative_error(image, tensors["reconstruction_every_4th_pixel"]) < TOLERANCE


@checks("bitwise_self_correction")
def test_self_correction(case: Case) -> None:
    tensors = case.tensors
    patch_size = 2 if case.entry["spatial_patchify"] else 1
    schedule = case.schedule() if patch_size == 1 else _unpatched(case)

    def flip(k: int, bits: torch.Tensor) -> torch.Tensor:
        mask = tensors.get(f"flip_mask.{k:02d}")
        return bits if mask is None else bits ^ mask.permute(0, 3, 1, 2)

    inputs, targets = teacher_forcing(tensors["features"], schedule, patch_size=patch_size, flip=flip)
    tokens = torch.cat([to_tokens(resized, patch_size) for resized in inputs], dim=1)
    assert relative_error(tokens, tensors["transformer_input"]) < TOLERANCE
    expected = torch.cat([tensors[f"target_bits.{k:02d}"] for k in range(len(schedule))], dim=1)
    assert torch.equal(targets, expected.bool())


@checks("teacher_forced")
@torch.inference_mode()
def test_teacher_forced(case: Case) -> None:
    tensors, model, schedule = case.tensors, case.transformer(), case.schedule()
    prompts = [tensors[name] for name in sorted(tensors) if name.startswith("text.")]
    tokens = tensors["transformer_input"].split(schedule.lengths[1:], dim=1)
    inputs = [
        to_cells(part, grid, model.config.patch_size) for part, grid in zip(tokens, schedule.grids[1:], strict=True)
    ]
    logits = model(TextCondition.from_list(prompts), inputs, schedule)
    assert relative_error(rearrange(logits, "b l d v -> b l (d v)"), tensors["logits"]) < TOLERANCE
    bits = tensors["target_bits"].bool()
    for name, reweighted in (("loss_uniform", False), ("loss_reweighted", True)):
        loss = bitwise_loss(logits, bits, schedule, reweighted=reweighted)
        assert abs(loss.item() - tensors[name].item()) < 1e-5


@checks("greedy_generation")
def test_greedy_generation(case: Case) -> None:
    tensors, entry = case.tensors, case.entry
    negative = tensors.get("negative_text")
    prefix = [tensors[f"bits.{k:02d}"].bool().permute(0, 3, 1, 2) for k in range(entry["forced_scales"])]
    params = SamplingParams(guidance_scale=entry["guidance_scale"], temperature=entry["temperature"], top_k=1)
    results = list(
        generate(
            case.transformer(),
            TextCondition.from_list([tensors["text"]]),
            case.schedule(),
            params=params,
            seeds=[0],
            negative=None if negative is None else TextCondition.from_list([negative]),
            constraint=PrefixBits(prefix),
        )
    )
    for k, result in enumerate(results):
        assert torch.equal(to_rows(result.bits), tensors[f"bits.{k:02d}"].bool()), f"bits of scale {k}"
    latent = results[-1].latent
    assert relative_error(latent, tensors["latent"]) < TOLERANCE
    with torch.inference_mode():
        image = case.tokenizer("tokenizer").decode(latent)[..., ::4, ::4]
    assert relative_error(image, tensors["image_every_4th_pixel"]) < TOLERANCE


@checks("bit_distribution")
def test_bit_distribution(case: Case) -> None:
    tensors = case.tensors
    expected = {name: tensor for name, tensor in tensors.items() if name.startswith("prob_one.")}
    assert expected
    for name, probability in expected.items():
        top_k, top_p = name.removeprefix("prob_one.top_k_").split(".top_p_")
        ours = bit_probability(tensors["logits"][0], top_k=int(top_k), top_p=float(top_p))
        assert (ours - probability).abs().max() < 1e-6, name


def _unpatched(case: Case):
    from bitvar.official_schedules import official_schedules
    from bitvar.scales import ScaleSchedule

    grids = tuple((h // 2, w // 2) for h, w in case.grids)
    found: ScaleSchedule = next(s for s in official_schedules(("0.06M", "0.25M", "0.60M", "1M")) if s.grids == grids)
    return found
