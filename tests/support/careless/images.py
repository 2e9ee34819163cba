"""Images of every sort: odd EXIF, several images in one, other formats, truncated, zeroed, bombs."""

import io
import json
from collections.abc import Callable

from PIL import Image

from tests.support.careless.kind import Kind
from tests.support.careless.sets import count_good, import_captions
from tests.support.careless.stage import Stage, expect

Made = tuple[bytes, bool | None, tuple[int, int]]
"""Content, whether it is sound (None: who knows), and the size that people see."""


def _bytes(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _turned(stage: Stage, image: Image.Image) -> Made:
    exif = Image.Exif()
    exif[0x0112] = stage.random.randint(5, 8)
    exif[0x011A] = stage.random.choice([0.0, 72.0, 1e9])
    exif[0x010F] = stage.random.choice(["maker", "\xff\xff"])
    form = stage.random.choice(["JPEG", "WEBP"])
    return _bytes(image, form, exif=exif.tobytes()), True, (image.height, image.width)


def _odd_exif(stage: Stage, image: Image.Image) -> Made:
    odd = (b"", b"MM\0*", b"II*\0\xff\xff\xff\xff", stage.random.randbytes(40), b"MM\0*\0\0\0\x08\xff\xff" + bytes(30))
    return _bytes(image, "JPEG", exif=b"Exif\0\0" + stage.random.choice(odd)), True, image.size


def _spoilt(how: str) -> Callable[[Stage, Image.Image], Made]:
    def make(stage: Stage, image: Image.Image) -> Made:
        data = _bytes(image, stage.random.choice(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]))
        place = stage.random.randrange(10, len(data))
        flipped = bytes([data[place] ^ (1 << stage.random.randrange(8))])
        rest = {"truncated": b"", "zeroed": bytes(len(data) - place), "flipped": flipped + data[place + 1 :]}
        return data[:place] + rest[how], None, image.size

    return make


def _mode(stage: Stage, image: Image.Image) -> Made:
    mode = stage.pick(["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
    made = Image.new("I;16", image.size, 5000) if mode == "I;16" else image.convert("L" if mode == "LA" else mode)
    return _bytes(made, "TIFF" if mode == "CMYK" else "PNG"), True, image.size


def _palette(stage: Stage, image: Image.Image) -> Made:
    return _bytes(image.quantize(16), "PNG", transparency=bytes(range(16))), True, image.size


def _format(stage: Stage, image: Image.Image) -> Made:
    form = stage.pick(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
    return _bytes(image, form), True, image.size


def _several(stage: Stage, image: Image.Image) -> Made:
    frames = [image.rotate(90 * i) for i in range(3)]
    form = stage.pick(["GIF", "WEBP", "PNG", "TIFF"])
    return _bytes(image, form, save_all=True, append_images=frames), False, image.size


def _bomb(stage: Stage, image: Image.Image) -> Made:
    data = _bytes(image, "PNG")
    return data[:16] + (60_000).to_bytes(4, "big") * 2 + data[24:], False, image.size


def _second(stage: Stage, image: Image.Image) -> Made:
    return _bytes(image, "MPO", save_all=True, append_images=[image.resize((9, 9))]), True, image.size


def _none(stage: Stage, image: Image.Image) -> Made:
    other = [b"", b"\x89PNG", b"<svg/>", b"%PDF-1.7", b"GIF89a", b"<html>", b"\xff\xd8\xff"]
    return stage.pick(other), False, image.size


IMAGES: dict[str, Callable[[Stage, Image.Image], Made]] = {
    "turned": _turned,
    "odd EXIF": _odd_exif,
    "a second image": _second,
    "truncated": _spoilt("truncated"),
    "zeroed": _spoilt("zeroed"),
    "mode": _mode,
    "palette": _palette,
    "format": _format,
    "several": _several,
    "bomb": _bomb,
    "flipped": _spoilt("flipped"),
    "none": _none,
}


def images(stage: Stage) -> None:
    """Check, import, the tokenizer and evaluation agree on an image, and sound ones are taken as people see them."""
    stage.copy("tiny")
    form, size = stage.turn(IMAGES), (stage.random.randint(17, 40), stage.random.randint(17, 40))
    data, sound, seen = IMAGES[form](stage, Image.frombytes("RGB", size, stage.random.randbytes(3 * size[0] * size[1])))
    stage.image("in/plain.png", size=(30, 20))
    stage.image("in/more.webp", size=(20, 30))
    suffix = stage.pick(["png", "jpg", "webp"])  # the content tells, not the name
    (stage.folder / "in" / f"odd.{suffix}").write_bytes(data)
    for name in ("odd", "plain", "more"):
        (stage.folder / "in" / f"{name}.txt").write_text(f"a {name} cat")
    found, done = count_good(stage, "in")
    expect(sound is None or found == 2 + sound, f"{form}: {found} of 3 are good:\n{done}")
    imported = import_captions(stage, "in")
    expect(len(imported) == found, f"{form}: check finds {found}, import {len(imported)}:\n{done}")
    encoded = stage.run("tokenizer", "encode", "in", "-o", "bits", "--tokenizer", "tiny")
    bits = sorted((stage.folder / "bits").iterdir())
    expect(len(bits) == found, f"{form}: check finds {found} good, the tokenizer {len(bits)}:\n{done}\n{encoded}")
    expect(encoded.code == (0 if found == 3 else 1), f"{form}: another exit code:\n{encoded}")
    if found == 3 and sound:
        told = json.loads(stage.works("tokenizer", "info", "bits/odd.bits", "--json").out)
        expect((told["width"], told["height"]) == seen, f"{form}: {told['width']}x{told['height']}, not {seen}")
    if stage.number >= len(IMAGES):  # once a form: it takes a while
        return
    call = ("evaluate", "reconstruction", "in", "-o", "report", "--tokenizer", "tiny", "--baselines", "none")
    evaluated = stage.run(*call, "--size", "16")
    expect(evaluated.code == (0 if found == 3 else 1), f"{form}: evaluation gives another exit code:\n{evaluated}")


KINDS = {"images": Kind(24, images)}
