"""Odd values of every option of every command, and names that are spelt wrong."""

import json

from tests.support.careless.kind import Kind
from tests.support.careless.stage import Stage, expect
from tests.support.careless.training import words

NEVER = (
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e309",
    "",
    " ",
    "0x10",
    "\u00bd",
    "null",
    "x",
    "1;2",
    "--",
    "\udcff",
    "5" * 5000,
)
"""What is no number to anybody."""

MAYBE = ("-0", "1_000", "\u0663", "+1", " 1", "1.0", "1e0", "01", "1e-400", "0.999999999999999999")
"""What may be one."""

DRAW = ("generate", "a dog", "--model", "tiny", "--seed", "1", "-o", "x.png")
CHECK = ("data", "check", "set")
IMPORT = ("data", "import", "set", "new", "--size", "16")
INDEX = ("data", "index", "set", "new")
ENCODE = ("tokenizer", "encode", "image.png", "-o", "x.bits", "--tokenizer", "tiny")
DECODE = ("tokenizer", "decode", "image.bits", "-o", "x.png", "--tokenizer", "tiny")
EVALUATE = ("evaluate", "reconstruction", "image.png", "-o", "new", "--tokenizer", "tiny", "--baselines", "none")
TRAIN = ("train", *words(), "--out", "new", "--dry-run")
FIT = ("train", *words(), "--fit")
EXPORT = ("export", "run", "new", *words()[3:7])

NUMBERS = {
    "--num-images": DRAW,
    "--seed": DRAW,
    "--guidance": DRAW,
    "--temperature": DRAW,
    "--top-k": DRAW,
    "--top-p": DRAW,
    "--enlarge": DRAW,
    "--size": DRAW,
    "--aspect": DRAW,
    "check --max-bad-fraction": CHECK,
    "--max-tokens": CHECK,
    "import --size": IMPORT,
    "--validation": IMPORT,
    "index --validation": INDEX,
    "index --max-bad-fraction": INDEX,
    "--scales": ENCODE,
    "--passes": ENCODE,
    "--tile": ENCODE,
    "decode --scales": DECODE,
    "decode --tile": DECODE,
    "--limit": EVALUATE,
    "--sheet": EVALUATE,
    "--batch-size": EVALUATE,
    "evaluate --size": EVALUATE,
    "evaluate --refine-steps": EVALUATE,
    "--device-gib": FIT,
    "--nproc": TRAIN,
    "--hang-seconds": TRAIN,
    "--shards": TRAIN,
    "--micro-batch": TRAIN,
    "--workers": TRAIN,
    "train --max-bad-fraction": TRAIN,
    "--step": EXPORT,
}
TEXTS = {
    "--dtype": DRAW,
    "--device": DRAW,
    "encode --dtype": ENCODE,
    "encode --device": ENCODE,
    "--fit": IMPORT,
    "--pad-color": (*IMPORT, "--fit", "pad"),
    "--baselines": EVALUATE,
    "--feature-network": EVALUATE,
    "--distance": EVALUATE,
    "evaluate --split": EVALUATE,
    "train --device": TRAIN,
    "--attention": TRAIN,
    "--tracker": TRAIN,
    "export --dtype": EXPORT,
    "--root": CHECK,
    "--text-encoder": CHECK,
    "train --name": TRAIN,
    "export --name": EXPORT,
    "--revision": DRAW,
    "train --tokenizer": TRAIN,
    "train --text-encoder": TRAIN,
    "train --init": TRAIN,
    "train --data": TRAIN,
    "--model": DRAW,
    "draw --tokenizer": DRAW,
    "--lora": DRAW,
    "--prompts": ("generate", "--model", "tiny", "-o", "x/"),
    "--from": ("generate", "--model", "tiny", "-o", "x/"),
    "--image-column": IMPORT,
    "import --split": IMPORT,
}


def _ready(stage: Stage, *names: str) -> None:
    for name in names or ("tiny", "set", "recipe.py", "run", "image.png", "image.bits"):
        stage.copy(name)


def numbers(stage: Stage) -> None:
    """Odd values of numbers: what is none is refused, and nothing is written."""
    _ready(stage)
    option = stage.turn(NUMBERS)
    call, name = NUMBERS[option], option.split()[-1]
    value = stage.pick(NEVER)
    infinite = name in ("--device-gib", "--hang-seconds") and value in ("inf", "1e309")
    done = stage.either(2, *call, f"{name}={value}")
    expect(done is None or infinite, f"it takes {name}={value[:50]!r}:\n{done}")
    value = stage.pick(MAYBE)
    stage.either(2, *call, f"{name}={value}")


