"""What the docs name exists: paths, functions, links, commands with their options, imports, JSON."""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from bitvar.cli.main import app

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "src" / "bitvar"
DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPERATORS = {"&&", "||", "|", ";", ">"}

each_page = pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for _, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


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
    wanted += [code for code in inline(page) if re.fullmatch(r"[\w./-]+\.py", code)]
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
            assert hasattr(importlib.import_module(module), name), code


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


def test_a_wrong_command_is_noticed() -> None:
    for line in ("paint", "convert a", "generate x --colour red", "bench generate --n many"):
        with pytest.raises(Exception, match=r"verb|Missing|[Nn]o such option|valid"):
            parse(["bitvar", *line.split()])
