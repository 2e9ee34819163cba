"""The tokenizer as a tool: images of every kind and size to bit files and back, whole or in tiles."""

import json
import struct
import sys
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from bitvar.bits import pack
from bitvar.cli import main as cli
from bitvar.codec import BitFile, ImageCodec
from bitvar.codec.folders import Done, FolderCounts, decode_folder, encode_folder
from bitvar.codec.reading import read_bitfile
from bitvar.codec.refinement import multiscale_error
from bitvar.errors import UsageError, WeightsError
from bitvar.imaging.alpha import lay_on_white, take_off_white
from bitvar.scales import fitted_grids
from bitvar.training.export import save_tokenizer
from bitvar.weights.identity import identify
from tests.support.tiny import tiny_components, tiny_pipeline, tiny_tokenizer


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A photograph's spectrum: large soft shapes, and ever fainter small ones."""
    generator, image = np.random.default_rng(seed), np.zeros((height, width, 3))
    for cells in (2, 4, 8, 16, 32):
        small = generator.normal(size=(cells, cells, 3)).astype(np.float32) / cells
        layers = [Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        image += np.stack([np.asarray(layer) for layer in layers], axis=-1)
    low, high = image.min(), image.max()
    return Image.fromarray(((image - low) / (high - low) * 255).astype(np.uint8))


def difference(a: Image.Image, b: Image.Image) -> int:
    """The largest, in steps of 256."""
    assert a.size == b.size
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    """The embedded tokenizer's."""
    return ImageCodec.from_pretrained(device="cpu")


@pytest.fixture
def tiny() -> ImageCodec:
    tokenizer = tiny_tokenizer()
    return ImageCodec(tokenizer, identify("tiny", tokenizer.state_dict()))


@pytest.fixture
def bitvar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitvar", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stop.value.code or 0), captured.out, captured.err

    return run


# Grids


def test_a_known_size_keeps_its_own_grids() -> None:
    known = [((1, 1), (2, 2), (4, 4), (8, 8)), ((1, 1), (3, 2), (8, 5))]
    assert fitted_grids((8, 5), known) == known[1]


def test_other_sizes_stretch_the_nearest_ratio_and_begin_with_one_cell() -> None:
    known = [((1, 1), (2, 2), (6, 6), (8, 8)), ((1, 1), (1, 8))]
    assert fitted_grids((16, 20), known) == ((1, 1), (1, 2), (2, 3), (4, 5), (12, 15), (16, 20))
    assert fitted_grids((3, 4), known) == ((1, 1), (3, 3), (3, 4))
    assert fitted_grids((1, 40), known) == ((1, 1), (1, 2), (1, 3), (1, 5), (1, 40))


@pytest.mark.parametrize("last", [(1, 1), (1, 9), (7, 5), (700, 900)])
def test_grids_of_any_size_never_shrink(last: tuple[int, int]) -> None:
    for known in ([], [((1, 1), (2, 2), (4, 4))], [((2, 2), (4, 4))]):
        grids = fitted_grids(last, known)
        assert grids[0] == (1, 1)
        assert grids[-1] == last
        assert all(b[0] >= a[0] and b[1] >= a[1] and b != a for a, b in pairwise(grids))


# Images


def test_it_says_what_the_tokenizer_says(codec: ImageCodec) -> None:
    image = smooth(64, 64)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        _, latent = codec.tokenizer.encode(pixels, ((2, 2), (4, 4), (8, 8), (16, 16)))
        wanted = ((codec.tokenizer.decode(latent) + 1) * 127.5).round().to(torch.uint8)[0].permute(1, 2, 0)
    file = codec.encode(image)
    assert file.header.grids == ((2, 2), (4, 4), (8, 8), (16, 16))
    assert np.array_equal(np.asarray(codec.decode(file.to_bytes())), wanted.numpy())


def test_every_scale_less_is_coarser(codec: ImageCodec) -> None:
    image = smooth(64, 64)
    file = codec.encode(image)
    errors = []
    for scales in range(1, 5):
        assert codec.encode(image, scales=scales) == file.first(scales)
        seen = codec.decode(file.first(scales))
        assert difference(seen, codec.decode(file, scales=scales)) == 0
        errors.append(np.square(np.asarray(seen).astype(int) - np.asarray(image).astype(int)).mean())
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("size", [(17, 33), (5, 5), (8, 6), (64, 9), (100, 7)])
def test_odd_sizes_come_back(tiny: ImageCodec, size: tuple[int, int]) -> None:
    file = tiny.encode(smooth(*size))
    assert file.header.grids[-1] == (-(-size[1] // 4), -(-size[0] // 4))
    assert tiny.decode(BitFile.from_bytes(file.to_bytes())).size == size


def test_batches_are_the_same_as_one_by_one(tiny: ImageCodec) -> None:
    images = [smooth(16, 16, 0), smooth(16, 16, 1), smooth(20, 12, 2), smooth(16, 16, 3), smooth(18, 12, 4)]
    wanted = [tiny.encode(image) for image in images]
    assert list(tiny.encode_many(iter(images), batch_size=3)) == wanted
    decoded = list(tiny.decode_many(wanted))
    assert [image.size for image in decoded] == [image.size for image in images]
    assert difference(decoded[3], tiny.decode(wanted[3])) == 0


def test_batches_of_none_are_refused(tiny: ImageCodec) -> None:
    with pytest.raises(UsageError, match="give 1 or more"):
        list(tiny.encode_many([smooth(16, 16)], batch_size=0))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16", "I", "F"])
def test_modes_are_read_as_people_see_them(tiny: ImageCodec, mode: str) -> None:
    grey = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1)))
    if mode in ("I;16", "I"):
        sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        image = sixteen if mode == "I;16" else sixteen.convert("I")
    else:
        image = grey.convert("RGB").convert(mode) if mode != "F" else grey.convert("F")
    expected = image.convert("RGB") if mode in ("1", "P", "CMYK") else grey.convert("RGB")
    assert tiny.encode(image) == tiny.encode(expected)


