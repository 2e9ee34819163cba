"""The package speaks the field's language: no word of the old private vocabulary, and no fragments in docstrings.

`BANNED_TEXT` lists distinctive words that may stand nowhere in the source. `BANNED_NAMES` lists ordinary English words
that are fine in prose but say too little as the name of a class, function, method, parameter or field. Each exception
names its place and its reason, and has to be needed.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import bitvar

ROOT = Path(bitvar.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

BANNED_TEXT = {
    r"pictures?": "image",
    r"contenders?": "candidate",
    r"contests?": "ReconstructionComparison",
    r"tall(?:y|ies)": "MetricAccumulator",
    r"jur(?:y|ies)": "Judge",
    r"onlookers?": "CachedJudge",
    r"sights?|sightings?": "Detections, Detection",
    r"verdicts?": "Judgement",
    r"lighten(?:s|ed|ing)?": "compile_blocks, activation_checkpointing",
    r"go_through": "validate, iterate",
    r"own cases?|shuffled cases?": "matched, shuffled-prompt baseline",
    r"given_bits": "PrefixBits",
    r"per[-_]part": "micro_batch_size",
    r"first_place": "global_index",
    r"latents?_of": "decode_latent, cumulative_latents",
    r"closed[ _-]loop": "iterative refinement",
    r"tints?": "block-mean error",
    r"wordings?": "caption_templates",
    r"lessons?": "JudgeTrainingSet",
    r"begun_from": "base_sha256",
    r"load_initial": "load_pretrained",
    r"disturbed": "corrupted",
    r"requantized": "requantize_after_flip",
    r"guises?": "say which form is meant",
    r"the ruler": "the scenes benchmark",
    r"so many": "a number, or 'as many as'",
    r"let(?: it| them)? alone count": "make it the only active one",
    r"that which": "name the thing",
}
"""Patterns that no source file may hold, whatever their case, with the word to use instead."""

BANNED_NAMES = {
    "alike": "name the comparison",
    "beat": "heartbeat",
    "case": "EvalItem",
    "cases": "items",
    "each": "name one of the things",
    "finding": "MetricResult",
    "findings": "results",
    "found": "name the thing",
    "fresh": "build_model",
    "good": "Accepted",
    "look": "detect",
    "made": "name the thing",
    "making": "GenerationSettings",
    "measure": "Metric, or a verb with its object",
    "measures": "metrics",
    "most": "max_...",
    "part": "MicroBatch",
    "parts": "micro_batches",
    "passes": "refine_steps",
    "ranks": "DistributedContext",
    "refusal": "Rejected",
    "show": "log_image",
    "tell": "log",
    "thing": "ObjectSpec",
    "things": "objects",
    "track": "log_metrics",
    "units": "fsdp_units",
    "which": "..._index",
    "work": "Cost, sample_cost",
    "works": "costs",
}
"""Names that no class, function, method, parameter or field may have, with the name to use instead."""

BANNED_CALLABLES = {
    "begin": "start_decoding",
    "first": "broadcast_from_main",
    "initialize": "init_weights",
    "online": "streaming",
    "steps": "encode_scales",
}
"""Names that no class, function or method may have; a number of `steps` or a `first` index is fine."""

TEXT_EXCEPTIONS: dict[str, tuple[str, str]] = {
    "icons/dataset/caption_templates.py": (r"pictures?", "captions are quotations: users write 'a picture of'"),
    "icons/dataset/scene_spec.py": (r"pictures?", "captions are quotations: users write 'a picture of'"),
    "icons/dataset/sprites.py": (r"tints?", "the word of graphics for giving a sprite another colour"),
    "data/records.py": (r"pictures?", "cameras and people name files so"),
}
NAME_EXCEPTIONS: dict[tuple[str, str], str] = {
    ("scales.py", "first"): "ScaleSchedule.first gives the schedule of the first scales",
    ("scales.py", "steps"): "ScaleSchedule.steps gives the steps of generation",
    ("codec/bitfile.py", "first"): "BitFile.first gives the file of the first scales",
    ("condition.py", "parts"): "TextCondition.join joins conditions, no micro-batches",
    ("icons/benchmark/alignment.py", "found"): "a key of reports: the share of images that were found by their prompt",
    ("lora/file.py", "part"): "A, B or alpha of an adapter's layer",
    ("lora/names.py", "part"): "A, B or alpha of an adapter's layer",
    ("lora/file.py", "ranks"): "ranks of LoRA matrices, no processes",
    ("runtime/placement.py", "part"): "a module of a pipeline",
    ("runtime/placement.py", "parts"): "the modules of a pipeline",
    ("tokenizer/tiling.py", "part"): "a slice of an image",
    ("training/engine/identity.py", "parts"): "what a run is made of, in checkpoints by that name",
    ("training/transformer/feature_cache.py", "part"): "images or captions of a feature file",
    ("weights/digests.py", "part"): "a subfolder of a model folder",
}
"""A file and a banned name that it may have, and the reason."""

FRAGMENT = re.compile(r"^\s*\*{0,2}[a-z_]\w*(?:, \*{0,2}[a-z_]\w*)*: +[Oo]f\b")
"""A line such as "seed: of every permutation"."""


class Finding(NamedTuple):
    """One place where a file breaks a rule."""

    line: int
    text: str
    instead: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text!r} (instead: {self.instead})"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def banned_text(source: str) -> Iterator[tuple[str, Finding]]:
    """Every banned pattern in a source text: in prose, in snake_case and in CamelCase, also across a line break."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", source)
    for pattern, instead in BANNED_TEXT.items():
        spaced = pattern.replace(" ", r"[\s#]+") if "[ " not in pattern else pattern.replace("[ ", r"[\s")
        for match in re.finditer(rf"(?<![A-Za-z])(?:{spaced})(?![A-Za-z])", split, re.IGNORECASE):
            yield pattern, Finding(split.count("\n", 0, match.start()) + 1, match[0], instead)


