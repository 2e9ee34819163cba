"""`bitvar generate`: seeds, names, sizes, settings of images, and every option with --from."""

import json
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from bitvar.imaging.embedded_text import exif_with
from bitvar.pipeline.record import KEY, read_record
from tests.support.careless.kind import Kind
from tests.support.careless.stage import Stage, expect, pixels, tree

MODEL = ("--model", "tiny")
SCRIPTS = (
    (0x41, 0x5A),
    (0x3B1, 0x3C9),
    (0x410, 0x44F),
    (0x5D0, 0x5EA),
    (0x627, 0x64A),
    (0x905, 0x939),
    (0xE01, 0xE2E),
    (0x4E00, 0x9FA5),
    (0x3041, 0x3096),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1F5FF),
    (0x10330, 0x1034A),
    (0x21, 0x2F),
)


def seeds(stage: Stage) -> None:
    """Seeds that differ in one bit of 63 draw two images, in any form; a seed gives its image again."""
    stage.copy("tiny")
    bit, seed = stage.turn(range(2, 63, 5)), stage.random.getrandbits(63)
    prompt = " ".join(stage.random.choices(["a", "red", "dog", "cat", "circle", "blue"], k=3))
    for name, value in (("a", seed), ("b", seed ^ (1 << bit)), ("again", seed)):
        stage.works("generate", prompt, *MODEL, "--seed", str(value), "-o", f"{name}.png")
    a, b, again = (pixels(stage.folder / f"{name}.png") for name in ("a", "b", "again"))
    expect(a != b, f"seeds {seed} and {seed ^ (1 << bit)} draw one image")
    expect(a == again, f"seed {seed} draws two images")


def odd_seeds(stage: Stage) -> None:
    """Seeds that are none are refused."""
    stage.copy("tiny")
    large = str(2 ** stage.random.choice([63, 64, 100, 2000]))
    forms = (["-1"], [large], ["1.5"], ["1e3"], ["nan"], ["0x10"], [""], ["1_0_"])
    given = stage.turn(forms)
    stage.refused(2, "generate", "a dog", *MODEL, "-o", "x.png", "--seed", *given)


def unnamed(stage: Stage) -> None:
    """Prompts of any script without -o: every image has a file of its own, whatever lies there."""
    stage.copy("tiny")
    first, last = stage.turn(SCRIPTS)
    prompts = ["".join(chr(stage.random.randint(first, last)) for _ in range(stage.random.randint(1, 4))) for _ in "ab"]
    if stage.random.random() < 0.5:
        prompts[1] = prompts[0]
    stage.note(prompts)
    seen = tree(stage.folder)
    for prompt, guidance in zip(prompts, ("1", "4"), strict=True):
        stage.works("generate", *MODEL, "--seed", "1", "--guidance", guidance, "--", prompt)
        now = tree(stage.folder)
        expect(seen.items() <= now.items() and len(now) == len(seen) + 1, f"a file of {prompts} was replaced")
        seen = now


def several(stage: Stage) -> None:
    """Each of several images is drawn again, to the byte, from its own file alone."""
    stage.copy("tiny")
    count, suffix = stage.random.randint(2, 5), stage.turn(["png", "webp", "jpg"])
    more = stage.pick([[], ["--guidance", "1"], ["--temperature", "0.5,1,2"], ["--size", "16x8"], ["--enlarge", "3"]])
    more += stage.pick([[], ["--exact-size", "--aspect", "4:3"], ["--top-k", "2"], ["--dtype", "bf16"]])
    if "--aspect" in more and "--size" in more:
        more = more[2:]
    place = f"out/{{index}}.{suffix}"
    stage.works(
        "generate",
        "a red cat",
        *MODEL,
        "--num-images",
        str(count),
        "--seed",
        str(stage.random.getrandbits(40)),
        "-o",
        place,
        *more,
    )
    files = sorted((stage.folder / "out").iterdir())
    expect(len(files) == count, f"{len(files)} of {count} images")
    for path in files:
        again = stage.folder / f"again-{path.name}"
        stage.works("generate", *MODEL, "--from", path, "-o", again.name)
        expect(again.read_bytes() == path.read_bytes(), f"{path.name} does not come again")
    expect(len({path.read_bytes() for path in files}) == count, "two of several images are one")


