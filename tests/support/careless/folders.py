"""Folders of models, tokenizers, encoders and adapters: altered, extended, edited, unsound; and folders of others."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitvar.cli.exit_codes import exit_codes
from bitvar.weights.digests import MANIFEST, write_manifest
from tests.support.careless.kind import Kind
from tests.support.careless.stage import Stage, expect, require_three_lines, tree

TOKENIZER = "tiny/image_tokenizer"


def seal(folder: Path) -> None:
    """Give a folder that was changed the manifest of what it is now, as its maker would."""
    (folder / MANIFEST).unlink(missing_ok=True)
    write_manifest(folder)


def generate(*more: str) -> tuple[str, ...]:
    return ("generate", "a red dog", "--model", "tiny", "--seed", "3", "-o", "x.png", *more)


def _uses(stage: Stage, part: str) -> tuple[str, ...]:
    """A command that reads a part of the model."""
    from tests.support.careless.training import words

    frozen = [("train", *words(), "--out", "new"), ("train", *words(), "--dry-run", "--out", "new")]
    frozen += [("export", "run", "new", *words()[3:7])]
    uses = {
        "image_tokenizer": [
            generate(),
            ("tokenizer", "encode", "image.png", "-o", "x.bits", "--tokenizer", TOKENIZER),
            ("tokenizer", "decode", "image.bits", "-o", "x.png", "--tokenizer", TOKENIZER),
            ("evaluate", "reconstruction", "image.png", "-o", "new", "--tokenizer", TOKENIZER),
            *frozen,
        ],
        "text_encoder": [generate(), *frozen],
        "transformer": [
            generate(),
            ("train", *words(), "--out", "new", "--init", "tiny"),
        ],
    }
    return stage.pick(uses[part])


def _ready(stage: Stage) -> None:
    for name in ("tiny", "set", "recipe.py", "run", "image.png", "image.bits"):
        stage.copy(name)


def altered(stage: Stage) -> None:
    """A byte of a file that computes is altered: whatever reads it refuses it as damaged, and writes nothing."""
    _ready(stage)
    files = sorted(name for name in json.loads((stage.folder / "tiny" / MANIFEST).read_text()) if "/" in name)
    name = stage.turn(files)
    path = stage.folder / "tiny" / name
    data = bytearray(path.read_bytes())
    how = stage.pick(["flip", "cut", "grow", "empty", "insert"])
    place = stage.random.randrange(len(data))
    made = {
        "flip": data[:place] + bytes([data[place] ^ (1 << stage.random.randrange(8))]) + data[place + 1 :],
        "cut": data[:place],
        "grow": data + b"\0",
        "empty": b"",
        "insert": data[:place] + b"x" + data[place:],
    }
    path.write_bytes(made[how])
    done = stage.refused(3, *_uses(stage, name.split("/")[0]))
    expect(path.name in done.err, f"it does not name {path.name}:\n{done}")


def added(stage: Stage) -> None:
    """Files that a loader might read, added, removed or renamed: refused by name."""
    _ready(stage)
    part = stage.turn(["transformer", "image_tokenizer", "text_encoder"])
    place = stage.folder / "tiny" / part
    what = stage.pick(["add", "remove", "rename", "pickle", "pipe", "folder"])
    extra = {
        "add": ["adapter_config.json", "extra.safetensors", "config.yaml", "special_tokens_map.json", "vocab.txt"],
        "pickle": ["pytorch_model.bin", "model.pt", "modeling.py", "training_args.bin"],
        "pipe": ["x.json"],
        "folder": ["sub/x.json"],
    }
    if what in ("remove", "rename"):
        path = stage.pick(sorted(place.iterdir()))
        path.unlink() if what == "remove" else path.rename(path.with_name(f"{path.name}.old"))
    else:
        path = place / stage.pick(extra[what])
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path) if what == "pipe" else path.write_bytes(stage.random.randbytes(50))
    stage.refused(3, *_uses(stage, part))


def cards(stage: Stage) -> None:
    """Cards and notes, edited, removed or added: the model is the one it was, and draws what it drew."""
    stage.copy("tiny")
    stage.works(*generate())
    first = (stage.folder / "x.png").read_bytes()
    place = stage.folder / "tiny"
    edits: dict[str, Callable[[], Any]] = {
        "append": lambda: (place / "README.md").write_bytes(
            (place / "README.md").read_bytes() + stage.random.randbytes(40)
        ),
        "remove": (place / "README.md").unlink,
        "licence": lambda: (place / "LICENSE").write_text("x"),
        "notes": lambda: (place / "transformer" / "notes.md").write_text("x"),
        "hidden": lambda: (place / ".DS_Store").write_bytes(b"\0\1"),
        "crlf": lambda: [
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
            for path in (*place.rglob("*.json"), place / "README.md")
            if path.name != MANIFEST
        ],
    }
    edits[stage.turn(edits)]()
    stage.works(*generate())
    expect((stage.folder / "x.png").read_bytes() == first, "another image came of it")


SPOILS: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda tensor: (
        tensor.clone().flatten().index_fill_(0, torch.tensor([tensor.numel() // 2]), float("nan")).view_as(tensor)
    ),
    "inf": lambda tensor: tensor.clone().flatten().index_fill_(0, torch.tensor([0]), float("-inf")).view_as(tensor),
    "int8": lambda tensor: tensor.to(torch.int8),
    "int64": lambda tensor: tensor.to(torch.int64),
    "bool": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.to(torch.complex64),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "shape": lambda tensor: torch.zeros(3, 5, 7),
    "empty": lambda tensor: tensor.new_zeros(0),
    "huge": lambda tensor: torch.full_like(tensor, 3e38),
}


def weights(stage: Stage) -> None:
    """A tensor of a part is no number, or of a kind that is none: an error of the weights, and no file."""
    _ready(stage)
    spoil = stage.turn(SPOILS)
    part = stage.pick(["transformer", "image_tokenizer", "text_encoder"])
    path = stage.folder / "tiny" / part / "model.safetensors"
    tensors = load_file(path)
    name = stage.pick(sorted(name for name, tensor in tensors.items() if tensor.is_floating_point()))
    tensors[name] = SPOILS[spoil](tensors[name])
    save_file(tensors, path)
    seal(stage.folder / "tiny")
    call = _uses(stage, part)
    if spoil == "huge":  # a run may begin, and then stop
        before, done = tree(stage.folder), stage.run(*call)
        expect(done.code in (0, 1, 2, 3), f"another exit code:\n{done}")
        if done.code:
            require_three_lines(done)
        if done.code and call[0] != "train":
            stage.unchanged(before, done)
        return
    codes = (2, 3) if call[0] == "export" or part != "transformer" else 3  # other parts than a run had are refused too
    stage.refused(codes, *call)


def official(stage: Stage) -> None:
    """Official files whose numbers are none, or that are damaged: not converted, and nothing is left behind."""
    path = stage.copy("official") / "vae.pth"
    how = stage.turn(["sound", *(name for name in SPOILS if name != "huge"), "cut", "flip", "zip"])
    call = ("convert", str(path.relative_to(stage.folder)), "new")
    if how == "sound":
        stage.works(*call)
        stage.refused(2, *call)  # what is there is not overwritten
        return
    data = path.read_bytes()
    if how in SPOILS:
        values = torch.load(path, weights_only=True)
        tensors = values["vae"]
        name = stage.pick(sorted(name for name, tensor in tensors.items() if tensor.is_floating_point()))
        tensors[name] = SPOILS[how](tensors[name])
        torch.save(values, path)
    else:
        place = stage.random.randrange(len(data) // 4, len(data) // 2)
        flipped = data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]
        path.write_bytes({"cut": data[:place], "flip": flipped, "zip": b"PK\3\4" + bytes(200)}[how])
    if how == "flip":  # in a number, it may be another number
        stage.either(3, *call)
    else:
        stage.refused((2, 3), *call)


EXTREMES = (
    0,
    -1,
    1,
    2,
    3,
    2**16,
    2**31,
    2**63,
    10**12,
    10**40,
    0.5,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    None,
    True,
    "5",
    [],
    {},
    "x" * 99999,
)


def _numbers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the numbers of a JSON value are."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, inner in items for place in _numbers(inner, (*path, key))]
    return [path] if isinstance(value, int | float) else []


def configs(stage: Stage) -> None:
    """A number in a configuration set to an extreme: refused in time and room, or what it changes is nothing."""
    stage.copy("tiny")
    files = [
        "transformer/config.json",
        "image_tokenizer/config.json",
        "text_encoder/config.json",
        "text_encoder/bitvar.json",
        "model_index.json",
    ]
    path = stage.folder / "tiny" / stage.turn(files)
    values = json.loads(path.read_text())
    places = _numbers(values)
    keys = stage.pick(places) if places else ("x",)
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = stage.pick(EXTREMES)
    path.write_text(json.dumps(values))
    seal(stage.folder / "tiny")
    stage.either(3, *generate())


def vocabularies(stage: Stage) -> None:
    """tokenizer.json that is odd: refused as a file of the model's, or it encodes."""
    stage.copy("tiny")
    path = stage.folder / "tiny" / "text_encoder" / "tokenizer.json"
    values = json.loads(path.read_text())
    odd = stage.turn(["ids", "pattern", "type", "cut", "empty", "nest", "key", "null", "model", "post"])
    if odd == "ids":
        values["model"]["vocab"][stage.pick(["dog", "[CLS]", "[UNK]"])] = stage.pick(
            [-1, 2**32, 10**9, 19, 1.5, "x", None]
        )
    elif odd == "pattern":
        pattern = stage.pick(["(a+)+$", "(" * 5000, "[", "(?<=a*)b", "\\", "(?:" * 300 + ")" * 300, "a{1,99999}"])
        values["pre_tokenizer"] = {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Removed",
            "invert": False,
        }
    elif odd in ("type", "null", "key"):
        name = stage.pick([*values])
        values[name] = {"type": {"type": "Evil"}, "null": stage.pick([5, "x", [], True]), "key": {"x": 1}}[odd]
    elif odd == "model":
        values["model"][stage.pick([*values["model"]])] = stage.pick([None, 5, -1, "x", [], {}, 2**64])
    elif odd == "post":
        values["post_processor"]["single"] = stage.pick([[], None, [{"Sequence": {"id": "B", "type_id": 9}}], "x"])
    text = json.dumps(values)
    text = {"cut": text[: len(text) // 2], "empty": "", "nest": "[" * 50_000}.get(odd, text)
    path.write_text(text)
    seal(stage.folder / "tiny")
    stage.either(3, *generate())


def adapters(stage: Stage) -> None:
    """Adapters altered at random: an error of the weights, nothing drawn; or odd weights of them refused."""
    for name in ("tiny", "adapter"):
        stage.copy(name)
    path = next((stage.folder / "adapter").glob("*.safetensors"))
    how = stage.turn([*SPOILS, "flip", "cut", "rename", "missing", "odd weight", "added", "rank"])
    codes, given = 3, "adapter"
    data = path.read_bytes()
    if how in SPOILS:
        tensors = load_file(path)
        name = stage.pick(sorted(tensors))
        tensors[name] = SPOILS[how](tensors[name])
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        save_file(tensors, path, metadata)
        if (stage.folder / "adapter" / MANIFEST).exists():
            seal(stage.folder / "adapter")
    elif how == "flip":
        place = stage.random.randrange(min(len(data), 400))
        path.write_bytes(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])
    elif how == "cut":
        path.write_bytes(data[: stage.random.randrange(len(data))])
    elif how in ("rename", "missing"):
        path.rename(path.with_name("other.bin")) if how == "rename" else path.unlink()
        codes = (2, 3)
    elif how == "odd weight":
        given, codes = f"adapter:{stage.pick(['nan', 'inf', '-inf', '1e30', '101', '', 'x', '1:2', '1e309'])}", 2
    elif how == "added":
        (stage.folder / "adapter" / "second.safetensors").write_bytes(data)
        codes = (2, 3)
    else:
        tensors = load_file(path)
        name = next(name for name in sorted(tensors) if "lora_A" in name)
        tensors[name] = tensors[name][:1]
        save_file(tensors, path)
    if how in ("flip", "huge", "shape", "added"):
        done = stage.either((2, 3), *generate("--lora", given))
        expect(done is None or how in ("flip", "huge"), f"it takes the adapter:\n{done}")
    else:
        stage.refused(codes, *generate("--lora", given))


def foreign(stage: Stage) -> None:
    """Saves into folders that are somebody's: refused, and every file there stays."""
    _ready(stage)
    from tests.support.careless.training import words

    saves = {
        "export": ("export", "run", "mine", *words()[3:7]),
        "import": ("data", "import", "set", "mine", "--size", "16"),
        "index": ("data", "index", "set", "mine"),
        "train": ("train", *words(), "--out", "mine"),
        "evaluate": (
            "evaluate",
            "reconstruction",
            "image.png",
            "-o",
            "mine",
            "--tokenizer",
            TOKENIZER,
            "--baselines",
            "none",
        ),
        "official": ("convert", "tiny", "mine", "--to-official"),
        "pretrained": (),
    }
    save = stage.turn(saves)
    mine = stage.folder / "mine"
    form = stage.pick(["files", "ours and a file", "git", "file", "link", "deep"])
    if form == "file":
        mine.write_text("mine")
    elif form == "link":
        (stage.folder / "elsewhere").mkdir()
        (stage.folder / "elsewhere" / "thesis.txt").write_text("mine")
        mine.symlink_to("elsewhere")
    else:
        if form == "ours and a file":
            stage.copy("tiny", "mine")
        mine.mkdir(exist_ok=True)
        name = {"git": ".git/HEAD", "deep": "a/b/c/thesis.txt"}.get(form, "thesis.txt")
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("mine")
        for name in stage.random.sample(
            [
                "samples.jsonl",
                "images/a.png",
                "manifest.json",
                "refused.jsonl",
                "contact_sheet.png",
                "report.json",
                "sheet.png",
                "settings.json",
                "images.jsonl",
                "model_index.json",
                "records.npy",
            ],
            2,
        ):
            (mine / name).parent.mkdir(exist_ok=True)
            (mine / name).write_text("mine")
    before = tree(stage.folder)
    if save == "pretrained":
        done = stage.run("save_pretrained", act=lambda: _save(stage))
        expect(done.code == 2, f"it should exit with 2:\n{done}")
    else:
        done = stage.run(*saves[save])
        if save == "train" and done.code == 0 and form not in ("file",):  # they add their own files to a folder
            expect(before.items() <= tree(stage.folder).items(), f"somebody's files are gone:\n{done}")
            return
        if save in ("import", "evaluate") and done.code == 0 and mine.is_dir():  # nothing there has a name of theirs
            expect(before.items() <= tree(stage.folder).items(), f"somebody's files are gone:\n{done}")
            return
        expect(done.code == 2, f"it should exit with 2:\n{done}")
    expect(before.items() <= tree(stage.folder).items(), f"somebody's files are gone: {save} on {form}")
    if save != "train":
        expect(before == tree(stage.folder), f"files were left behind: {save} on {form}")


def _save(stage: Stage) -> None:
    from bitvar.pipeline import InfinityPipeline

    pipeline = InfinityPipeline.from_pretrained(stage.folder / "tiny")
    try:
        with exit_codes():
            pipeline.save_pretrained(stage.folder / "mine")
    except typer.Exit as stop:
        raise SystemExit(stop.exit_code) from None


KINDS = {
    "altered": Kind(27, altered, quick=True),
    "added": Kind(12, added),
    "cards": Kind(6, cards, quick=True),
    "weights": Kind(30, weights),
    "official": Kind(13, official),
    "configs": Kind(25, configs, quick=True),
    "vocabularies": Kind(20, vocabularies),
    "adapters": Kind(24, adapters),
    "foreign folders": Kind(28, foreign, quick=True),
}
