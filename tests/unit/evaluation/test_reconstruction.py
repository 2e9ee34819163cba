"""`bitvar evaluate reconstruction`: its figures, its resuming, its sheet, and what it refuses."""

import dataclasses
import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from filelock import FileLock
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from bitvar.cli import main as cli
from bitvar.codec import ImageCodec
from bitvar.data.index_writing import build_index
from bitvar.errors import UsageError
from bitvar.evaluation.reconstruction import compare, evaluate
from bitvar.evaluation.reconstruction.accumulators import MetricAccumulator, results
from bitvar.evaluation.reconstruction.baselines import FORMATS, Result
from bitvar.evaluation.reconstruction.evaluate import (
    NamedTokenizer,
    ReconstructionSettings,
    evaluate_reconstruction,
)
from bitvar.evaluation.reconstruction.images import ImageStream
from bitvar.evaluation.reconstruction.progress import FILE, Progress
from bitvar.evaluation.reconstruction.sheet import choose, draw_sheet
from bitvar.imaging.convert import channels_first, from_pil, image_bytes
from bitvar.imaging.pixels import to_signed
from bitvar.metrics.distances import block_mean_error, psnr
from bitvar.metrics.frechet import Moments, frechet_distance
from bitvar.metrics.sharpness import high_frequency_energy, outline_error
from bitvar.training.export import save_tokenizer
from bitvar.weights.identity import identify
from tests.support.tiny import tiny_tokenizer


class Means:
    """Four features that cost nothing; in the place of a feature network."""

    title: ClassVar[str] = "means"
    width: ClassVar[int] = 4

    def __call__(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b f"]:
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(1, 2, 3))[:, None]], dim=1)


class Absolute:
    """The mean absolute difference; in the place of a perceptual distance."""

    title: ClassVar[str] = "absolute"
    name: ClassVar[str] = "absolute"
    min_side: ClassVar[int] = 1

    def __call__(
        self, reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, " b"]:
        return (reconstruction - images).abs().mean(dim=(1, 2, 3))


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "feature_network", lambda name, device: Means())
    monkeypatch.setattr(evaluate, "perceptual_distance", lambda name, device: Absolute())