def test_transparent_is_white_and_sixteen_bits_from_a_file(tiny: ImageCodec, tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    assert tiny.encode(tmp_path / "clear.png") == tiny.encode(Image.new("RGB", (16, 16), "white"))
    deep = np.full((16, 16), 128 * 257, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert tiny.encode(tmp_path / "deep.png") == tiny.encode(Image.new("L", (16, 16), 128))


def test_orientation_tags_turn_the_image(tiny: ImageCodec, tmp_path: Path) -> None:
    image = smooth(24, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    file = tiny.encode(tmp_path / "turned.png")
    assert (file.header.width, file.header.height) == (16, 24)
    assert file == tiny.encode(image.transpose(Image.Transpose.ROTATE_270))


def test_colour_profiles_count(tiny: ImageCodec, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = smooth(16, 16)
    image.save(tmp_path / "srgb.png", icc_profile=profile)
    image.save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert tiny.encode(tmp_path / "srgb.png") == tiny.encode(image)
    assert tiny.encode(tmp_path / "broken.png") == tiny.encode(image)


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels, and has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (huge_png(9000, 9000), "9000x9000 is over 50000000 pixels"),
        (huge_png(100, 1), "too-small"),
        (huge_png(4000, 8), "extreme-ratio"),
        (huge_png(64, 64), "broken-image"),
        (b"GIF89a", "not-an-image"),
        (b"", "empty"),
        (None, "there is no"),
    ],
    ids=["81 megapixels", "one row", "long", "no pixels", "gif", "empty", "missing"],
)
def test_unfit_images_are_refused(tiny: ImageCodec, tmp_path: Path, data: bytes | None, words: str) -> None:
    path = tmp_path / "a.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=rf"a\.png can't be used(?s:.*){words}"):
        tiny.encode(path)


def test_unfit_images_are_refused_too(tiny: ImageCodec, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too-small"):
        tiny.encode(Image.new("RGB", (40, 1)))
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "two.webp") as opened, pytest.raises(UsageError, match="animated"):
        tiny.encode(opened)


def test_another_tokenizer_is_refused(tiny: ImageCodec) -> None:
    other = tiny_tokenizer(seed=1)
    file = ImageCodec(other, identify("other", other.state_dict())).encode(smooth(16, 16))
    with pytest.raises(WeightsError, match=r"'tiny' did not make these bits(?s:.*)'other'(?s:.*)do:"):
        tiny.decode(file)


def test_other_channels_are_refused() -> None:
    grey = tiny_tokenizer(image_channels=1)
    with pytest.raises(UsageError, match="takes 1 channels"):
        ImageCodec(grey, identify("grey", grey.state_dict()))


@pytest.fixture
def clear() -> ImageCodec:
    """Codec of a tokenizer with opacity."""
    tokenizer = tiny_tokenizer(image_channels=4)
    return ImageCodec(tokenizer, identify("clear", tokenizer.state_dict()), tile=32)


@pytest.mark.parametrize("size", [(16, 16), (21, 18), (70, 40)], ids=["whole cells", "odd", "tiles"])
def test_opacity_is_encoded_as_well(clear: ImageCodec, size: tuple[int, int]) -> None:
    image = smooth(*size)
    image.putalpha(smooth(*size, seed=1).convert("L"))
    file = clear.encode(image, refine_steps=1)
    assert file.header.channels == 4
    decoded = clear.decode(file)
    assert (decoded.mode, decoded.size) == ("RGBA", size)
    opaque = clear.encode(image.convert("RGB"), refine_steps=1)
    assert opaque.payloads != file.payloads
    laid = lay_on_white(np.asarray(image))[None]
    encoding = clear.encode_batch(laid, refine_steps=1)
    assert [pack(step.bits[0]) for step in encoding.steps] == list(file.payloads)
    pixels = clear.latent_to_pixels(encoding.steps[-1].latent, encoding.header)
    assert (take_off_white(pixels[0]) == np.asarray(decoded)).all()


def test_transparent_files_are_read_and_written(clear: ImageCodec, tiny: ImageCodec, tmp_path: Path) -> None:
    image = smooth(16, 16)
    image.putalpha(smooth(16, 16, seed=1).convert("L"))
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a.png")
    assert clear.encode(tmp_path / "in" / "a.png").payloads == clear.encode(image).payloads
    encode_folder(clear, tmp_path / "in", tmp_path / "bits")
    decode_folder(clear, tmp_path / "bits", tmp_path / "out")
    (written,) = (tmp_path / "out").rglob("*.png")
    with Image.open(written) as decoded:
        assert decoded.tobytes() == clear.decode(clear.encode(image)).tobytes()
    with pytest.raises(WeightsError, match="did not make these bits"):
        tiny.decode(clear.encode(image))
    with pytest.raises(UsageError, match=r"\(images, height, width, 4\)"):
        clear.encode_batch(np.zeros((1, 16, 16, 3), np.uint8))


def test_precision_is_a_choice(tmp_path: Path) -> None:
    save_tokenizer(tiny_tokenizer(), tmp_path / "tokenizer", name="tiny")
    codec = ImageCodec.from_pretrained(tmp_path / "tokenizer", dtype="bf16", device="cpu")
    assert codec.tokenizer.dtype == torch.bfloat16
    assert codec.decode(codec.encode(smooth(16, 16))).size == (16, 16)


def test_a_models_own_schedules_are_used(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path).save_pretrained(tmp_path / "model")
    codec = ImageCodec.from_pretrained(tmp_path / "model", device="cpu")
    assert codec.encode(smooth(16, 8)).header.grids == ((1, 1), (1, 2), (2, 4))
    assert codec.identity == tiny_components(tmp_path).index.tokenizer


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    save_tokenizer(tiny_tokenizer(), tmp_path / "tokenizer", name="tiny")
    path = tmp_path / "tokenizer" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="sha256"):
        ImageCodec.from_pretrained(tmp_path / "tokenizer", device="cpu")


# Iterative refinement


def seen(image: Image.Image, decoded: Image.Image) -> float:
    planes = [torch.from_numpy(np.asarray(one).astype(np.float32)).permute(2, 0, 1)[None] for one in (image, decoded)]
    return multiscale_error(planes[0] - planes[1]).item()


def test_refinement_brings_an_image_closer(codec: ImageCodec) -> None:
    """Colours of a size that the tokenizer knows, a soft image of one that it doesn't: by a fifth at least."""
    for image in (Image.new("RGB", (64, 64), (200, 120, 40)), smooth(75, 61)):
        errors = [seen(image, codec.decode(codec.encode(image, refine_steps=steps))) for steps in (0, 2, 8)]
        assert errors[0] >= errors[1] >= errors[2]
        assert errors[2] < 0.8 * errors[0]


@pytest.mark.parametrize("scales", [None, 2])
def test_refinement_never_makes_it_worse(scales: int | None) -> None:
    """Not even of a tokenizer whose images have nothing to do with what it sees, nor where scales are left out."""
    tokenizer = tiny_tokenizer()
    codec = ImageCodec(tokenizer, identify("tiny", tokenizer.state_dict()))
    for seed in range(5):
        image = smooth(20, 16, seed)
        files = [codec.encode(image, refine_steps=refine_steps, scales=scales) for refine_steps in (0, 1, 3)]
        errors = [seen(image, codec.decode(file)) for file in files]
        assert errors[0] >= errors[1] >= errors[2]


def test_refined_images_are_the_same_in_a_batch_and_alone_and_in_tiles(codec: ImageCodec) -> None:
    images = [smooth(48, 40, 1), Image.new("RGB", (48, 40), (10, 200, 90)), smooth(48, 40, 2)]
    alone = [codec.encode(image, refine_steps=3) for image in images]
    for one, other in zip(codec.encode_many(images, refine_steps=3, batch_size=3), alone, strict=True):
        wrong = sum((a ^ b).bit_count() for a, b in zip(b"".join(one.payloads), b"".join(other.payloads), strict=True))
        assert wrong <= 8 * len(b"".join(one.payloads)) / 100  # a sum in another order tips a few
    tiled = ImageCodec(codec.tokenizer, codec.identity, known=codec.known, tile=24)
    for image, whole in zip(images, alone, strict=True):
        errors = [seen(image, codec.decode(file)) for file in (whole, tiled.encode(image, refine_steps=3))]
        assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_a_negative_number_of_refinement_steps_is_refused(codec: ImageCodec) -> None:
    with pytest.raises(UsageError, match="-1 refinement steps"):
        codec.encode(smooth(20, 16), refine_steps=-1)


# Tiles


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"res_blocks": 2, "channel_multipliers": (1, 2)},
        {"channel_multipliers": (1, 1), "pixel_patch": 2},
        {"norm": "pixel"},
        {"linear_skip": True},
        {"linear_skip": True, "channel_multipliers": (1, 1), "pixel_patch": 2},
        {"linear_skip": True, "channel_multipliers": (1, 1, 1, 1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("tile", [12, 20, 37])
def test_tiles_are_the_whole_to_rounding(changes: dict[str, Any], tile: int) -> None:
    tokenizer = tiny_tokenizer(**changes)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 56, 48, generator=generator) * 2 - 1
    with torch.inference_mode():
        wanted = tokenizer.features(images)
        found = tokenizer.tiled_features(lambda rows, columns: images[..., rows, columns], (56, 48), tile=tile)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        latent = torch.randn(1, 4, 56 // tokenizer.config.stride, 48 // tokenizer.config.stride, generator=generator)
        wanted, found = tokenizer.decode(latent), torch.full_like(images, torch.nan)
        for rows, columns, pixels in tokenizer.tiled_pixels(latent, tile=tile):
            assert found[..., rows, columns].isnan().all()
            found[..., rows, columns] = pixels
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_with_pixel_norms_an_image_is_decoded_alike_alone_and_in_a_larger_one() -> None:
    latent = torch.randn(1, 4, 40, 40, generator=torch.Generator().manual_seed(0))
    inner = (..., slice(60, 100), slice(60, 100))
    for norm, alike in (("pixel", True), ("group", False)):
        tokenizer = tiny_tokenizer(norm=norm)
        with torch.inference_mode():
            whole, part = tokenizer.decode(latent)[inner], tokenizer.decode(latent[..., 5:35, 5:35])
        assert torch.allclose(whole, part[..., 40:80, 40:80], atol=1e-5) == alike


def test_tiling_leaves_the_tokenizer_as_it_was() -> None:
    tokenizer = tiny_tokenizer()
    before, names = repr(tokenizer), {name: id(p) for name, p in tokenizer.named_parameters()}
    with torch.inference_mode():
        list(tokenizer.tiled_pixels(torch.zeros(1, 4, 8, 8), tile=8))
    assert repr(tokenizer) == before
    assert {name: id(p) for name, p in tokenizer.named_parameters()} == names


def test_a_tiled_image_has_no_seams(codec: ImageCodec) -> None:
    """The embedded tokenizer on a soft image, every tile's edge included: at most one step of 256 from one pass."""
    image = smooth(250, 190)
    tiled = ImageCodec(codec.tokenizer, codec.identity, known=codec.known, tile=96)
    file, in_tiles = codec.encode(image), tiled.encode(image)
    bits = zip(b"".join(file.payloads), b"".join(in_tiles.payloads), strict=True)
    changed = sum((a ^ b).bit_count() for a, b in bits)
    assert changed <= 8 * len(b"".join(file.payloads)) / 1000
    assert difference(tiled.decode(file), codec.decode(file)) <= 1


# Folders


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    smooth(20, 16).save(tmp_path / "in" / "a.png")
    smooth(20, 16, 1).save(tmp_path / "in" / "deep" / "a.jpg")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path


def test_folders_go_there_and_back_at_any_depth(tiny: ImageCodec, nested: Path) -> None:
    counts = encode_folder(tiny, nested / "in", nested / "bits", batch_size=2)
    assert counts == FolderCounts(written=2, kept=0, left_out=1)
    for name in ("a.png", "deep/a.jpg"):
        bits = (nested / "bits" / name).with_suffix(".bits")
        assert bits.read_bytes() == tiny.encode(nested / "in" / name).to_bytes()
    seen: list[Done] = []
    assert decode_folder(tiny, nested / "bits", nested / "out", log=seen.append) == FolderCounts(2, 0, 0)
    assert [done.target.relative_to(nested).as_posix() for done in seen] == ["out/a.png", "out/deep/a.png"]
    for done in seen:
        with Image.open(done.target) as decoded:
            assert difference(decoded, tiny.decode(done.file)) == 0


def test_a_run_that_was_stopped_makes_only_what_is_missing(tiny: ImageCodec, nested: Path) -> None:
    bits = nested / "bits" / "deep" / "a.bits"

    def encode(**settings: Any) -> tuple[int, int]:
        counts = encode_folder(tiny, nested / "in", nested / "bits", **settings)
        return counts.written, counts.kept

    assert encode() == (2, 0)
    whole, first = bits.read_bytes(), (nested / "bits" / "a.bits").stat().st_mtime_ns
    assert encode() == (0, 2)
    bits.unlink()
    assert encode() == (1, 1)
    bits.write_bytes(whole[:-3])  # cut
    assert encode() == (1, 1)
    bits.write_bytes(whole[:-3] + b"???")  # damaged
    assert encode() == (1, 1)
    other = tiny_tokenizer(seed=1)
    bits.write_bytes(ImageCodec(other, identify("other", other.state_dict())).encode(smooth(20, 16)).to_bytes())
    assert encode() == (1, 1)
    assert bits.read_bytes() == whole
    smooth(20, 16, 2).save(nested / "in" / "deep" / "a.jpg")  # another image
    assert encode() == (1, 1)
    assert bits.read_bytes() != whole
    assert (nested / "bits" / "a.bits").stat().st_mtime_ns == first
    assert encode(scales=2) == (2, 0)
    assert encode(scales=2) == (0, 2)


def test_images_are_decoded_again_only_of_other_bits(tiny: ImageCodec, nested: Path) -> None:
    encode_folder(tiny, nested / "in", nested / "bits")

    def decode(**settings: Any) -> tuple[int, int]:
        counts = decode_folder(tiny, nested / "bits", nested / "out", **settings)
        return counts.written, counts.kept

    assert decode() == (2, 0)
    assert decode() == (0, 2)
    image = nested / "out" / "a.png"
    content = image.read_bytes()
    image.write_bytes(content[:-20])
    assert decode() == (1, 1)
    image.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    assert decode() == (1, 1)
    smooth(20, 16).save(image)  # not ours
    theirs = image.read_bytes()
    with pytest.raises(UsageError, match=r"1 of 2 files(?s:.*)a\.png is not replaced"):
        decode()
    assert image.read_bytes() == theirs
    assert decode(overwrite=True) == (1, 1)
    assert image.read_bytes() == content
    assert decode(scales=2) == (2, 0)
    assert image.read_bytes() != content
    assert decode() == (2, 0)
    (nested / "bits" / "a.bits").write_bytes((nested / "bits" / "deep" / "a.bits").read_bytes())
    assert decode() == (1, 1)


def test_folders_that_cannot_be_used_are_refused(tiny: ImageCodec, nested: Path) -> None:
    before = sorted(nested.rglob("*"))
    with pytest.raises(UsageError, match="There is no folder"):
        encode_folder(tiny, nested / "nowhere", nested / "bits")
    with pytest.raises(UsageError, match="There is no folder"):
        decode_folder(tiny, nested / "in" / "a.png", nested / "out")
    with pytest.raises(UsageError, match="nothing to do"):
        decode_folder(tiny, nested / "in", nested / "out")
    with pytest.raises(UsageError, match="is not a folder"):
        encode_folder(tiny, nested / "in", nested / "in" / "notes.txt")
    assert sorted(nested.rglob("*")) == before
    smooth(20, 16).save(nested / "in" / "a.webp")
    with pytest.raises(UsageError, match="would be written there too"):
        encode_folder(tiny, nested / "in", nested / "bits")
    (nested / "in" / "a.webp").unlink()
    (nested / "in" / "deep" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"deep/a\.jpg can't be used"):
        encode_folder(tiny, nested / "in", nested / "bits")
    assert [path.name for path in (nested / "bits").iterdir()] == ["a.bits"]


# The command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("a.png", "b.jpg", "c.webp")):
        smooth(20, 16 + i, i).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    save_tokenizer(tiny_tokenizer(), tmp_path / "tokenizer", name="tiny")
    return tmp_path


def test_the_command_goes_there_and_back(bitvar: Any, folder: Path) -> None:
    with_tiny = ("--tokenizer", folder / "tokenizer", "--device", "cpu")
    code, out, err = bitvar("tokenizer", "encode", folder / "in" / "a.png", "-o", folder / "a.bits", *with_tiny)
    assert code == 0, err
    assert "20x16" in out
    whole = (folder / "a.bits").read_bytes()
    closer = (folder / "in" / "a.png", "-o", folder / "c.bits", *with_tiny, "--refine-steps", 9)
    assert bitvar("tokenizer", "encode", *closer)[0] == 0
    assert len((folder / "c.bits").read_bytes()) == len(whole) and (folder / "c.bits").read_bytes() != whole
    code, out, err = bitvar("tokenizer", "decode", folder / "a.bits", "-o", folder / "b.png", *with_tiny)
    assert (code, err) == (0, "")
    codec = ImageCodec.from_pretrained(folder / "tokenizer", device="cpu")
    with Image.open(folder / "b.png") as decoded:
        assert difference(decoded, codec.decode(codec.encode(folder / "in" / "a.png"))) == 0
    code, out, _ = bitvar("tokenizer", "info", folder / "a.bits", "--json")
    facts = json.loads(out)
    assert (facts["width"], facts["height"], facts["tokenizer"], facts["whole"]) == (20, 16, "tiny-tokenizer", True)
    assert facts["bytes"] == (folder / "a.bits").stat().st_size
    assert [scale["grid"] for scale in facts["scales"]] == [[1, 1], [1, 2], [2, 3], [4, 5]]


@pytest.mark.parametrize(("name", "stride"), [(None, 4), ("general", 4), ("fine", 2)])
def test_the_tokenizers_in_the_package_need_no_name_to_decode(
    bitvar: Any, folder: Path, name: str | None, stride: int
) -> None:
    given = () if name is None else ("--tokenizer", name)
    code, _, err = bitvar("tokenizer", "encode", folder / "in" / "a.png", "-o", folder / "a.bits", *given)
    assert code == 0, err
    assert read_bitfile(folder / "a.bits").header.stride == stride
    code, _, err = bitvar("tokenizer", "decode", folder / "a.bits", "-o", folder / "b.png")
    assert code == 0, err
    with Image.open(folder / "in" / "a.png") as image, Image.open(folder / "b.png") as decoded:
        assert difference(image, decoded) < 120


def test_the_first_file_decides_which_tokenizer_of_the_package_decodes(bitvar: Any, folder: Path) -> None:
    for name, tokenizer in (("a", "general"), ("b", "fine")):
        target = folder / "bits" / f"{name}.bits"
        target.parent.mkdir(exist_ok=True)
        assert bitvar("tokenizer", "encode", folder / "in" / "a.png", "-o", target, "--tokenizer", tokenizer)[0] == 0
    code, out, err = bitvar("tokenizer", "decode", folder / "bits", "-o", folder / "out")
    assert code == 1
    assert out.startswith(str(folder / "out" / "a.png"))
    assert (
        "b.bits: The tokenizer 'general-tokenizer' did not make these bits. they were made by 'fine-tokenizer'" in err
    )
    assert "1 of 2 files failed" in err
    (folder / "bits" / "a.bits").write_bytes(b"no bits")
    code, out, err = bitvar("tokenizer", "decode", folder / "bits", "-o", folder / "again")
    assert (code, out.count("\n")) == (1, 1)
    assert out.startswith(str(folder / "again" / "b.png"))
    assert "a.bits: " in err


def test_the_command_takes_folders_and_counts_what_it_leaves_out(bitvar: Any, folder: Path) -> None:
    with_tiny = ("--tokenizer", folder / "tokenizer")
    code, out, err = bitvar("tokenizer", "encode", folder / "in", "-o", folder / "bits", *with_tiny)
    assert code == 0, err
    assert "1 file of other kinds skipped (.txt 1)" in err
    assert sorted(path.name for path in (folder / "bits").iterdir()) == ["a.bits", "b.bits", "c.bits"]
    code, out, err = bitvar("tokenizer", "encode", folder / "in", "-o", folder / "bits", *with_tiny)
    assert (code, out.count("unchanged")) == (0, 3), err
    (folder / "bits" / "deep").mkdir()
    (folder / "bits" / "d.txt").write_text("no bits")
    (folder / "bits" / "c.bits").rename(folder / "bits" / "deep" / "c.bits")
    code, out, err = bitvar("tokenizer", "decode", folder / "bits", "-o", folder / "out", *with_tiny)
    assert code == 0, err
    assert "1 file of other kinds skipped (.txt 1)" in err
    assert out.count("\n") == 3
    (folder / "out" / "deep" / "c.png").rename(folder / "out" / "c.png")
    for name, height in (("a", 16), ("b", 17), ("c", 18)):
        with Image.open(folder / "out" / f"{name}.png") as decoded:
            assert decoded.size == (20, height)


def test_a_cut_file_is_decoded_and_spoken_of(bitvar: Any, folder: Path) -> None:
    with_tiny = ("--tokenizer", folder / "tokenizer")
    image, whole, few = folder / "in" / "a.png", folder / "whole.bits", folder / "few.bits"
    assert bitvar("tokenizer", "encode", image, "-o", whole, *with_tiny)[0] == 0
    assert bitvar("tokenizer", "encode", image, "-o", few, "--scales", 2, *with_tiny)[0] == 0
    assert whole.read_bytes().startswith(few.read_bytes())
    whole.write_bytes(whole.read_bytes()[: len(few.read_bytes()) + 5])
    code, _, err = bitvar("tokenizer", "decode", whole, "-o", folder / "cut.png", *with_tiny)
    assert code == 0
    assert "ends after scale 2 of 4" in err
    assert bitvar("tokenizer", "decode", few, "-o", folder / "few.png", *with_tiny)[0] == 0
    assert (folder / "cut.png").read_bytes() == (folder / "few.png").read_bytes()
    assert "missing" in bitvar("tokenizer", "info", few)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("encode", "in/a.png", "-o", "a.png"), 2, "does not end in .bits"),
        (("encode", "in", "-o", "in/a.png"), 2, "is not a folder"),
        (("encode", "in/a.png", "twin/a.jpg", "-o", "out"), 2, "would be written there too"),
        (("encode", "empty", "-o", "out"), 2, "nothing to do"),
        (("encode", "nowhere.png", "-o", "a.bits"), 2, "there is no nowhere.png"),
        (("encode", "in/a.png", "-o", "a.bits", "--scales", "9"), 2, "choose 1 to 4"),
        (("encode", "in/a.png", "-o", "a.bits", "--tokenizer", "nobody"), 2, "no tokenizer 'nobody'"),
        (("decode", "in/a.png", "-o", "b.png"), 2, "no bit file"),
        (("decode", "nowhere.bits", "-o", "b.png"), 2, "there is no nowhere.bits"),
        (("decode", "other.bits", "-o", "b.png"), 3, "did not make these bits"),
        (("info", "in/notes.txt"), 2, "no bit file"),
    ],
    ids=str,
)
def test_bad_input_writes_nothing(
    bitvar: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    other = tiny_tokenizer(seed=1)
    file = ImageCodec(other, identify("other", other.state_dict())).encode(smooth(16, 16))
    (folder / "other.bits").write_bytes(file.to_bytes())
    before = sorted(folder.rglob("*"))
    own = () if arguments[0] == "info" or "--tokenizer" in arguments else ("--tokenizer", "tokenizer")
    found, _, err = bitvar("tokenizer", *arguments, *own)
    assert found == code, err
    assert words in err
    assert "why:" in err
    assert "do:" in err
    assert sorted(folder.rglob("*")) == before
