"""Recipes, settings and resumed runs."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.careless.folders import seal
from tests.support.careless.kind import Kind
from tests.support.careless.stage import Stage, expect, tree


def words(folder: Path | str = ".") -> list[str]:
    """A run of the shared recipe on the shared set, but for its --out."""
    place = Path(folder)
    parts = ["--tokenizer", str(place / "tiny/image_tokenizer"), "--text-encoder", str(place / "tiny/text_encoder")]
    return [str(place / "recipe.py"), "--data", str(place / "set"), *parts, "--device", "cpu", "--workers", "0"]


def copied(stage: Stage, *more: str) -> None:
    for name in ("tiny", "set", "recipe.py", *more):
        stage.copy(name)


# Recipes that are broken

BREAKS: dict[str, Callable[[Stage, str], str]] = {
    "syntax": lambda stage, text: text.replace(
        "def recipe(", stage.pick(["def recipe((", "def 5recipe(", "df recipe("])
    ),
    "indent": lambda stage, text: text.replace(
        "    return", stage.pick(["x\n      return", "\treturn x\n    return"]), 1
    ),
    "raises": lambda stage, text: (
        f"{text}\nraise {stage.pick(['ValueError', 'KeyError', 'RecursionError', 'OSError', 'MemoryError'])}('x' * 9)\n"
    ),
    "exits": lambda stage, text: f"import sys\n{text}\nsys.exit({stage.pick(['0', '1', 'None', repr('x'), '256'])})\n",
    "hard": lambda stage, text: text.replace(
        "    return", f"    raise {stage.pick(['SystemExit', 'GeneratorExit', 'BaseException'])}\n    return"
    ),
    "type": lambda stage, text: text.replace(
        "batch_size=4", f"batch_size={stage.pick(['None', repr('4'), '4.5', '[4]', 'True'])}"
    ),
    "range": lambda stage, text: text.replace("batch_size=4", f"batch_size={stage.pick(['0', '-1', '10**30'])}"),
    "rate": lambda stage, text: text.replace(
        "1e-2", stage.pick(["float('nan')", "float('inf')", "-1", "1e400", "'x'"])
    ),
    "name": lambda stage, text: text.replace("ema_decay", stage.pick(["ema_decai", "ema", "decay"])),
    "returns": lambda stage, text: text.replace(
        "return TransformerTraining", stage.pick(["x = ", "return str", "return dict"])
    ),
    "absent": lambda stage, text: text.replace(
        "def recipe", stage.pick(["def Recipe", "def recipes", "async def recipe"])
    ),
    "imports": lambda stage, text: (
        stage.pick(["import nowhere_at_all\n", "from bitvar import nothing_like_it\n", "from . import x\n"]) + text
    ),
    "bytes": lambda stage, text: "x = '\udcff\udcfe'\n" + text,
    "nul": lambda stage, text: text + "\0",
    "empty": lambda stage, text: "",
    "prints": lambda stage, text: (
        "print('hello')\nimport os; os.write(1, b'raw')\n" + text.replace("depth=2", "depth=0")
    ),
}


def recipes(stage: Stage) -> None:
    """Recipes broken at random places are refused in three lines, and print nothing on stdout."""
    copied(stage)
    broken = stage.turn(BREAKS)
    path = stage.folder / "recipe.py"
    path.write_bytes(BREAKS[broken](stage, path.read_text()).encode("utf-8", "surrogateescape"))
    more = stage.pick([["--dry-run"], ["--out", "run"], ["--fit"]])
    done = stage.refused(2, "train", *words(), *more)
    expect(not done.out, f"it prints:\n{done}")


# --set and --with

SETTINGS = (
    "optimization.steps",
    "optimization.batch_size",
    "optimization.learning_rate",
    "optimization.warmup_steps",
    "optimization.ema_decay",
    "optimization.precision",
    "intervals.log",
    "intervals.save",
    "intervals.validation",
    "model.depth",
    "model.width",
    "model.num_heads",
    "model.bits",
    "model.max_text_tokens",
    "model.max_scales",
    "model.schedules",
    "cut_caption",
    "first_caption",
    "lora",
    "optimization",
    "nothing.of_it",
    "",
    "model.",
    ".",
)
VALUES = (
    "0",
    "-1",
    "nan",
    "inf",
    "1e309",
    "-0",
    "",
    "0x10",
    "1_000",
    "9" * 400,
    "\u0663",
    "null",
    "true",
    "[]",
    "{}",
    "x",
    "2.5",
    "[[[[[1]]]]]",
    "[" * 3000,
    '"',
    "1e-400",
    "4,5",
    "__import__('os')",
    "\udcff",
)


def settings(stage: Stage) -> None:
    """Random values of random settings: refused, or a rehearsal that works is a run that works."""
    copied(stage)
    name, value = stage.turn(SETTINGS), stage.pick(VALUES)
    form = stage.pick(["--set", "--set", "--set", "--recipe-arg"])
    text = f"{name}={value}" if form == "--set" else f"{stage.pick(['steps', 'adapters', 'x', ''])}={value}"
    stage.note(text)
    rehearsed = stage.either(2, "train", *words(), "--out", "run", form, text, "--dry-run")
    asked = ["--set", "optimization.steps=2"] if "steps" not in text else []
    if rehearsed is None:
        stage.refused(2, "train", *words(), "--out", "run", form, text)
    elif "1_000" not in text and "100" not in text:
        stage.works("train", *words(), "--out", "run", form, text, *asked)


# Runs that are resumed with one thing changed


def _caption(stage: Stage) -> None:
    path = stage.folder / "set" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    row = stage.random.choice([row for row in rows if row["split"] in ("train", "val")])
    row["captions"][stage.random.randrange(2)] += stage.random.choice([" dog", "s", " on a cat"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _image(stage: Stage) -> None:
    path = stage.random.choice(sorted((stage.folder / "set" / "images").glob(stage.pick(["train-*", "val-*"]))))
    before, image = path.stat(), Image.open(path).convert("RGB")
    image.putpixel((stage.random.randrange(16), stage.random.randrange(16)), (1, 2, 3))
    image.save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _order(stage: Stage) -> None:
    path = stage.folder / "set" / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[0], lines[1] = lines[1], lines[0]
    path.write_text("".join(lines))


def _gone(stage: Stage) -> None:
    path = stage.folder / "set" / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def _part(part: str) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        path = stage.folder / "tiny" / part / "model.safetensors"
        tensors = load_file(path)
        name = stage.random.choice(sorted(name for name, tensor in tensors.items() if tensor.is_floating_point()))
        flat = tensors[name].flatten()
        flat[stage.random.randrange(len(flat))] += 0.5
        save_file(tensors, path)
        seal(stage.folder / "tiny")

    change.__name__ = part
    return change


def _vocabulary(stage: Stage) -> None:
    path = stage.folder / "tiny" / "text_encoder" / "tokenizer.json"
    path.write_text(path.read_text().replace('"red"', '"rad"').replace('"square"', '"squire"'))
    seal(stage.folder / "tiny")


def _cut_cache(stage: Stage) -> None:
    path = next((stage.folder / "run").glob("features-train*"))
    data = bytearray(path.read_bytes())
    place = stage.random.randrange(len(data))
    spoilt = {
        "cut": data[:place],
        "flip": data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :],
        "zeros": bytes(len(data)),
    }
    path.write_bytes(spoilt[stage.pick(spoilt)])


def _foreign_lines(stage: Stage) -> None:
    path = stage.folder / "run" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    odd = stage.pick(
        [b"\0\0\0\n", b"[]\n", b"{\n", b"\xff\xfe\n", b'{"step": "x"}\n', b'{"step": NaN}\n', b"[" * 5000 + b"\n"]
    )
    lines.insert(stage.random.randrange(len(lines) + 1), odd)
    path.write_bytes(b"".join(lines))


def _foreign_checkpoints(stage: Stage) -> None:
    place = stage.folder / "run" / "checkpoints"
    for name in ("step-notes", "step-00000002.backup", "step-9", ".step-00000002"):
        (place / name).mkdir()
        (place / name / "mine.txt").write_text("mine")


def _card(stage: Stage) -> None:
    with (stage.folder / "tiny" / "README.md").open("a") as file:
        file.write("\nA note.\n")


def _touched(stage: Stage) -> None:
    for path in (stage.folder / "set").rglob("*"):
        os.utime(path)


def _moved(stage: Stage) -> None:
    shutil.move(stage.folder / "set", stage.folder / "other")
    (stage.folder / "set").symlink_to("other")


MATTERS: dict[str, Callable[[Stage], None]] = {
    "caption": _caption,
    "image": _image,
    "gone": _gone,
    "order": _order,
    "tokenizer": _part("image_tokenizer"),
    "encoder": _part("text_encoder"),
    "vocabulary": _vocabulary,
}
HARMLESS: dict[str, Callable[[Stage], None]] = {
    "cache": _cut_cache,
    "lines": _foreign_lines,
    "checkpoints": _foreign_checkpoints,
    "card": _card,
    "touched": _touched,
    "moved": _moved,
}


def resumed(stage: Stage) -> None:
    """A run goes on with the same inputs, and with no others; what is somebody else's stays."""
    copied(stage, "run")
    name = stage.turn(MATTERS | HARMLESS)
    again = ["train", *words(), "--out", "run", "--extend", "--set", "optimization.steps=3"]
    if name in MATTERS:
        MATTERS[name](stage)
        done = stage.refused(2, *again, aside="run/digests.json")
        part = {"tokenizer": "tokenizer", "encoder": "text-encoder", "vocabulary": "text-encoder"}.get(name, "data")
        expect(part in done.err, f"it does not name {part}:\n{done}")
        return
    plain = stage.copy("run", "plain")
    stage.works(*[word if word != "run" else "plain" for word in again])
    HARMLESS[name](stage)
    mine = {path: text for path, text in tree(stage.folder / "run").items() if "mine" in path}
    done = stage.works(*again)
    expect(mine.items() <= tree(stage.folder / "run").items(), f"somebody's files are gone:\n{done}")
    both = [load_file(place / "model" / "transformer" / "model.safetensors") for place in (plain, stage.folder / "run")]
    expect(all(torch.equal(both[0][key], both[1][key]) for key in both[0]), f"another model came of it:\n{done}")
    if name in ("cache", "lines"):
        expect({"cache": "damaged", "lines": "metrics.jsonl"}[name] in done.err, f"it says nothing:\n{done}")


KINDS = {
    "recipes": Kind(20, recipes),
    "settings": Kind(24, settings),
    "resumed": Kind(16, resumed, quick=True),
}