def photo(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def tiny_codec(seed: int = 0) -> ImageCodec:
    tokenizer = tiny_tokenizer(seed=seed)
    return ImageCodec(tokenizer, identify("tiny", tokenizer.state_dict()))


def settings_for(codecs: Mapping[str, ImageCodec], *images: Path, **changes: Any) -> ReconstructionSettings:
    values: dict[str, Any] = {
        "images": tuple(map(str, images)),
        "split": None,
        "limit": None,
        "sizes": (None,),
        "tokenizers": tuple(
            NamedTokenizer(label=label, name=codec.identity.name, sha256=codec.identity.sha256)
            for label, codec in codecs.items()
        ),
        "baselines": ("jpeg",),
        "feature_network": "mobilenet",
        "distance": "mobilenet",
        "batch_size": 3,
        "dtype": "float32",
        "device": "cpu",
    }
    return ReconstructionSettings(**(values | changes))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eleven of two sizes; one file is broken, one is no image."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for i in range(11):
        photo(24 if i % 4 else 20, 16, seed=i).save((folder / "deep" if i % 2 else folder) / f"{i:02}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "notes.txt").write_text("no image")
    return folder


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Figures


@pytest.mark.usefixtures("cheap")
def test_figures_are_those_of_the_bit_files(tmp_path: Path) -> None:
    """Done again image by image through `ImageCodec.encode` and `decode`, in numpy."""
    images = [photo(21, 18, seed=i) for i in range(4)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    codec = tiny_codec()
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    out = tmp_path / "out"
    report = evaluate_reconstruction(settings_for({"tiny": codec}, *paths), {"tiny": codec}, out)
    result, jpeg = report["results"]
    assert (result["candidate"], result["kind"], result["size"], result["images"]) == ("tiny", "tokenizer", "own", 4)

    files = [codec.encode(image) for image in images]
    grids, originals = files[0].header.grids, [np.asarray(image).astype(float) for image in images]
    so_far = 0
    for k, scale in enumerate(result["scales"]):
        decoded = [np.asarray(codec.decode(file, scales=k + 1)).astype(float) for file in files]
        psnr = [10 * np.log10(255**2 / ((a - b) ** 2).mean()) for a, b in zip(decoded, originals, strict=True)]
        assert scale["psnr"] == pytest.approx(np.mean(psnr), abs=1e-3)
        so_far += 4 * grids[k][0] * grids[k][1]
        assert scale["bits_per_pixel"] == pytest.approx(so_far / (21 * 18), rel=1e-5)
        bits = np.concatenate([np.unpackbits(np.frombuffer(file.payloads[k], np.uint8)) for file in files])
        if grids[k][0] * grids[k][1] % 2 == 0:  # whole bytes: nothing is padded
            usage = bits.reshape(-1, 4).mean(axis=0)
            assert scale["bit_usage"] == pytest.approx(usage.tolist(), abs=1e-5)
            entropy = [-(p * np.log2(p) + (1 - p) * np.log2(1 - p)) for p in usage if 0 < p < 1]
            assert scale["bit_entropy"] == pytest.approx(sum(entropy) / 4, abs=1e-4)
    assert len(result["scales"]) == len(grids)
    assert result["psnr"] == result["scales"][-1]["psnr"]
    assert result["bits_per_pixel"] == result["scales"][-1]["bits_per_pixel"]
    decoded = [torch.tensor(np.asarray(codec.decode(file)) / 127.5 - 1).float() for file in files]
    pairs = [
        (d.permute(2, 0, 1), torch.tensor(o).permute(2, 0, 1).float() / 127.5 - 1)
        for d, o in zip(decoded, originals, strict=True)
    ]
    assert result["distance"] == pytest.approx(np.mean([(a - b).abs().mean().item() for a, b in pairs]), abs=1e-4)
    moments = [Moments(4), Moments(4)]
    for side, each in enumerate(zip(*pairs, strict=True)):
        moments[side].add(Means()(torch.stack(each)))
    assert result["frechet"] == pytest.approx(frechet_distance(*moments), rel=1e-3)
    rows = lines_of(out / "images.jsonl")
    assert np.mean([row["psnr"] for row in rows if row["candidate"] == "jpeg"]) == pytest.approx(jpeg["psnr"], abs=1e-3)
    assert jpeg["too_large"] == 4  # a JPEG of 200 bits there is not


def test_residuals_shrink_and_begin_at_the_features() -> None:
    codec = tiny_codec()
    pixels = np.stack([np.asarray(photo(16, 16, seed=i)) for i in range(3)])
    result = reconstruction_of(codec, pixels)
    features = codec.encode_batch(pixels).features
    last = codec.encode_batch(pixels).steps[-1].latent
    wanted = (features - last).flatten(1).norm(dim=1) / features.flatten(1).norm(dim=1)
    assert torch.equal(result.scales[0].residual[0], torch.ones(3, dtype=torch.float64))
    assert torch.allclose(result.scales[-1].residual[1].float(), wanted)
    for before, after in zip(result.scales, result.scales[1:], strict=False):
        assert torch.equal(before.residual[1], after.residual[0])


def reconstruction_of(codec: ImageCodec, pixels: np.ndarray) -> Any:
    from bitvar.evaluation.reconstruction.baselines import reconstruct

    return reconstruct(codec, pixels)


def test_the_block_mean_error_ignores_noise() -> None:
    image = torch.zeros(1, 3, 64, 48)
    noise = torch.where(torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0)) > 0.5, 4.0, -4.0) / 127.5
    assert block_mean_error(image + 2 / 127.5, image).item() == pytest.approx(2.0)
    assert block_mean_error(noise, image).item() < 0.4
    assert block_mean_error(noise[..., :9, :9] + 2 / 127.5, image[..., :9, :9]).item() > 1.5  # smaller than a square


def test_dead_bits_and_entropy() -> None:
    accumulator = MetricAccumulator(2)
    accumulator.features.add(torch.zeros(1, 2))
    for name in (
        "images",
        "bits_per_pixel",
        "psnr",
        "ssim",
        "block_mean_error",
        "distance",
        "energy",
        "original_energy",
        "scale0/images",
        "scale0/psnr",
        "scale0/energy",
        "scale0/original_energy",
    ):
        accumulator.add(name, 1)
    accumulator.add("scale0/bits_per_pixel", 1)
    accumulator.add("scale0/residual", torch.tensor([1.0, 0.5]))
    accumulator.add("scale0/set_bits", torch.tensor([0.0, 9.0, 500.0, 991.0]))
    accumulator.add("scale0/cells", 400)
    accumulator.add("scale0/cells", 600)
    entry = results(accumulator, accumulator.features)
    assert entry["frechet"] is None
    scale = entry["scales"][0]
    assert scale["dead_bits"] == 0.75
    assert scale["bit_usage"] == [0.0, 0.009, 0.5, 0.991]
    small = -(0.009 * np.log2(0.009) + 0.991 * np.log2(0.991))
    assert scale["bit_entropy"] == pytest.approx((1 + 2 * small) / 4, abs=1e-4)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_the_nearest_quality_is_found(name: str) -> None:
    kind, image = FORMATS[name], np.asarray(photo(96, 64, seed=3))
    sizes = {}
    for quality in range(kind.qualities[0], kind.qualities[1] + 1):
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind.name, quality=quality, **kind.options)
        sizes[quality] = len(file.getvalue())
    wanted = (sizes[40] + 2 * sizes[41]) // 3
    data, too_large = kind.nearest(image, wanted)
    nearest = min(abs(size - wanted) for size in sizes.values())
    assert abs(len(data) - wanted) <= nearest + 0.02 * wanted  # WebP's sizes don't quite grow with the quality
    assert not too_large
    data, too_large = kind.nearest(image, 10)
    assert too_large
    assert len(data) == min(sizes.values())


