"""Who may import whom (docs/structure.md), and what no file may do."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import bitvar

ROOT = Path(bitvar.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

CORE_ORDER = (
    "errors", "files", "arguments", "finite", "file_kinds", "config", "scales", "official_schedules", "bits",
    "condition", "pyramid",
)  # fmt: skip
"""The files that everything rests on; each may import those before it."""
CORE = set(CORE_ORDER)
MODELS = {"tokenizer", "text", "transformer"}
BASE = {"imaging", "nn", *MODELS, "sampling", "weights", "lora", "runtime", "control"}

# What each room may import besides the core and itself, from the ground up: none may import one further down.
MAY: dict[str, set[str]] = {
    **{name: set() for name in CORE_ORDER},
    "imaging": set(),
    "nn": set(),
    **{name: {"nn", "imaging"} for name in sorted(MODELS)},  # never each other
    "sampling": {"nn", "transformer"},  # it yields latents: no tokenizer
    "weights": {"nn", *MODELS, "sampling"},
    "lora": {"nn", *MODELS, "weights"},
    "runtime": {"nn", *MODELS, "sampling"},
    "control": BASE - {"control", "text", "tokenizer"},
    "costs": {"nn", "transformer", "runtime"},
    "metrics": {"nn", "imaging", "weights"},
    "data": {"imaging"},
    "editing": {"imaging", "nn", "tokenizer", "transformer", "sampling"},
    "instruction": {"nn", *MODELS, "sampling", "weights", "runtime"},
    "pipeline": BASE | {"editing", "instruction"},
    "codec": {"imaging", "nn", *MODELS, "weights", "runtime", "data"},
    "provenance": BASE | {"data", "pipeline", "codec"},
    "safety": {"imaging", "runtime"},
    "training": BASE | {"costs", "metrics", "data", "pipeline", "instruction"},
    "rewriting": set(),
    "bulk": {"sampling", "pipeline"},
    "study": BASE | {"costs", "metrics", "data", "pipeline", "instruction", "training"},
    "evaluation": BASE | {"metrics", "data", "pipeline", "codec", "training", "rewriting", "bulk"},
    "profiling": BASE | {"costs", "metrics", "data", "pipeline", "codec", "training"},
    "serving": BASE | {"costs", "pipeline", "editing", "instruction", "codec", "provenance", "safety"},
    "integrations": BASE | {"editing", "pipeline", "instruction"},
    "icons": BASE | {"editing", "metrics", "data", "pipeline", "instruction", "codec", "training", "evaluation"},
    "pretrained": set(),
}
RESERVED: set[str] = set()
"""Rooms that have a place in the table before they have a file."""
OPTIONAL = {
    "c2pa",
    "cryptography",
    "diffusers",
    "mcp",
    "fastapi",
    "python_multipart",
    "uvicorn",
    "wandb",
    "peft",
    "resvg_py",
    "matplotlib",
    "datasets",
    "torchvision",
    "scipy",
    "ray",
    "trackio",
    "torchmetrics",
}

TWO_HOMES = (
    ("matplotlib", {"training/monitor", "study"}),
    ("ray", {"serving/replicas", "bulk"}),  # Ray Serve and Ray Data
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Every absolute module that a file imports, wherever in it; `from bitvar import x` counts as `bitvar.x`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "ruff refuses relative imports"
            if node.module == "bitvar":
                yield from (f"bitvar.{alias.name}" for alias in node.names)
            else:
                yield node.module


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def files_of(*rooms: str) -> list[Path]:
    return [path for path in FILES if room(path) in rooms]


def parametrized(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


@parametrized([path for path in FILES if room(path) not in ("cli", "__init__", "__main__")])
def test_rooms_import_only_what_they_may(path: Path) -> None:
    here = room(path)
    assert here in MAY, f"{name_of(path)} is in no room of the house: add {here!r} to docs/structure.md and here"
    wanted = {module.split(".")[1] for module in imports(path) if module.startswith("bitvar.")}
    assert wanted - MAY[here] - CORE - {here, "__version__"} == set()


def test_no_room_imports_one_further_up() -> None:
    order = list(MAY)
    for position, name in enumerate(order):
        assert MAY[name] <= set(order[:position]), name


def test_every_room_of_the_table_is_there() -> None:
    rooms = {room(path) for path in FILES} - {"cli", "__init__", "__main__"}
    assert rooms | RESERVED | {"pretrained"} == set(MAY)


def test_the_core_has_no_cycle() -> None:
    for path in files_of(*CORE):
        wanted = {module.split(".")[1] for module in imports(path) if module.startswith("bitvar.")}
        assert wanted <= set(CORE_ORDER[: CORE_ORDER.index(room(path))]), name_of(path)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Whether at the top of a file, inside a function or for type checkers; packages that load names lazily apart."""
    modules = {".".join(("bitvar", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
               for path in FILES}  # fmt: skip
    graph = {name: {found for found in _modules_of(path, modules) if found != name} for name, path in modules.items()}
    assert cycles(graph) == []


def test_a_circle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def _modules_of(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    if path.name == "__init__.py" and "__getattr__" in path.read_text(encoding="utf-8"):
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else node.module for name in inner if node.module in modules)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other, each sorted."""
    reach = {name: set(found) for name, found in graph.items()}
    while True:
        wider = {
            name: set().union(found, *(reach.get(other, set()) for other in found)) for name, found in reach.items()
        }
        if wider == reach:
            break
        reach = wider
    groups = {tuple(sorted(other for other in reach[name] if name in reach.get(other, set()))) for name in reach
              if name in reach[name]}  # fmt: skip
    return sorted(map(list, groups))


@parametrized(files_of(*MODELS))
def test_models_never_import_each_other(path: Path) -> None:
    assert {module.split(".")[1] for module in imports(path) if module.startswith("bitvar.")} & (
        MODELS - {room(path)}
    ) == set()


def test_only_frozen_networks_import_transformers() -> None:
    """The classifier of the safety check is one, too: an architecture of transformers, which a local folder names."""
    users = {name_of(path) for path in FILES if any(m.split(".")[0] == "transformers" for m in imports(path))}
    homes = {"text/encoders.py", "metrics/networks.py", "safety/image_classifier.py"}
    homes |= {f"metrics/scorers/{name}.py" for name in ("answers", "clip", "detector", "imagereward")}
    assert users == homes | {"rewriting/local.py"}  # a language model that rewrites prompts


@pytest.mark.parametrize("package", sorted(OPTIONAL))
def test_an_optional_package_has_one_home(package: str) -> None:
    homes = {name_of(path) for path in FILES if any(m.split(".")[0] == package for m in imports(path))}
    rooms = {home.rsplit("/", 1)[0] for home in homes}
    assert len(rooms) <= 1 or (package, rooms) in TWO_HOMES, homes


def test_only_the_adapters_import_peft() -> None:
    users = {name_of(path) for path in FILES if any(m.split(".")[0] == "peft" for m in imports(path))}
    assert users == {"lora/layers.py"}
    first = [node for node in tree(ROOT / "lora/layers.py").body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "peft" not in " ".join(
        map(ast.unparse, first)
    )  # it takes seconds to load, and may be missing: only where it is used


@parametrized(files_of("nn", "tokenizer", "transformer"))
def test_model_files_know_no_devices_or_modes(path: Path) -> None:
    words = {"cuda", "autocast", "compile", "distributed", "mps"}
    named = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    texts = {
        node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    modules = {part for module in imports(path) for part in module.split(".")}
    assert (named | attributes | texts | modules) & words == set()


@parametrized(FILES)
def test_no_file_loads_code(path: Path) -> None:
    """What ruff has no rule for; unpickling, `eval` and shells are its business (pyproject.toml)."""
    unsafe = {"dill", "cloudpickle", "marshal", "shelve", "joblib"}
    assert {module.split(".")[0] for module in imports(path)} & unsafe == set()
    for name, call in calls(path):
        assert name != "yaml.load", f"{name} at line {call.lineno}"
        if name.endswith("torch.load"):
            safe = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg == "weights_only"}
            assert safe == {"weights_only": True}, f"torch.load at line {call.lineno}"
        assert not any(
            k.arg == "trust_remote_code" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
            for k in call.keywords
        ), f"trust_remote_code at line {call.lineno}"


@parametrized(FILES)
def test_no_weight_is_skipped_in_silence(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.keyword) and node.arg == "strict":
            lax = isinstance(node.value, ast.Constant) and node.value.value is False
            assert not lax or "zip(" in ast.unparse(_call_of(tree(path), node.lineno)), f"strict=False at {node.lineno}"


def _call_of(module: ast.Module, line: int) -> ast.AST:
    """The innermost-looking statement that covers a line, good enough to see what is called there."""
    covering = [
        n for n in ast.walk(module) if isinstance(n, ast.Call) and n.lineno <= line <= (n.end_lineno or n.lineno)
    ]
    return covering[-1]


@parametrized([path for path in FILES if room(path) not in ("cli", "icons")])
def test_nothing_general_knows_the_icon_world(path: Path) -> None:
    assert not any(module.startswith("bitvar.icons") for module in imports(path))
    text = path.read_text(encoding="utf-8").lower()
    assert "3d emoji" not in text and "red apple, " not in text


@parametrized([path for path in FILES if room(path) != "cli"])
def test_nothing_imports_the_command_line(path: Path) -> None:
    if path.name != "__main__.py":
        assert not any(module.startswith("bitvar.cli") for module in imports(path))


@parametrized(FILES)
def test_sources_are_ascii(path: Path) -> None:
    assert path.read_bytes().isascii()


def _loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["bitvar", "bitvar.cli.main"])
def test_help_needs_no_torch(module: str) -> None:
    assert _loaded_by(module) & {"torch", "transformers", "numpy", "PIL", "safetensors", "pydantic"} == set()


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "bitvar", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"bitvar {bitvar.__version__}")


def test_the_public_names_are_sorted_and_all_there() -> None:
    assert list(bitvar.__all__) == sorted(bitvar.__all__)
    assert set(bitvar.__all__) <= set(dir(bitvar))
    assert (ROOT / "py.typed").is_file()  # or type checkers ignore every annotation of an installed package
    for name in bitvar.__all__:
        assert getattr(bitvar, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(bitvar, "nothing")  # noqa: B009