def texts(stage: Stage) -> None:
    """Odd values of options that name something: what names nothing is refused, empty ones too."""
    _ready(stage)
    option = stage.turn(TEXTS)
    call, name = TEXTS[option], option.split()[-1]
    value = stage.pick(
        ["", " ", "x" * 5000, "\udcff", "nan", "a\nb", "..", "/dev/null/x", "0", "a/b/c/d", "\u0663", "none"]
    )
    done = stage.either((2, 3), *call, f"{name}={value}")
    fine = (name == "--root" and value == "..") or (name == "--baselines" and value == "none")
    fine |= name == "--name" and value in ("nan", "0", "none")
    if done is not None and not fine:
        expect(name == "--name" or (name == "--data" and value == ".."), f"it takes {name}={value[:50]!r}:\n{done}")


def unknown_options(stage: Stage) -> None:
    """Commands, options and arguments spelt wrong, missing or given twice: refused, with the way to help."""
    _ready(stage)
    call = stage.turn([DRAW, CHECK, IMPORT, INDEX, ENCODE, DECODE, EVALUATE, TRAIN, EXPORT])
    how = stage.pick(["option", "typo", "extra", "no value", "verb"])
    given = {
        "option": (*call, f"--{stage.random.choice(['colour', 'gudance', 'Seed', 'no-such', '-'])}"),
        "typo": (*(word.replace("--", "---", 1) if word.startswith("--") else word for word in call), "---x"),
        "extra": (*call, "another", "argument", "too"),
        "no value": (*call, "--device" if call not in (CHECK, IMPORT, INDEX, EXPORT) else "--bogus"),
        "verb": (call[0][:-1], *call[1:]),
    }[how]
    if how == "extra" and call in (ENCODE, DECODE, EVALUATE):
        return
    stage.refused(2, *given)


def misspelt(stage: Stage) -> None:
    """Names of models that are none: refused, offline too, with what was meant where that can be told."""
    _ready(stage)
    stage.copy("tiny", "a folder/tiny")
    whole = ("icons", "general", "fine", "tiny")
    name = stage.pick(whole)
    place = stage.random.randrange(len(name))
    forms = {
        "typo": name[:place] + "q" + name[place:],
        "case": name.upper(),
        "missing": f"nowhere/{name}",
        "owner": f"bitvar/{name}x",
        "space": f" {name}",
        "dots": f"{name}..",
        "url": f"https://example.org/{name}",
        "deep": f"a/b/{name}",
        "file": "image.png",
        "set": "set",
        "run": "run",
        "other": "adapter-that-is-not",
        "home": f"~/{name}x",
        "null": "/dev/null",
    }
    form = stage.turn(forms)
    calls = [
        lambda given: ("generate", "a dog", "-o", "x.png", "--model", given),
        lambda given: ("tokenizer", "encode", "image.png", "-o", "x.bits", "--tokenizer", given),
        lambda given: ("train", *words(), "--out", "new", "--init", given),
        lambda given: ("convert", given, "new", "--to-official"),
        lambda given: ("models", "info", given),
    ]
    done = stage.refused((1, 2, 3), *stage.random.choice(calls)(forms[form]))
    expect(done.code != 1 or "offline" in done.err.lower() or "hub" in done.err, f"why 1?\n{done}")
    if form == "typo" and name != "tiny" and "generate" in done.words:
        expect("icons" in done.err or name in done.err, f"it does not say what was meant:\n{done}")


def lists(stage: Stage) -> None:
    """Lists of numbers a scale: as many as there are scales, or refused."""
    _ready(stage, "tiny")
    option, count = stage.turn(["--guidance", "--temperature"]), stage.random.randint(1, 6)
    values = [str(round(stage.random.uniform(0, 5), 2)) for _ in range(count)]
    odd = stage.pick(["", "nan", "inf", "-1", "1e9", "x", "1e309", "fine", "fine", "trailing"])
    if odd == "trailing":
        values.append("")
    elif odd != "fine":
        values[stage.random.randrange(count)] = odd
    done = stage.either(2, *DRAW, "--json", f"{option}={','.join(values)}")
    taken = odd == "fine" and count in (1, 3)
    if done is not None:
        expect(taken, f"it takes {option}={values}:\n{done}")
        record = json.loads(done.out)["files"][0]
        got = record["guidance_scale" if option == "--guidance" else "temperature"]
        expect(got == ([float(v) for v in values] if count > 1 else float(values[0])), f"it used {got}:\n{done}")
    else:
        expect(not taken, f"it refuses {option}={values}")


KINDS = {
    "odd numbers": Kind(33, numbers, quick=True),
    "odd texts": Kind(30, texts),
    "unknown options": Kind(9, unknown_options),
    "misspelt": Kind(14, misspelt, quick=True),
    "lists": Kind(8, lists),
}