# Sharpness and opacity


def sticker(seed: int = 0, background: tuple[int, ...] = (0, 0, 0, 0)) -> Image.Image:
    """A photo in a disc with a soft outline, on a transparent background that hides another colour."""
    image, mask = Image.new("RGBA", (32, 32), background), Image.new("L", (32, 32))
    ImageDraw.Draw(mask).ellipse((8, 8, 24, 24), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(1))
    image.paste(photo(32, 32, seed=seed).convert("RGBA"), mask=mask)
    return image


def opacity_codec() -> ImageCodec:
    tokenizer = tiny_tokenizer(image_channels=4)
    return ImageCodec(tokenizer, identify("clear", tokenizer.state_dict()))


def rows_of(out: Path, candidate: str) -> list[dict[str, Any]]:
    return [row for row in lines_of(out / "images.jsonl") if row["candidate"] == candidate]


@pytest.mark.usefixtures("cheap")
def test_opacity_is_measured_beside_tokenizers_without_it(tmp_path: Path) -> None:
    """Done again on the images of a batch."""
    for i in range(3):
        sticker(i).save(tmp_path / f"{i}.png")
    codecs, out = {"clear": opacity_codec(), "plain": tiny_codec()}, tmp_path / "out"
    report = evaluate_reconstruction(
        settings_for(codecs, *(tmp_path / f"{i}.png" for i in range(3)), baselines=("jpeg", "webp")), codecs, out
    )
    laid = np.stack([image_bytes(sticker(i), 4) for i in range(3)])
    originals = from_pil([sticker(i) for i in range(3)], channels=4)
    for result, codec in zip(report["results"], codecs.values(), strict=False):
        channels = codec.tokenizer.config.image_channels
        header, _, steps = codec.encode_batch(laid[..., :channels])
        for scale, step in zip((*result["scales"], result), (*steps, steps[-1]), strict=True):
            decoded = to_signed(channels_first(codec.latent_to_pixels(step.latent, header)))
            assert scale["psnr"] == pytest.approx(psnr(decoded[:, :3], originals[:, :3]).mean().item(), rel=1e-4)
            energies = [high_frequency_energy(images).sum().item() for images in (decoded, originals)]
            assert scale["sharpness"] == pytest.approx(energies[0] / energies[1], rel=1e-4)
            assert ("opacity_error" in scale) == ("outline_error" in scale) == (channels == 4)
            if channels == 4:
                opacity, wanted = ((images[:, 3:] + 1) / 2 for images in (decoded, originals))
                assert scale["opacity_error"] == pytest.approx((opacity - wanted).abs().mean().item(), rel=1e-4)
                assert scale["outline_error"] == pytest.approx(outline_error(opacity, wanted).mean().item(), rel=1e-4)
    clear, plain = rows_of(out, "clear"), rows_of(out, "plain")
    assert np.mean([row["outline_error"] for row in clear]) == pytest.approx(report["results"][0]["outline_error"])
    assert set(clear[0]) - set(plain[0]) == {"opacity_error", "outline_error"}
    assert report["results"][2]["kind"] == "jpeg" and report["results"][2]["sharpness"] > 0
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.convert("RGB").getpixel((0, 0)) == (0xDD, 0xDD, 0xDD)