def sizes(stage: Stage) -> None:
    """A size or ratio is drawn, said to differ, or refused; an exact one is exact."""
    stage.copy("tiny")
    width, height = stage.random.randint(1, 60), stage.random.randint(1, 60)
    forms = {
        "size": f"{width}x{height}",
        "near": f"{stage.random.randint(12, 20)}x{stage.random.randint(7, 20)}",
        "aspect": f"{width}:{height}",
        "decimal": f"{width / 7:.3f}:{height / 7:.2f}",
        "slash": f"{width}/{height}",
        "odd": stage.random.choice(
            ["16", "x", "16x", "-16x16", "1e1x16", "16x16x3", "nanxnan", "", "16 x 16", "0x0", "99999x1"]
        ),
        "ratio": stage.random.choice(
            ["1:0", "0:1", "nan:1", "inf:1", "1:5e-324", "1", "", "a:b", "1:2:3", "-1:-1", "1e9:1"]
        ),
        "digits": f"{width}x{height}".translate({48 + i: 0x660 + i for i in range(10)}),
    }
    form = stage.turn(forms)
    option = "--aspect" if form in ("aspect", "decimal", "slash", "ratio") else "--size"
    exact = stage.pick([True, False])
    given = [option, forms[form], *["--exact-size"] * exact]
    stage.note(given)
    call = ("generate", "a dog", *MODEL, "--seed", "1", "-o", "x.png", *given)
    if form in ("odd", "ratio", "digits"):
        done = stage.either(2, *call)
        expect(done is None or forms[form] == "16 x 16", f"it takes {given}:\n{done}")
        return
    done = stage.either(2, *call)
    if done is None:
        expect(not exact, f"exactly {given} can be had")
        return
    got = pixels(stage.folder / "x.png")[0]
    if option == "--size":
        asked = tuple(map(int, forms[form].split("x")))
        same = got == asked
        expect(same or not exact, f"{got} is not exactly {asked}:\n{done}")
    else:
        a, b = map(float, forms[form].replace("/", ":").split(":"))
        same = abs(got[0] / got[1] / (a / b) - 1) < 1.5 / min(got)  # as near as whole pixels come
    expect(same or "asked for" in done.err, f"it draws {got} for {given} without a word:\n{done}")


ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**31,
    2**63,
    10**40,
    1e308,
    "",
    " ",
    "x",
    "5",
    [],
    [1],
    [[1]],
    {},
    {"a": 1},
    "\ud800",
    "\0",
    "x" * 70_000,
    [1] * 100,
    "NaN",
    float("nan"),
    float("inf"),
    -0.0,
    "../../etc/passwd",
    "evil/model",
)
COMPARED = (
    "prompt",
    "negative_prompt",
    "seed",
    "seeds",
    "width",
    "height",
    "guidance_scale",
    "temperature",
    "top_k",
    "top_p",
    "enlarge",
    "grid",
    "exact_size",
    "requested_width",
    "requested_height",
)


def records(stage: Stage) -> None:
    """Settings inside an image, edited at random: what they say is drawn, or nothing is."""
    stage.copy("tiny")
    values = read_record(stage.copy("drawn.png")).model_dump(mode="json")
    changes = stage.turn(["field", "field", "field", "unknown", "gone", "text", "deep"])
    text = None
    if changes in ("field", "unknown"):
        for _ in range(stage.random.choice([1, 1, 2])):
            name = (
                stage.pick([*values]) if changes == "field" else stage.pick(["x", "Prompt", "", "__class__", "seed "])
            )
            values[name] = stage.pick(ODD)
    elif changes == "gone":
        del values[stage.pick([*values])]
    elif changes == "text":
        whole = json.dumps(values)
        place = stage.random.randrange(len(whole))
        text = stage.pick(
            [whole[:place], whole[:place] + stage.random.choice('"{}[],:0\\') + whole[place + 1 :], "[]", "5", ""]
        )
    else:
        text = stage.pick(["[" * 20_000, '{"prompt": ' * 9_000, '{"prompt": ' + "9" * 5000 + "}"])
    text = json.dumps(values) if text is None else text
    path = _with_record(stage, text)
    done = stage.either(2, "generate", *MODEL, "--from", path.name, "-o", "y.png")
    if done is None:
        return
    expect(changes not in ("unknown", "deep"), f"it takes {text[:200]}:\n{done}")
    made, given = read_record(stage.folder / "y.png").model_dump(mode="json"), json.loads(text)
    wrong = [name for name in COMPARED if name in given and made[name] != given[name]]
    expect(not wrong, f"it draws other {wrong} than the file says: {text[:300]}\n{done}")


def _with_record(stage: Stage, text: str) -> Path:
    image, form = Image.new("RGB", (16, 16), "red"), stage.pick(["png", "png", "webp", "jpg"])
    path = stage.folder / f"edited.{form}"
    try:
        exif = exif_with(KEY, text)
    except (ValueError, UnicodeError):
        form, exif = "png", b""
        path = stage.folder / "edited.png"
    if form == "png" or len(text) > 60_000:
        path = stage.folder / "edited.png"
        info = PngImagePlugin.PngInfo()
        data = text.encode("utf-8", "surrogatepass")
        info.add(b"iTXt", KEY.encode() + b"\0\0\0\0\0" + data)
        image.save(path, pnginfo=info)
    else:
        image.save(path, exif=exif)
    return path


def _field(name: str, value: Any) -> Any:
    return lambda stage, out, record: (
        record is not None and record[name] == value,
        f"{name} is {record and record[name]!r}, not {value!r}",
    )


def _refuses(stage: Stage, out: list[Path], record: Any) -> tuple[bool, str]:
    return False, "an option that can't be used was taken"


