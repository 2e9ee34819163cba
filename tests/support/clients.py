"""Real clients of image APIs: installed into a folder of their own, and run as programs that print what they got.

The environment variable BITVAR_CLIENTS names a folder to keep them in; otherwise they are installed anew. A test is
skipped where a package registry or a program can't be reached.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

CACHE: Final = "BITVAR_CLIENTS"

NPM: Final = {
    "openai": "6.49.0",
    "ai": "6.0.326",
    "@ai-sdk/openai": "3.0.141",
    "@ai-sdk/openai-compatible": "2.0.92",
    "@langchain/core": "1.4.0",
    "@langchain/openai": "1.5.8",
}
"""Packages for Node and their versions, which the tests were written against."""

OPEN_WEBUI: Final = "open-webui==0.12.4"

_UNREACHABLE: Final = re.compile(
    "ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|NewConnectionError|ConnectTimeout"
    "|NameResolutionError|Max retries exceeded|ProxyError|Read timed out"
)
"""What npm and pip say when there is no network."""


def cache_folder(temporary: Path) -> Path:
    """The folder for installed clients.

    Args:
        temporary: Folder to take if the environment names none.
    """
    folder = Path(os.environ.get(CACHE) or temporary)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def node_packages(folder: Path) -> Path:
    """Install the packages for Node, once.

    Returns:
        Folder that has `node_modules`.
    """
    npm = _program("npm")
    target = folder / "node"
    if not (target / "installed").exists():
        target.mkdir(exist_ok=True)
        (target / "package.json").write_text('{"private": true, "type": "module"}')
        wanted = [f"{name}@{version}" for name, version in NPM.items()]
        _install([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *wanted], target)
        (target / "installed").touch()
    return target


def python_packages(folder: Path, name: str, *wanted: str) -> Path:
    """Install packages for Python into a virtual environment of their own, once.

    Args:
        folder: Folder for installed clients.
        name: Name of the environment.
        wanted: Requirements, such as "litellm==1.110.2".

    Returns:
        The environment's interpreter.
    """
    target = folder / name
    python = target / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (target / "installed").exists():
        venv.create(target, with_pip=True, clear=True)
        _install([str(python), "-m", "pip", "install", "--quiet", *wanted], target)
        (target / "installed").touch()
    return python


def wheel_files(folder: Path, requirement: str, *members: str) -> Path:
    """Download a wheel without its dependencies, once, and unpack some of its files.

    Args:
        folder: Folder for installed clients.
        requirement: Package with its version.
        members: Names of the files within the wheel.

    Returns:
        Folder with the files.
    """
    target = folder / requirement.replace("==", "-")
    if not (target / "installed").exists():
        target.mkdir(exist_ok=True)
        _install([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", requirement], target)
        (wheel,) = target.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for member in members:
                archive.extract(member, target)
        wheel.unlink()
        (target / "installed").touch()
    return target


def run_client(command: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a client, which prints a JSON object on its last line.

    Args:
        command: Program and arguments.
        folder: Folder to run it in.
        environment: Further environment variables.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**variables, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_node(packages: Path, script: Path, *arguments: str) -> dict[str, Any]:
    """Run a script of ours beside the installed packages, where Node finds them."""
    copy = packages / script.name
    shutil.copyfile(script, copy)
    return run_client([_program("node"), str(copy), *arguments], packages)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _install(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode and (reason := _UNREACHABLE.search(done.stdout + done.stderr)):
        pytest.skip(f"the package registry can't be reached: {reason[0]}")
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