@pytest.mark.usefixtures("cheap")
def test_mistakes_of_opacity_and_sharpness_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the tokenizer gives the originals back, but for one thing."""
    sticker().save(tmp_path / "a.png")
    codecs = {"clear": opacity_codec()}

    def measured(name: str, change: Callable[[np.ndarray], None]) -> dict[str, Any]:
        def stand_in(codec: ImageCodec, images: np.ndarray, *, refine_steps: int = 0) -> Result:
            decoded = images.copy()
            change(decoded)
            return Result(decoded, [100] * len(images), np.zeros(len(images), bool))

        monkeypatch.setattr(compare, "reconstruct", stand_in)
        settings = settings_for(codecs, tmp_path / "a.png", baselines=())
        return evaluate_reconstruction(settings, codecs, tmp_path / name, sheet=0)["results"][0]

    def blur(decoded: np.ndarray) -> None:
        image = Image.fromarray(decoded[0, ..., :3]).filter(ImageFilter.GaussianBlur(1))
        decoded[0, ..., :3] = np.asarray(image)

    same = measured("same", lambda decoded: None)
    assert (same["psnr"], same["sharpness"], same["opacity_error"], same["outline_error"]) == (100, 1, 0, 0)
    hole = measured("hole", lambda decoded: decoded.__setitem__((0, slice(15, 17), slice(15, 17), 3), 0))
    assert hole["opacity_error"] == pytest.approx(4 / 32**2, rel=1e-4)  # inside, where no outline is
    assert (hole["psnr"], hole["sharpness"], hole["outline_error"]) == (100, 1, 0)
    solid = measured("solid", lambda decoded: decoded.__setitem__((..., 3), 255))
    assert solid["outline_error"] > 0.3 and solid["psnr"] == 100
    soft = measured("soft", blur)
    assert soft["sharpness"] < 0.5 and soft["outline_error"] == 0


@pytest.mark.usefixtures("cheap")
def test_images_without_outlines_or_detail_are_left_out_of_their_means(tmp_path: Path) -> None:
    sticker(background=(9, 9, 9, 0)).save(tmp_path / "a.png")
    photo(32, 32).save(tmp_path / "b.png")
    Image.new("RGB", (32, 32), (70, 80, 90)).save(tmp_path / "c.png")
    codecs, paths = {"clear": opacity_codec()}, [tmp_path / f"{name}.png" for name in "abc"]
    report = evaluate_reconstruction(settings_for(codecs, *paths), codecs, tmp_path / "out")
    cut, whole, flat = rows_of(tmp_path / "out", "clear")
    assert whole["outline_error"] is None and flat["outline_error"] is None
    assert flat["sharpness"] is None and whole["sharpness"] > 0 and flat["opacity_error"] > 0
    assert report["results"][0]["outline_error"] == cut["outline_error"]
    alone = evaluate_reconstruction(settings_for(codecs, paths[2]), codecs, tmp_path / "alone")["results"][0]
    assert alone["sharpness"] is None and alone["outline_error"] is None


# Going on


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("stop", [1, 3])
def test_a_killed_evaluation_goes_on_to_the_same_figures(
    tmp_path: Path, images: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs = {"a": tiny_codec(), "b": tiny_codec(1)}
    settings = settings_for(codecs, images, sizes=(None, 16))
    whole = tmp_path / "whole"
    evaluate_reconstruction(settings, codecs, whole, sheet=2, save_every=6)

    real, calls = evaluate._measure_group, 0

    def killed(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        real(*arguments)
        if calls == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "_measure_group", killed)
    out, logged = tmp_path / "out", []
    with pytest.raises(KeyboardInterrupt):
        evaluate_reconstruction(settings, codecs, out, sheet=2, save_every=6)
    assert not (out / "report.json").exists()
    with (out / "images.jsonl").open("a") as file:
        file.write('{"half a li')
    evaluate_reconstruction(settings, codecs, out, sheet=2, save_every=6, log=logged.append)
    assert ("resuming after 6 images" in logged) == (stop > 1)
    assert calls == 4 + 1  # four batches, saved after two of them; the one that was cut came twice
    for name in ("report.json", "images.jsonl", "rejected.jsonl", "sheet.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (out / FILE).exists()


@pytest.mark.usefixtures("cheap")
def test_a_finished_evaluation_is_only_read(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codecs = {"a": tiny_codec()}
    settings, out = settings_for(codecs, images), tmp_path / "out"
    report = evaluate_reconstruction(settings, codecs, out)
    monkeypatch.delattr(evaluate, "_measure_group")
    monkeypatch.delattr(evaluate, "_comparison")
    assert evaluate_reconstruction(settings, codecs, out) == json.loads(json.dumps(report))


@pytest.mark.usefixtures("cheap")
def test_another_sheet_needs_no_measuring(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codecs = {"a": tiny_codec()}
    settings, out = settings_for(codecs, images), tmp_path / "out"
    report = evaluate_reconstruction(settings, codecs, out)
    before = (out / "sheet.png").read_bytes()
    monkeypatch.delattr(evaluate, "_measure_group")
    again = evaluate_reconstruction(settings, codecs, out, sheet=2)
    assert again["results"] == json.loads(json.dumps(report))["results"]
    assert (out / "sheet.png").read_bytes() != before
    evaluate_reconstruction(settings, codecs, out, sheet=0)
    assert not (out / "sheet.png").exists()


@pytest.mark.usefixtures("cheap")
def test_refine_steps_are_measured(tmp_path: Path, images: Path) -> None:
    codecs = {"a": ImageCodec.from_pretrained("general", device="cpu")}
    once, often = (
        evaluate_reconstruction(
            settings_for(codecs, images, limit=4, baselines=(), refine_steps=steps), codecs, tmp_path / str(steps)
        )["results"][0]
        for steps in (0, 4)
    )
    assert often["psnr"] > once["psnr"] and often["block_mean_error"] < once["block_mean_error"]
    assert often["bits_per_pixel"] == once["bits_per_pixel"]


@pytest.mark.usefixtures("cheap")
def test_another_evaluation_in_the_folder_is_refused(tmp_path: Path, images: Path) -> None:
    codecs, out = {"a": tiny_codec()}, tmp_path / "out"
    evaluate_reconstruction(settings_for(codecs, images, limit=4), codecs, out)
    other = {"a": tiny_codec(1)}
    for changed, loaded, words in (
        (settings_for(codecs, images, limit=5), codecs, "limit was 4, now 5"),
        (settings_for(other, images, limit=4), other, "tokenizers was"),
        (settings_for(codecs, images, limit=4, refine_steps=8), codecs, "refine_steps was 0, now 8"),
    ):
        with pytest.raises(UsageError, match="holds another evaluation") as error:
            evaluate_reconstruction(changed, loaded, out)
        assert words in str(error.value)
    saved = json.loads((out / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps({**saved, "format": 1}))
    with pytest.raises(UsageError, match="of an earlier version"):
        evaluate_reconstruction(settings_for(codecs, images, limit=4), codecs, out)
    (out / "settings.json").write_text(json.dumps(saved))
    with FileLock(out / ".lock"), pytest.raises(UsageError, match="Another process"):
        evaluate_reconstruction(settings_for(codecs, images, limit=4), codecs, out)


@pytest.mark.usefixtures("cheap")
def test_slow_images_are_saved_more_often(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "SAVE_SECONDS", 0.0)
    codecs, logged = {"a": tiny_codec()}, []
    evaluate_reconstruction(settings_for(codecs, images), codecs, tmp_path / "out", sheet=0, log=logged.append)
    assert [line for line in logged if line.endswith(" images")] == [f"{n} images" for n in (3, 6, 9, 12)]


def stopped(out: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """An evaluation that was killed after its first save; gives what goes on with it."""
    codecs = {"a": tiny_codec()}
    settings = settings_for(codecs, images)
    real = Progress.save

    def save_and_stop(progress: Progress, folder: Path) -> None:
        real(progress, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate_reconstruction(settings, codecs, out, save_every=6)
    return lambda: evaluate_reconstruction(settings, codecs, out, save_every=6)


@pytest.mark.usefixtures("cheap")
def test_other_images_than_before_are_refused(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = stopped(tmp_path / "out", images, monkeypatch)
    photo().save(images / "000.png")
    with pytest.raises(UsageError, match="The images have changed"):
        go_on()
    (images / "000.png").unlink()
    go_on()


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("damage", [FILE, "images.jsonl"])
def test_damaged_progress_is_refused(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    go_on = stopped(tmp_path / "out", images, monkeypatch)
    path = tmp_path / "out" / damage
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=f"{damage} is damaged"):
        go_on()


# Images


@pytest.mark.usefixtures("cheap")
def test_bad_images_are_counted_and_named(tmp_path: Path, images: Path) -> None:
    codecs, logged = {"a": tiny_codec()}, []
    photo(4, 4).save(images / "small.png")
    out = tmp_path / "out"
    report = evaluate_reconstruction(settings_for(codecs, images), codecs, out, log=logged.append)
    assert report["results"][0]["images"] == 11
    assert report["rejected"] == [{"reason": reason, "images": 1} for reason in ("not-an-image", "too-small")]
    rejected = lines_of(out / "rejected.jsonl")
    assert [line["image"] for line in rejected] == ["images/broken.png", "images/small.png"]
    assert all(line["detail"] for line in rejected)
    assert any("images/broken.png" in line for line in logged)
    assert any("1 file of other kinds skipped (.txt 1)" in line for line in logged)


@pytest.mark.usefixtures("cheap")
def test_nothing_but_bad_images_is_refused_and_can_be_mended(tmp_path: Path) -> None:
    bad, codecs = tmp_path / "in", {"a": tiny_codec()}
    bad.mkdir()
    (bad / "a.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"nothing to evaluate(.|\n)*not-an-image 1"):
        evaluate_reconstruction(settings_for(codecs, bad), codecs, tmp_path / "out")
    photo().save(bad / "a.png")
    report = evaluate_reconstruction(settings_for(codecs, bad, baselines=("webp",)), codecs, tmp_path / "out")
    assert report["results"][0]["frechet"] is None


@pytest.mark.usefixtures("cheap")
def test_sizes_are_reported_each_by_itself(tmp_path: Path, images: Path) -> None:
    codecs = {"a": tiny_codec()}
    settings = settings_for(codecs, images, sizes=(16, None, 32), baselines=("jpeg", "webp"))
    report = evaluate_reconstruction(settings, codecs, tmp_path / "out", sheet=0)
    found = [(result["size"], result["candidate"]) for result in report["results"]]
    assert found == [(size, name) for size in ("16x16", "own", "32x32") for name in ("a", "jpeg", "webp")]
    sides = [len(report["results"][i]["scales"]) for i in (0, 6)]
    assert sides == [3, 4]
    with pytest.raises(UsageError, match="can't be 4 pixels"):
        evaluate_reconstruction(settings_for(codecs, images, sizes=(4,)), codecs, tmp_path / "four")


@pytest.mark.usefixtures("cheap")
def test_what_a_format_can_not_hold_is_refused(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "jpeg", dataclasses.replace(FORMATS["jpeg"], max_side=22))
    codecs = {"a": tiny_codec()}
    report = evaluate_reconstruction(settings_for(codecs, images), codecs, tmp_path / "out")
    assert report["results"][0]["images"] == 3  # of 20 x 16 pixels; the others have 24
    assert {"reason": "too-long", "images": 8} in report["rejected"]


def captioned_set(folder: Path) -> Path:
    folder.mkdir()
    rows = []
    for i in range(6):
        photo(40, 40, seed=i).save(folder / f"{i}.png")
        rows.append({"image_path": f"{i}.png", "captions": ["a"], "split": "val" if i < 2 else "train"})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_kind_of_source(tmp_path: Path, images: Path) -> None:
    own = captioned_set(tmp_path / "set")
    build_index(own, tmp_path / "index", content_hash=True)
    for source in (own, own / "samples.jsonl", tmp_path / "index"):
        assert len(list(ImageStream([source]))) == 6
        assert len(list(ImageStream([source], split="val"))) == 2
        assert len(list(ImageStream([source], split="train", limit=3))) == 3
    several = ImageStream([own, images, images / "00.png"], limit=100)
    assert len(list(several)) == len(list(several)) == 6 + 12 + 1
    assert several.skipped.count == 1
    assert [entry.name for entry in ImageStream([images], limit=2)] == ["images/00.png", "images/02.png"]
    with pytest.raises(UsageError, match="There is no split 'val'"):
        ImageStream([images], split="val")
    with pytest.raises(UsageError, match="There is no"):
        ImageStream([images / "none"])


@pytest.mark.usefixtures("cheap")
def test_a_image_that_is_not_the_indexed_one_is_refused(tmp_path: Path) -> None:
    own = captioned_set(tmp_path / "set")
    build_index(own, tmp_path / "index", content_hash=True)
    photo(40, 40, seed=99).save(own / "3.png")
    codecs = {"a": tiny_codec()}
    report = evaluate_reconstruction(settings_for(codecs, tmp_path / "index"), codecs, tmp_path / "out")
    assert report["rejected"] == [{"reason": "altered", "images": 1}]


# The sheet


def test_the_sheet_shows_best_middle_and_worst() -> None:
    assert [rank for rank, _ in choose(100, None)] == [0, 1, 2, 48, 49, 50, 97, 98, 99]
    assert [note for _, note in choose(100, None)][::3] == ["best: ", "middle: ", "worst: "]
    assert [rank for rank, _ in choose(7, None)] == list(range(7))
    assert [rank for rank, _ in choose(100, 4)] == [0, 33, 66, 99]
    assert [rank for rank, _ in choose(3, 30)] == [0, 1, 2]
    assert choose(5, 1) == [(0, "")]


def test_the_sheet_magnifies_by_whole_numbers_and_reduces() -> None:
    red, blue = Image.new("RGB", (64, 32), "red"), Image.new("RGB", (800, 400), "blue")
    sheet = np.asarray(draw_sheet([[(red, ("a", "1")), (red, ("b", "2"))], [(blue, ("c" * 300, "3"))]]))
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 2 * (64 * 3) * (32 * 3)
    assert (sheet == (0, 0, 255)).all(axis=2).sum() == 384 * 192


# The command


@pytest.fixture
def bitvar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitvar", "evaluate", "reconstruction", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_the_command_with_the_real_networks(bitvar: Any, tmp_path: Path, images: Path) -> None:
    save_tokenizer(tiny_tokenizer(), tmp_path / "tokenizer", name="tiny")
    arguments = (images, "--tokenizer", f"mine={tmp_path / 'tokenizer'}", "--tokenizer", "icons", "--limit", "3")
    arguments = (*arguments, "--size", "32", "--device", "cpu", "-o", tmp_path / "out")
    code, out, err = bitvar(*arguments)
    assert code == 0, err
    assert out.isascii()
    for word in ("mine", "icons", "jpeg", "webp", "32x32", "MobileNetV2 feature distance", "fewer than 2,000"):
        assert word in out
    assert "sharpness" in out and "opacity" not in out
    code, out, err = bitvar(*arguments, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert [result["candidate"] for result in report["results"]] == ["mine", "icons", "jpeg", "webp"]
    assert all(np.isfinite(result[name]) for result in report["results"] for name in ("psnr", "distance", "frechet"))
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > 5 * 160


def test_the_command_shows_the_errors_of_opacity(bitvar: Any, tmp_path: Path) -> None:
    save_tokenizer(tiny_tokenizer(image_channels=4), tmp_path / "tokenizer", name="clear")
    sticker().save(tmp_path / "a.png")
    options = ("--tokenizer", f"clear={tmp_path / 'tokenizer'}", "--baselines", "jpeg", "--device", "cpu")
    code, out, err = bitvar(tmp_path / "a.png", *options, "-o", tmp_path / "out")
    assert code == 0, err
    assert "opacity error" in out and "at outlines" in out
    rows = [[cell.strip() for cell in line.split("|")] for line in out.split("scales of")[0].splitlines()]
    shown = {row[1]: row[-3] for row in rows if len(row) > 3}
    assert shown["clear"].startswith("0.") and shown["jpeg"] == "-"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--baselines", "jpeg,gif"), "'gif'"),
        (("--tokenizer", "icons", "--tokenizer", "icons"), "Can't call a tokenizer 'icons'"),
        (("--tokenizer", "jpeg=icons"), "Can't call a tokenizer 'jpeg'"),
        (("--split", "val"), "There is no split"),
        (("--distance", "lpip"), "did you mean 'lpips'"),
        (("--feature-network", "inseption"), "did you mean 'inception'"),
        (("--size", "3"), "can't be 3 pixels"),
        (("--limit", "0"), "--limit"),
    ],
)
def test_what_the_command_refuses(
    bitvar: Any, tmp_path: Path, images: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = bitvar(images, "-o", tmp_path / "out", "--device", "cpu", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "do:" in err


def test_the_output_may_not_lie_among_the_images(bitvar: Any, images: Path) -> None:
    code, _, err = bitvar(images, "-o", images / "deep" / "out", "--device", "cpu")
    assert code == 2
    assert "would be one of its images" in err


@pytest.mark.parametrize("name", ["settings.json", "report.json", "sheet.png", "images.jsonl", "rejected.jsonl"])
def test_files_of_the_names_of_an_evaluation_are_not_replaced(tmp_path: Path, images: Path, name: str) -> None:
    codecs = {"tiny": tiny_codec()}
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="no evaluation wrote"):
        evaluate_reconstruction(settings_for(codecs, images), codecs, out)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, '{"mine": 1}')]
    with pytest.raises(UsageError, match="is no folder"):
        evaluate_reconstruction(settings_for(codecs, images), codecs, out / name / "deeper")


@pytest.mark.parametrize("changes", [{"distance": "x"}, {"feature_network": "x"}, {"sizes": (1,)}], ids=str)
def test_what_is_refused_leaves_nothing(tmp_path: Path, images: Path, changes: dict[str, Any]) -> None:
    codecs = {"tiny": tiny_codec()}
    with pytest.raises(UsageError):
        evaluate_reconstruction(settings_for(codecs, images, **changes), codecs, tmp_path / "new")
    assert not (tmp_path / "new").exists()