def names(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line and name of every class, function, method, parameter and field, and whether it can be called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, node.name, True
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    yield item.lineno, item.target.id, False
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, True
            arguments = node.args
            optional = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
            for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *optional]:
                yield argument.lineno, argument.arg, False


def banned_names(tree: ast.AST) -> Iterator[tuple[str, Finding]]:
    """Every banned name, without underscores around it and in lower case, and its place."""
    for line, name, is_callable in names(tree):
        plain = name.strip("_").lower()
        instead = BANNED_NAMES.get(plain) or (BANNED_CALLABLES.get(plain) if is_callable else None)
        if instead is not None:
            yield plain, Finding(line, name, instead)


def prose(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """First line and text of every docstring, including those of attributes and constants, and of every help text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
        elif isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
            yield node.value.lineno, str(node.value.value)


def fragments(tree: ast.AST) -> Iterator[Finding]:
    """Every docstring, help text or line about an argument that begins with "of" and so isn't a phrase of its own."""
    for start, text in prose(tree):
        if re.match(r"\s*of\b", text, re.IGNORECASE):
            yield Finding(start, text.strip().splitlines()[0], "an imperative or a full noun phrase")
        for offset, line in enumerate(text.splitlines()):
            if FRAGMENT.match(line):
                yield Finding(start + offset, line.strip(), "a full noun phrase, such as 'seed: Seed of the order'")


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def require_none(findings: dict[str, list[Finding]]) -> None:
    lines = [f"{name}, {finding}" for name, found in findings.items() for finding in sorted(found)]
    assert not lines, f"{len(lines)} places in {sum(map(bool, findings.values()))} files:\n" + "\n".join(lines)


def test_no_private_word_is_left() -> None:
    findings = {}
    for path in FILES:
        allowed = TEXT_EXCEPTIONS.get(name_of(path), ("", ""))[0]
        texts = banned_text(path.read_text(encoding="utf-8"))
        findings[name_of(path)] = [finding for pattern, finding in texts if pattern != allowed]
    require_none(findings)


def test_names_say_what_they_name() -> None:
    findings = {}
    for path in FILES:
        file = name_of(path)
        findings[file] = [f for name, f in banned_names(parsed(path)) if (file, name) not in NAME_EXCEPTIONS]
    require_none(findings)


def test_descriptions_are_whole_phrases() -> None:
    require_none({name_of(path): list(fragments(parsed(path))) for path in FILES})


def test_no_exception_is_left_over() -> None:
    for file, (pattern, _) in TEXT_EXCEPTIONS.items():
        source = (ROOT / file).read_text(encoding="utf-8")
        assert pattern in {p for p, _ in banned_text(source)}, f"{file} no longer needs its exception"
    for file, name in NAME_EXCEPTIONS:
        assert name in {n for n, _ in banned_names(parsed(ROOT / file))}, (
            f"{file} no longer needs its exception for {name!r}"
        )


def test_the_rules_see_what_they_forbid() -> None:
    lines = ["class PictureCodec:", "    num_pictures = 3", "    # so", "    # many", "    closed_loop = given_bits"]
    text = "\n".join([*lines, "    depicted = 1", ""])
    assert sorted(finding.line for _, finding in banned_text(text)) == [1, 2, 3, 5, 5]
    docstring = '"""Of it.\n\n    Args:\n        most: of them.\n        seed: Seed of it.\n    """\n'
    tree = ast.parse(
        f"def look(most, *, seed):\n    {docstring}class Part:\n    made: int\n    first: int\n    found = 3\n"
    )
    assert {finding.text for _, finding in banned_names(tree)} == {"look", "most", "Part", "made"}
    assert [finding.line for finding in fragments(tree)] == [2, 5]
