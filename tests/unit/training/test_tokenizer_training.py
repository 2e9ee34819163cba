"""Training a tokenizer: from another one, by halves, with other channels, with an adversary; a collapse said aloud."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bitvar import ImageCodec, InfinityPipeline, pyramid
from bitvar.errors import UsageError, WeightsError
from bitvar.imaging.convert import to_image
from bitvar.imaging.pixels import to_signed
from bitvar.metrics.distances import PerceptualDistance
from bitvar.tokenizer import InfinityTokenizer, losses
from bitvar.training.config import IntervalConfig
from bitvar.training.engine import loop
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.microbatch import MicroBatch
from bitvar.training.export import load_tokenizer, save_tokenizer
from bitvar.training.monitor import health
from bitvar.training.monitor.sample_sheets import reconstruction_sheet
from bitvar.training.tokenizer.data import ImageSet
from bitvar.training.tokenizer.task import TokenizerTask
from bitvar.training.tokenizer.validation import measure_reconstruction
from bitvar.training.tokenizer.warm_start import TokenizerOrigin, check_origin, fit_channels
from bitvar.weights.identity import TokenizerIdentity
from bitvar.weights.model_folder import load_component
from tests.support.tiny import tiny_pipeline, tiny_tokenizer
from tests.unit.cli.test_train import launch, run
from tests.unit.training.test_training import (
    GRIDS,
    Blurry,
    make_images,
    optimization,
    tokenizer_loss,
    tokenizer_task,
    tokenizer_training,
)

RECIPE = """
from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining

def recipe(trained: str = "all", channels: int = 3, steps: int = 4) -> TokenizerTraining:
    return TokenizerTraining(
        model=TokenizerConfig(
            bits=4, base_channels=32, channel_multipliers=(1, 1, 1), res_blocks=1, image_channels=channels
        ),
        schedules=(((1, 1), (2, 2), (4, 4)), ((1, 1), (1, 2), (2, 4)), ((1, 1), (2, 2))),
        optimization=OptimizationConfig(
            steps=steps, batch_size=4, learning_rate=1e-2, warmup_steps=0, ema_decay=0.5, precision="fp32",
        ),
        intervals=IntervalConfig(log=1, validation=2, sample=2, save=2),
        trained=trained, smallest_crop=0.5, mirrored=True, truncation=0.3, adversarial=0.1, discriminator_width=8,
    )
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a model of its tokenizer's sizes, and folders of images and of arrays."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "recipe.py").write_text(RECIPE)
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    rng = np.random.default_rng(0)
    for name in ("images", "arrays"):
        (folder / name).mkdir()
    for i in range(24):
        colours = rng.integers(0, 255, (3, 4 if i % 3 else 8, 3), dtype=np.uint8)
        image = Image.fromarray(colours).resize((24 if i % 3 else 48, 24), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{i}.png")
        np.save(folder / "arrays" / f"{i}.npy", np.repeat(np.asarray(image), 2, axis=2))
    return folder


def words(work: Path, out: Path, *more: str, data: str = "images") -> list[str]:
    given = [work / "recipe.py", "--data", work / data, "--out", out]
    return ["bitvar", "train", *map(str, given), "--device", "cpu", "--workers", "0", *more]


# The command


def test_a_folder_of_images_makes_a_tokenizer(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run(monkeypatch, capsys, words(work, tmp_path / "run", "--init", str(work / "tiny")))
    assert out.strip() == str(tmp_path / "run" / "model")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["train", "train", "validation"] * 2
    assert {"bit_entropy/scale_0", "generator", "discriminator", "generator_weight"} <= set(lines[0])
    assert {"psnr/scale_1", "dead_bits/scale_2", "residual/scale_0", "bit_entropy/scale_1"} <= set(lines[2])
    assert (tmp_path / "run" / "samples" / "step-00000002.png").is_file()
    made = ImageCodec.from_pretrained(tmp_path / "run" / "model", device="cpu")
    assert made.identity.encoder_of is None
    assert made.header_for(16, 8).grids == ((1, 1), (1, 2), (2, 4))  # those it was trained on, no halves
    before = load_component(InfinityTokenizer, work / "tiny" / "image_tokenizer")
    assert not torch.equal(made.tokenizer.encoder.conv_in.weight, before.encoder.conv_in.weight)
    again, err = run(monkeypatch, capsys, words(work, tmp_path / "run", "--init", str(work / "tiny")))
    assert "finished already, at step 4" in err
    assert again == out


def test_a_trained_decoder_keeps_the_bits_and_fits_the_model(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe-arg", "trained=decoder", "--init", str(work / "tiny"), "--name", "sharper"]
    run(monkeypatch, capsys, words(work, tmp_path / "run", *options))
    before = ImageCodec.from_pretrained(work / "tiny", device="cpu")
    after = ImageCodec.from_pretrained(tmp_path / "run" / "model", device="cpu")
    assert after.identity.encoder_of == before.identity.sha256
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    made = [codec.tokenizer.encode(images, GRIDS)[0] for codec in (before, after)]
    assert all(torch.equal(one, two) for one, two in zip(*made, strict=True))
    file = before.encode(work / "images" / "1.png")
    assert not np.array_equal(np.asarray(after.decode(file)), np.asarray(before.decode(file)))
    before.decode(after.encode(work / "images" / "1.png"))  # and the other way round

    plain = InfinityPipeline.from_pretrained(work / "tiny", device="cpu")
    other = InfinityPipeline.from_pretrained(work / "tiny", device="cpu", tokenizer=tmp_path / "run" / "model")
    assert other.model_name != plain.model_name
    bits = [pipe("a red square", seed=0, output_type="bits").images for pipe in (plain, other)]
    assert all(torch.equal(one, two) for one, two in zip(*bits, strict=True))
    drawn = [np.asarray(pipe("a red square", seed=0).images[0]) for pipe in (plain, other)]
    assert not np.array_equal(*drawn)

    other.save_pretrained(tmp_path / "whole")
    saved = InfinityPipeline.from_pretrained(tmp_path / "whole", device="cpu")
    assert np.array_equal(np.asarray(saved("a red square", seed=0).images[0]), drawn[1])

    target = tmp_path / "drawn.png"
    arguments = ["bitvar", "generate", "a red square", "--model", str(work / "tiny"), "--seed", "0", "-o", str(target)]
    run(monkeypatch, capsys, [*arguments, "--tokenizer", str(tmp_path / "run" / "model"), "--device", "cpu"])
    assert np.array_equal(np.asarray(Image.open(target)), drawn[1])
    again = ["bitvar", "generate", "--from", str(target), "--model", str(work / "tiny"), "-o", str(tmp_path / "2.png")]
    _, err = run(monkeypatch, capsys, [*again, "--device", "cpu"], code=2)
    assert "--tokenizer" in err


@pytest.mark.parametrize("option", ["--tokenizer=x", "--text-encoder=x", "--attention=flex", "--shards=2"])
def test_what_a_tokenizer_run_can_not_use_is_refused(
    option: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr("bitvar.training.assemble._join", lambda *_: (torch.device("cpu"), DistributedContext()))
    _, err = run(monkeypatch, capsys, words(work, tmp_path / "run", option), code=2)
    assert option.partition("=")[0] in err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_recomputing_changes_nothing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    for name, more in (("plain", ()), ("lean", ("--activation-checkpointing",))):
        run(monkeypatch, capsys, words(work, tmp_path / name, *more))
        made.append(load_component(InfinityTokenizer, tmp_path / name / "model").decoder.conv_in.weight)
    torch.testing.assert_close(made[0], made[1], atol=2e-3, rtol=1e-2)


def test_a_whole_other_tokenizer_does_not_fit_the_model(work: Path, tmp_path: Path) -> None:
    save_tokenizer(tiny_tokenizer(seed=5), tmp_path / "other", name="other")
    with pytest.raises(WeightsError, match="does not belong"):
        InfinityPipeline.from_pretrained(work / "tiny", device="cpu", tokenizer=tmp_path / "other")


def test_a_half_is_exported_with_the_other(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        monkeypatch,
        capsys,
        words(work, tmp_path / "run", "--recipe-arg", "trained=decoder", "--init", str(work / "tiny")),
    )
    export = ["bitvar", "export", str(tmp_path / "run"), str(tmp_path / "out"), "--name", "run"]
    _, err = run(monkeypatch, capsys, export, code=2)
    assert "add --init" in err
    run(monkeypatch, capsys, [*export, "--init", str(work / "tiny")])
    for name in ("identity.json", "grids.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "run" / "model" / name).read_bytes()
    save_tokenizer(tiny_tokenizer(seed=5), tmp_path / "other", name="other")
    export[3] = str(tmp_path / "wrong")
    _, err = run(monkeypatch, capsys, [*export, "--init", str(tmp_path / "other")], code=3)
    assert "trained for another tokenizer" in err
    whole = tmp_path / "all"
    run(monkeypatch, capsys, words(work, whole))
    _, err = run(monkeypatch, capsys, [*export, "--init", str(whole / "checkpoints" / "step-00000004")], code=2)
    assert "export the checkpoint first" in err


def test_arrays_of_six_channels_train(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe-arg", "channels=6", "--init", str(work / "tiny")]
    run(monkeypatch, capsys, words(work, tmp_path / "run", *options, data="arrays"))
    assert load_component(InfinityTokenizer, tmp_path / "run" / "model").config.image_channels == 6
    _, err = run(monkeypatch, capsys, words(work, tmp_path / "other", *options), code=2)
    assert ".npy" in err


@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_the_untouched_half_stays_to_the_bit(half: str) -> None:
    task = tokenizer_task(tokenizer_training(trained=half, adversarial=0.1, adversarial_adaptive=True))
    before = {name: p.clone() for name, p in task.model.named_parameters()}
    config = task.config
    total, _ = tokenizer_loss(task)
    total.backward()
    moved = {name.split(".")[1] for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert half in moved
    assert {"encoder", "decoder"} - {half} - moved
    assert config.trained == half
    assert all(torch.equal(before[name], p) for name, p in task.model.named_parameters())


def test_a_half_needs_a_finished_tokenizer_of_its_channels(work: Path) -> None:
    config = tokenizer_training(trained="decoder")
    with pytest.raises(UsageError, match="add --init"):
        check_origin(config, None)
    origin = TokenizerOrigin.read(work / "tiny")
    with pytest.raises(UsageError, match="export the checkpoint"):
        check_origin(config, TokenizerOrigin(origin.config, origin.tensors, None))
    other = config.model_copy(update={"model": config.model.model_copy(update={"image_channels": 4})})
    with pytest.raises(UsageError, match="3 channels, the recipe 4"):
        check_origin(other, origin)


def test_a_killed_run_over_files_goes_on_to_the_bit(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("--recipe-arg", "steps=6")
    run(monkeypatch, capsys, words(work, tmp_path / "whole", *steps))
    process = launch(words(work, tmp_path / "cut", *steps))
    assert process.stderr is not None
    assert process.stdout is not None
    with process.stderr, process.stdout:
        for line in process.stderr:
            if line.startswith("step 3/"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait(60) == -signal.SIGKILL
    run(monkeypatch, capsys, words(work, tmp_path / "cut", *steps, "--workers", "1"))
    ours, theirs = (TokenizerIdentity.load(tmp_path / n / "model" / "identity.json") for n in ("cut", "whole"))
    assert ours.sha256 == theirs.sha256


def test_two_processes_train_and_measure_what_one_does(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["--set", "entropy=0", "--set", "adversarial=0", "--init", str(work / "tiny")]
    run(monkeypatch, capsys, words(work, tmp_path / "one", *plain))
    process = launch(words(work, tmp_path / "two", *plain, "--nproc", "2"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    figures = []
    for name in ("one", "two"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        figures.append({name: value for name, value in lines[-1].items() if name != "time"})
    assert figures[0]["phase"] == "validation"
    assert figures[1] == pytest.approx(figures[0], abs=1e-3)


# What a run begins from


def test_sizes_that_differ_are_named(work: Path) -> None:
    origin = TokenizerOrigin.read(work / "tiny")
    with pytest.raises(UsageError, match="bits is 4 there and 8 in the recipe"):
        origin.load_into(tiny_tokenizer(bits=8))


def test_a_checkpoint_is_begun_from(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, capsys, words(work, tmp_path / "run"))
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000004"
    tokenizer = tiny_tokenizer()
    TokenizerOrigin.read(checkpoint).load_into(tokenizer)
    made = load_component(InfinityTokenizer, tmp_path / "run" / "model")
    torch.testing.assert_close(
        tokenizer.decoder.conv_in.weight, made.decoder.conv_in.weight, atol=1e-3, rtol=1e-2
    )  # the folder is in half precision
    (checkpoint / "config.json").write_text("{}")
    with pytest.raises(WeightsError):
        TokenizerOrigin.read(checkpoint)


@pytest.mark.parametrize(
    "sizes", [{}, {"channel_multipliers": (1, 1), "pixel_patch": 2}, {"linear_skip": True}], ids=str
)
@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_channels_begin_where_rgb_ended(channels: int, sizes: dict[str, Any]) -> None:
    rgb, other = tiny_tokenizer(**sizes), tiny_tokenizer(image_channels=channels, **sizes)
    other.load_state_dict(fit_channels(rgb.state_dict(), 3, channels))
    grey = torch.rand(2, 1, 16, 16) * 2 - 1
    colour = torch.rand(2, 3, 16, 16) * 2 - 1
    seen, given = (grey.expand(-1, 3, -1, -1), grey.expand(-1, channels, -1, -1)) if channels < 3 else (
        colour, torch.cat([colour, torch.rand(2, channels - 3, 16, 16)], dim=1)
    )  # fmt: skip
    torch.testing.assert_close(other.features(given), rgb.features(seen), atol=1e-5, rtol=1e-4)
    latent = torch.randn(2, 4, 4, 4)
    before, after = rgb.reconstruct(latent), other.reconstruct(latent)
    if channels < 3:
        torch.testing.assert_close(after, before.mean(dim=1, keepdim=True).expand_as(after), atol=1e-5, rtol=1e-4)
    else:
        torch.testing.assert_close(after[:, :3], before, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(after[:, 3], before.mean(dim=1), atol=1e-5, rtol=1e-4)


# Losses


def test_the_adaptive_weight_makes_both_gradients_as_long() -> None:
    layer = torch.nn.Parameter(torch.randn(3, 3))
    seen, generator = (layer @ torch.randn(3)).square().sum(), (layer @ torch.randn(3)).sum() * 0.01
    weight = losses.adaptive_weight(seen, generator, layer)
    norms = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (seen, weight * generator)]
    torch.testing.assert_close(norms[0], norms[1], atol=0, rtol=0.05)
    assert losses.adaptive_weight(seen * 1e9, generator, layer) == 1e4


def test_the_adaptive_weight_is_in_the_loss_and_logged() -> None:
    plain = tokenizer_task(tokenizer_training(adversarial=0.5))
    adaptive = tokenizer_task(tokenizer_training(adversarial=0.5, adversarial_adaptive=True))
    ours, theirs = (tokenizer_loss(task)[1] for task in (adaptive, plain))
    assert theirs["generator_weight"] == 0.5
    torch.testing.assert_close(
        ours["generator"] / ours["generator_weight"], theirs["generator"] / theirs["generator_weight"]
    )
    assert ours["generator_weight"] != theirs["generator_weight"]


def test_the_multiscale_loss_is_in_the_total_and_logged() -> None:
    plain, weighed = (tokenizer_loss(tokenizer_task(tokenizer_training(multiscale=weight))) for weight in (0.0, 0.5))
    assert "multiscale" not in plain[1]
    assert weighed[1]["multiscale"] > 0
    torch.testing.assert_close(weighed[0], plain[0] + weighed[1]["multiscale"])


def test_the_mobilenet_distance_trains() -> None:
    config = tokenizer_training(perceptual=1.0)
    task = tokenizer_task(config, perceptual=PerceptualDistance())
    total, terms = tokenizer_loss(task)
    assert terms["mobilenet_distance"] > 0
    total.backward()
    gradient = task.model.tokenizer.encoder.conv_in.weight.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()


def test_several_sizes_train_in_one_run(tmp_path: Path) -> None:
    class Both(ImageSet):
        def __init__(self) -> None:
            self.sets = [ImageSet(make_images(5)), ImageSet(make_images(5)[..., :4, :4])]
            self.counts, self.schedules = (5, 5), (0, 1)

        def batches(self, micro_batches: Any) -> Any:
            for micro_batch in micro_batches:
                yield from self.sets[micro_batch.bucket].batches([micro_batch])

    config = tokenizer_training(schedules=(GRIDS, GRIDS[:-1]), truncation=0.5)
    task = TokenizerTask(config, train=Both(), validation=Both())
    made = loop.train(task, loop.TrainerConfig(tmp_path, config.dump(), config.optimization, config.intervals))
    assert made is not None
    last = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["phase"] == "validation"
    assert {f"psnr/scale_{k}" for k in range(3)} <= set(last)


# What is measured on the way


def by_hand(tokenizer: InfinityTokenizer, images: Tensor) -> dict[str, float]:
    """The figures of `measure_reconstruction`, image by image."""
    signed = to_signed(images)
    values: dict[str, list[float]] = {}
    ones = [torch.zeros(tokenizer.config.bits) for _ in GRIDS]
    for image in signed:
        features = tokenizer.features(image[None])
        for k, step in enumerate(pyramid.encode(features, GRIDS)):
            error = ((tokenizer.decode(step.latent) - image) / 2).square().mean()
            values.setdefault(f"psnr/scale_{k}", []).append(-10 * error.log10().item())
            left = ((features - step.latent).norm() / features.norm()).item()
            values.setdefault(f"residual/scale_{k}", []).append(left)
            ones[k] += step.bits.float().mean(dim=(0, 2, 3)) / len(images)
    means = {name: sum(each) / len(each) for name, each in values.items()}
    for k, usage in enumerate(ones):
        p = usage.clamp(1e-6, 1 - 1e-6)
        means[f"bit_entropy/scale_{k}"] = (-(p * p.log2() + (1 - p) * (1 - p).log2())).mean().item()
        means[f"dead_bits/scale_{k}"] = ((usage < 0.01) | (usage > 0.99)).float().mean().item()
    return means | {"psnr": means[f"psnr/scale_{len(GRIDS) - 1}"]}


def test_held_out_figures_are_those_counted_by_hand() -> None:
    task = tokenizer_task(tokenizer_training())
    tokenizer, images = task.model.tokenizer, make_images(66)
    with torch.no_grad():
        tokenizer.encoder.conv_out.bias[0] = 50.0
        expected = by_hand(tokenizer, images)
    assert expected["dead_bits/scale_0"] >= 0.25
    for context in (DistributedContext(), None):
        found = measure_reconstruction(tokenizer, ImageSet(images), [GRIDS], perceptual=Blurry(), context=context)
        distance = found.pop("blurry")
        assert distance > 0
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_sheet_shows_images_of_any_channels(tmp_path: Path) -> None:
    data = ImageSet(torch.randint(256, (3, 6, 16, 16), dtype=torch.uint8))
    reconstruction_sheet(tiny_tokenizer(image_channels=6), data, [((1, 1), (2, 2), (4, 4))], tmp_path / "a" / "s.png")
    with Image.open(tmp_path / "a" / "s.png") as sheet:
        assert sheet.size == (3 * 168 + 8, 3 * 198 + 8)
    assert to_image(torch.zeros(1, 4, 4)).getpixel((0, 0)) == (128, 128, 128)


# Collapse


def test_a_collapse_is_reported_within_a_hundred_steps(tmp_path: Path) -> None:
    """Every bit of every scale is pushed to one side; training at a tiny rate can't bring it back."""
    config = tokenizer_training(
        optimization=optimization(steps=60, batch_size=8, learning_rate=1e-6, warmup_steps=0),
        intervals=IntervalConfig(log=20, validation=1000, save=1000),
    )
    lines: list[str] = []
    task = tokenizer_task(config)
    with torch.no_grad():
        task.model.tokenizer.encoder.conv_out.bias.fill_(10.0)
    loop.train(
        task, loop.TrainerConfig(tmp_path, config.dump(), config.optimization, config.intervals, log=lines.append)
    )
    warned = next(i for i, line in enumerate(lines) if "WARNING" in line)
    assert "Bits of scale 1 (0.00 of 1), 2 (0.00 of 1), 3 (0.00 of 1) hardly vary any more at step 60" in lines[warned]
    assert sum("collapse" in line for line in lines) == 1


def test_a_sound_run_is_not_called_collapsed() -> None:
    young = {"bit_entropy/scale_0": [(10, 0.1), (20, 0.1)]}
    recovered = {"bit_entropy/scale_0": [(80, 0.1), (100, 0.6)]}
    assert not health.find_collapse(young)
    assert not health.find_collapse(recovered)
    sunk = {"bit_entropy/scale_0": [(80, 0.1), (100, 0.2)]}
    assert health.find_collapse(sunk)
    assert not health.find_collapse(sunk, batch_size=7)  # two batches of 7 plain images may happen to agree
    sunk["bit_entropy/scale_0"].append((120, 0.1))
    assert health.find_collapse(sunk, batch_size=7)


def test_the_checkpoint_of_a_half_is_refused_as_a_whole(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        monkeypatch,
        capsys,
        words(work, tmp_path / "run", "--recipe-arg", "trained=encoder", "--init", str(work / "tiny")),
    )
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000004"
    with pytest.raises(WeightsError, match="no whole tokenizer"):
        TokenizerOrigin.read(checkpoint)
    config = loop_config(checkpoint)
    made = load_tokenizer(checkpoint, config, TokenizerOrigin.read(work / "tiny"))
    before = load_component(InfinityTokenizer, work / "tiny" / "image_tokenizer")
    assert torch.equal(made.decoder.conv_in.weight, before.decoder.conv_in.weight)
    assert not torch.equal(made.encoder.conv_in.weight, before.encoder.conv_in.weight)


def loop_config(checkpoint: Path) -> Any:
    from bitvar.training.export import read_config

    return read_config(checkpoint)


def test_a_part_of_a_batch_is_the_batchs_own() -> None:
    """Where a batch stops is drawn for the step, so its micro-batches stop at the same scale."""
    task = tokenizer_task(tokenizer_training(truncation=0.9))
    stops = {task._stop(3, MicroBatch(7, 0, torch.arange(2), place, 0)) for place in (0, 2, 4)}
    assert len(stops) == 1
