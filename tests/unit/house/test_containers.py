"""Rules for the container files in `deploy/`, which no other test runs."""

import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from bitvar.cli.serve import serve
from bitvar.serving.http.guard import is_open
from bitvar.serving.http.settings import ServerSettings

REPO = Path(__file__).parents[3]
DOCKERFILES = [REPO / "deploy" / "Dockerfile", REPO / "deploy" / "Dockerfile.cuda"]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]


class Instruction(NamedTuple):
    """An instruction of a Dockerfile, such as `USER 10001`, its continued lines joined."""

    name: str
    value: str


def instructions(text: str) -> list[Instruction]:
    """Parse a Dockerfile. Comments are dropped, also between continued lines."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [Instruction(*(line.split(None, 1))) for line in joined.splitlines()]


def stages(path: Path) -> list[list[Instruction]]:
    """Split the instructions at every FROM."""
    found: list[list[Instruction]] = [[]]
    for instruction in instructions(path.read_text(encoding="utf-8")):
        if instruction.name == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found[1:]


def values(stage: list[Instruction], name: str) -> list[str]:
    return [value for found, value in stage if found == name]


def only(stage: list[Instruction], name: str) -> str:
    [value] = values(stage, name)
    return value


pytestmark = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def test_the_image_runs_as_a_number_that_is_not_root(path: Path) -> None:
    final = stages(path)[-1]
    user, group = only(final, "USER").split(":")
    assert int(user) > 1000
    assert int(group) > 1000
    names = [name for name, _ in final]
    assert "RUN" not in names[names.index("USER") :], "what comes later would not run as root"
    assert f"--uid {user}" in " ".join(values(final, "RUN"))


def test_the_health_check_asks_a_probe_without_a_key_or_a_tool(path: Path) -> None:
    final = stages(path)[-1]
    check = only(final, "HEALTHCHECK")
    command = json.loads(check[check.index("CMD") + len("CMD") :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "the health check", "exec")
    [probe] = re.findall(r"'GET', '([^']+)'", command[2])
    assert is_open(probe)
    assert probe == "/readyz"
    assert f"'127.0.0.1', {only(final, 'EXPOSE')}," in command[2]


def test_the_entry_point_is_a_command_that_exists_and_needs_keys(path: Path) -> None:
    final = stages(path)[-1]
    command = json.loads(only(final, "ENTRYPOINT"))
    assert command[:2] == ["bitvar", "serve"]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    known = {"--" + name.replace("_", "-") for name in inspect.signature(serve).parameters}
    assert options.keys() <= known
    assert options["--host"] == "0.0.0.0"
    assert options["--port"] == only(final, "EXPOSE") == str(ServerSettings().port)
    assert options["--api-key-file"].startswith("/run/secrets/")
    assert options.get("--device") == ("cuda" if path.suffix == ".cuda" else None)
    assert only(final, "STOPSIGNAL") == "SIGTERM"


def test_torch_and_python_are_those_of_the_project(path: Path) -> None:
    *_, final = stages(path)
    [torch] = [entry for entry in PROJECT["dependencies"] if entry.startswith("torch>")]
    assert f'TORCH="{torch}"' in values(final, "ARG")
    assert 'TORCH_INDEX=""' in values(final, "ARG"), "no index is chosen for the user"
    first = instructions(path.read_text(encoding="utf-8"))[0]
    [version] = re.findall(r"python:(3\.\d+)-slim$", first.value)
    assert f">={version}" == PROJECT["requires-python"]


def test_the_wheel_is_installed_with_extras_that_exist(path: Path) -> None:
    build, final = stages(path)
    assert "pip wheel" in only(build, "RUN")
    [extras] = re.findall(r'"\$1\[([a-z,]+)\]"', " ".join(values(final, "RUN")))
    assert {"serve"} <= set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_nothing_is_fetched_by_url_and_no_secret_is_kept(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\bhttps?://|\bcurl\b|\bwget\b|\bapt(-get)?\b", text)
    for stage in stages(path):
        assert values(stage, "ADD") == []
        settings = " ".join(values(stage, "ARG") + values(stage, "ENV"))
        assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD", settings, re.IGNORECASE)
    assert all("--no-cache-dir" in run for stage in stages(path) for run in values(stage, "RUN") if "pip " in run)


def test_a_read_only_root_is_enough(path: Path) -> None:
    final = stages(path)[-1]
    settings = dict(pair.split("=", 1) for pair in " ".join(values(final, "ENV")).split())
    volumes = json.loads(only(final, "VOLUME"))
    assert settings["PYTHONDONTWRITEBYTECODE"] == "1"
    assert "/tmp" in volumes
    assert settings["HOME"] in volumes
    assert any(settings["HF_HOME"].startswith(f"{volume}/") for volume in volumes)
    assert only(final, "WORKDIR") in volumes


def test_only_what_is_copied_enters_the_build(path: Path) -> None:
    build, final = stages(path)
    sources = {source for copied in values(build, "COPY") for source in copied.split()[:-1]}
    ignored = (REPO / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sources == {rule[1:] for rule in rules if rule.startswith("!")}
    assert all((REPO / source).exists() for source in sources)
    assert values(final, "COPY") == [], "the final image has the wheel alone"