WITH_FROM: dict[str, tuple[tuple[str, ...], Any]] = {
    "prompt": (("a blue cat",), _field("prompt", "a blue cat")),
    "n": (("--num-images", "2"), lambda stage, out, record: (len(out) == 2 or bool(record["grid"]), "not two images")),
    "seed": (("--seed", "77"), _field("seed", 77)),
    "size": (("--size", "16x8"), _field("height", 8)),
    "aspect": (("--aspect", "2:1"), _field("height", 8)),
    "exact": (("--exact-size", "--size", "20x18"), _field("requested_width", 20)),
    "guidance": (("--guidance", "5"), _field("guidance_scale", 5.0)),
    "temperature": (("--temperature", "0.25"), _field("temperature", 0.25)),
    "top-k": (("--top-k", "2"), _field("top_k", 2)),
    "top-p": (("--top-p", "0.5"), _field("top_p", 0.5)),
    "negative": (("--negative", "a dog"), _field("negative_prompt", "a dog")),
    "grid": (("--grid",), _field("grid", True)),
    "enlarge": (("--enlarge", "3"), _field("enlarge", 3)),
    "dtype": (("--dtype", "bf16"), _field("dtype", "bfloat16")),
    "previews": (("--previews", "steps"), lambda stage, out, record: (any((stage.folder / "steps").iterdir()), "none")),
    "lora": (("--lora", "adapter"), _refuses),
    "revision": (("--revision", "main"), _refuses),
    "prompts": (("--prompts", "prompts.txt"), _refuses),
    "device": (("--device", "cpu"), _field("device", "cpu")),
    "no-grid": (("--no-grid",), _field("grid", False)),
}


def from_pairs(stage: Stage) -> None:
    """Every pair of options with --from: each is used, or the command is refused."""
    for name in ("tiny", "drawn.png", "adapter"):
        stage.copy(name)
    (stage.folder / "prompts.txt").write_text("a dog\n")
    names = list(WITH_FROM)
    first = stage.turn(names)
    second = stage.pick([name for name in names if name != first])
    words = [word for name in (first, second) for word in WITH_FROM[name][0]]
    done = stage.either(2, "generate", *MODEL, "--from", "drawn.png", "-o", "out/{index}.png", *words)
    clash = {"size", "aspect", "exact"} >= {first, second} or {"grid", "no-grid"} == {first, second}
    if done is None or clash:
        return
    out = sorted((stage.folder / "out").glob("*.png"))
    record = read_record(out[0]).model_dump(mode="json")
    for name in (first, second):
        used, why = WITH_FROM[name][1](stage, out, record)
        if {"n", "no-grid"} & {first, second} and name == "grid":
            continue
        expect(used, f"{name}: {why}:\n{done}")
    silent = {"device", "no-grid", "previews", "dtype"} | ({"grid"} if "grid" in (first, second) else set())
    expect({first, second} <= silent or "Changed" in done.err, f"it does not say what it changes:\n{done}")


def prompts_file(stage: Stage) -> None:
    """Prompts of a file: one image for each good line; with a bad one nothing is drawn, and its number is said."""
    stage.copy("tiny")
    count = stage.random.randint(2, 5)
    fault = stage.turn(["none", "none", "bytes", "long", "surrogate", "json", "seed", "key", "blank", "nul"])
    lines = [
        json.dumps({"prompt": f"a red dog {i}", "seed": stage.random.getrandbits(50)}).encode() for i in range(count)
    ]
    bad = {
        "bytes": b'{"prompt": "\xff"}',
        "long": json.dumps({"prompt": "dog " * 6000}).encode(),
        "surrogate": b'{"prompt": "\\ud800"}',
        "json": stage.random.choice([b"{", b"[]", b"5", b"[" * 5000, b'{"prompt": NaN}']),
        "nul": b'{"prompt": "a\0b"}',
        "seed": json.dumps(
            {"prompt": "a dog", "seed": stage.random.choice([-1, 2**63, 1.5, "x", None, True, [1]])}
        ).encode(),
        "key": b'{"prompt": "a dog", "sede": 5}',
        "blank": json.dumps({"prompt": stage.random.choice(["", " ", None, 5])}).encode(),
    }
    place = stage.random.randrange(count + 1)
    if fault != "none":
        lines.insert(place, bad[fault])
    ends = stage.pick([b"\n", b"\r\n"])
    mark = stage.pick([b"", b"\xef\xbb\xbf"])
    (stage.folder / "p.jsonl").write_bytes(mark + ends.join(lines) + stage.pick([b"", ends, ends * 3]))
    call = ("generate", *MODEL, "--prompts", "p.jsonl", "-o", "out/")
    if fault == "none":
        stage.works(*call)
        expect(len([*(stage.folder / "out").iterdir()]) == count, "not an image for each line")
        return
    done = stage.refused(2, *call)
    expect(f"{place + 1}" in done.err, f"it does not say that line {place + 1} is bad:\n{done}")


KINDS = {
    "seeds": Kind(12, seeds, quick=True),
    "odd seeds": Kind(8, odd_seeds),
    "unnamed": Kind(13, unnamed, quick=True),
    "several": Kind(6, several),
    "sizes": Kind(16, sizes),
    "records": Kind(28, records, quick=True),
    "from pairs": Kind(20, from_pairs, quick=True),
    "prompts file": Kind(10, prompts_file),
}
