"""Everything that the docs name exists: paths, functions, links, settings, commands with options, imports, JSON."""

import ast
import functools
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from bitvar.cli.main import app
from bitvar.config import Config

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "src" / "bitvar"
DOCS = [
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "generated" not in page.parts),  # made for the site
    ROOT / "CONTRIBUTING.md",
]

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPERATORS = {"&&", "||", "|", ";", ">"}

SETTING = re.compile(r"([a-z]\w*(?:\.[a-z]\w*)*)(?:/scale_\w)?(?:=.*)?")
SUFFIXES = "py|md|json|jsonl|npy|bin|txt|png|webp|jpg|jpeg|safetensors|pth|tar|html|csv|bits|svg|sh|toml|caption"
FILE = re.compile(rf".*\.({SUFFIXES})")
PROSE = ("model", "training", "tokenizer", "data", "recipes", "performance", "reliability", "python")
FOREIGN = {
    "align_corners": "an argument of PyTorch's interpolation",
    "h_k": "mathematics: rows of a grid",
    "infinity_vae_d32reg": "a file of the official code, without its suffix",
    "torch.save": "PyTorch",
}
"""Names in the docs that belong to others, and to whom."""

each_page = pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for _, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def written_by(page: Path) -> set[str]:
    """Return the names of the files whose text the page gives, for readers to save."""
    return set(re.findall(r"^<!-- file: (.+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE))


def inline(page: Path) -> list[str]:
    return INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of the shell blocks, and every `bitvar ...` with options in running text, as words."""
    lines = [line for text in blocks(page, "bash", "sh") for line in text.replace("\\\n", " ").splitlines()]
    lines += [code for code in inline(page) if re.match(r"bitvar .*--", code) and "..." not in code]
    for line in lines:
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), ";"]:
            if word in OPERATORS:
                if words:
                    yield words
                words = []
            elif words or not re.match(r"\w+=", word):  # settings of the environment come before a command
                words.append(word)


def find(path: str) -> Path | None:
    """A path as the docs write it: from the root of the repository, or from the package."""
    return next((base / path for base in (ROOT, PACKAGE) if (base / path).exists()), None)


def names_in(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def defines(path: Path, dotted: str) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for name in dotted.split("."):
        node = names_in(body).get(name)
        if node is None:
            return False
        body = node.body if isinstance(node, ast.ClassDef) else []
    return True


def parse(words: list[str]) -> None:
    """Read a command line by the command tree, without running it."""
    command: Any = typer.main.get_command(app)
    context = None
    rest = words[1:]
    while hasattr(command, "commands"):
        context = command.make_context(words[0], [], parent=context, resilient_parsing=True)
        assert rest, f"{' '.join(words)}: no verb"
        verb, *rest = rest
        assert verb in command.commands, f"{' '.join(words)}: no verb {verb!r}"
        command = command.commands[verb]
    command.make_context(command.name, list(rest), parent=context)


def test_there_are_docs() -> None:
    assert len(DOCS) > 5
    assert sum(words[0] == "bitvar" for page in DOCS for words in commands(page)) > 20


@each_page
def test_paths_exist(page: Path) -> None:
    wanted = [
        code for code in inline(page) if re.match(r"(src|tests|recipes|scripts|experiments|\.ci)/[\w./-]*$", code)
    ]
    wanted += [code for code in inline(page) if re.fullmatch(r"[\w./-]+\.py", code) and code not in written_by(page)]
    assert [path for path in wanted if find(path) is None] == []


@each_page
def test_functions_exist(page: Path) -> None:
    wanted = [match for code in inline(page) if (match := re.fullmatch(r"([\w./-]+\.py):([\w.]+)", code))]
    missing = []
    for match in wanted:
        path = find(match[1])
        if path is None or not defines(path, match[2]):
            missing.append(match[0])
    assert missing == []


@each_page
def test_dotted_names_import(page: Path) -> None:
    for code in inline(page):
        if re.fullmatch(r"bitvar(\.\w+)+", code) and not code.endswith((".json", ".md", ".png")):
            module, _, name = code.rpartition(".")
            assert hasattr(importlib.import_module(module), name) or importlib.util.find_spec(code), code


@each_page
def test_relative_links_resolve(page: Path) -> None:
    links = [link for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))) if "://" not in link]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []


@each_page
def test_commands_parse(page: Path) -> None:
    for words in commands(page):
        if Path(words[0]).name == "bitvar":
            try:
                parse(words)
            except typer.Exit:  # --help
                pass
            except Exception as error:
                raise AssertionError(f"{shlex.join(words)}: {error!r}") from error


@each_page
def test_scripts_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        if re.fullmatch(r"python3?", Path(words[0]).name) and len(words) > 1 and words[1].endswith(".py"):
            if words[1] in written_by(page):
                continue
            script = ROOT / words[1]
            assert script.is_file(), words[1]
            text = script.read_text(encoding="utf-8")
            assert [word for word in words if word.startswith("--") and f'"{word}"' not in text] == []


@each_page
def test_recipes_that_commands_name_exist(page: Path) -> None:
    for words in commands(page):
        assert [
            word
            for word in words
            if word.startswith(("recipes/", "scripts/", "experiments/")) and not (ROOT / word).is_file()
        ] == []


@each_page
def test_settings_that_commands_give_are_accepted(page: Path) -> None:
    from bitvar.training.recipes import read_recipe

    for words in commands(page):
        if words[:2] == ["bitvar", "train"]:
            settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            given = [words[i + 1] for i, word in enumerate(words) if word == "--recipe-arg"]
            read_recipe(ROOT / words[2], given).override(settings)


@each_page
def test_python_and_json_blocks_are_valid(page: Path) -> None:
    for text in blocks(page, "json"):
        for line in text.splitlines():
            json.loads(line)
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bitvar"):
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@each_page
def test_pages_are_ascii_and_not_wider_than_a_screen(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.isascii()
    assert [line for line in FENCE.sub("", text).splitlines() if len(line) > 140 and not line.startswith("|")] == []


def settings_in(page: Path) -> list[str]:
    """The inline code of a page that looks like a setting: a name in lower case with an underscore or a dot."""
    found = [match[1] for code in inline(page) if not FILE.fullmatch(code) and (match := SETTING.fullmatch(code))]
    return [name for name in found if ("_" in name or "." in name) and not name.startswith("bitvar.")]


def tables_of(page: Path, header: str) -> Iterator[str]:
    """The inline code of the first column of every table whose first column has this header."""
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        first = line.split("|")[1].strip() if line.startswith("|") else None
        if first is None or inside:
            inside = first is not None
            yield from INLINE.findall(first or "")
        else:
            inside = first == header


def nested(config: type[Config], dotted: str) -> bool:
    """Whether a dotted name is a field of a configuration, or of one inside it."""
    name, _, rest = dotted.partition(".")
    if name not in config.model_fields or not rest:
        return name in config.model_fields
    annotation = config.model_fields[name].annotation
    inside = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return any(issubclass(kind, Config) and nested(kind, rest) for kind in inside)


def is_setting(dotted: str) -> bool:
    from bitvar.training.config import TokenizerTraining, TransformerTraining

    return nested(TokenizerTraining, dotted) or nested(TransformerTraining, dotted)


@functools.cache
def names_in_code() -> frozenset[str]:
    """Every name that package and recipes define or use as a key, and every test: the docs name these, too."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= {name for name in names_in(ast.parse(path.read_text(encoding="utf-8")).body) if name[:5] == "test_"}
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]:
        found |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # metrics, fields of JSON, choices
                found.add(node.value.removesuffix("/scale_"))
    return frozenset(found)


def exists(name: str) -> bool:
    """Whether a name of the docs is a setting, or else a name of the package or of somebody else."""
    if name in FOREIGN:
        return True
    return is_setting(name) or ("." not in name and name in names_in_code())


@pytest.mark.parametrize("page", PROSE)
def test_settings_named_in_prose_exist(page: str) -> None:
    assert [name for name in settings_in(ROOT / "docs" / f"{page}.md") if not exists(name)] == []


@each_page
def test_tables_of_settings_name_settings(page: Path) -> None:
    named = [name if name.startswith("model.") or is_setting(name) else f"model.{name}"
             for name in tables_of(page, "setting")]  # fmt: skip
    assert [name for name in named if not is_setting(name)] == []


def test_settings_are_found_in_prose_and_in_tables() -> None:
    assert {"optimization.batch_size", "max_flip_strength", "requantize_after_flip"} <= {
        name for page in PROSE for name in settings_in(ROOT / "docs" / f"{page}.md")
    }
    assert {"commitment", "truncation", "norm", "linear_skip"} <= set(
        tables_of(ROOT / "docs" / "tokenizer.md", "setting")
    )


def test_foreign_names_are_named_and_foreign() -> None:
    named = {name for page in PROSE for name in settings_in(ROOT / "docs" / f"{page}.md")}
    assert FOREIGN.keys() - named == set()
    assert [name for name in FOREIGN if is_setting(name)] == []


@pytest.mark.parametrize("name", ["gamma_scale", "optimization.gamma_scale", "optimization.step", "steps.optimization"])
def test_a_setting_that_does_not_exist_is_noticed(name: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"A recipe may set `{name}`, or `{name}=3`.\n\n| setting | why |\n|---|---|\n| `{name}` | x |\n")
    assert settings_in(page) == [name, name, name]
    assert list(tables_of(page, "setting")) == [name]
    assert not exists(name)


def test_a_wrong_command_is_noticed() -> None:
    for line in ("paint", "convert a", "generate x --colour red", "bench generate --n many"):
        with pytest.raises(Exception, match=r"verb|Missing|[Nn]o such option|valid"):
            parse(["bitvar", *line.split()])


def test_the_script_from_python_runs(tmp_path: Path) -> None:
    """At most 25 lines load a pipeline, generate, read a record, train a toy run and export it."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- script: from-python -->\n```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    script = block[1]
    assert len(script.strip().splitlines()) <= 25
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()[0], done.stdout.splitlines()[-1]
    assert first == "a red apple, 3D emoji 1 64 64"
    assert last.endswith("[(64, 64)]")
