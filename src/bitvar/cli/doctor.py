"""`bitvar doctor`: report on installed packages, devices and embedded models. Works without torch."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bitvar.cli.exit_codes import RUNTIME, WEIGHTS, exit_codes
from bitvar.cli.threads import describe_threads
from bitvar.cli.torch_build import TorchBuild, explain_build, find_torch_build, how_to_shrink

PACKAGES = ("bitvar", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "pillow")
PRETRAINED = (
    "icons",
    "general",
    "fine",
    "lines",
    "icons_editor",
    "scene_judge",
    "sticker_judge",
    "scene_alignment",
    "efficientnet_lite0",
    "mobilenet_v2",
)
"""Folders of `pretrained` that ship with the package."""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False) -> None:
    """Check the installation and suggest a command to run next."""
    with exit_codes():
        build = find_torch_build()
        facts, fix = _facts(build), how_to_shrink(build)
        if as_json:
            typer.echo(json.dumps(facts | {"to free space": fix}))
        else:
            for name, value in facts.items():
                typer.echo(f"{name:<16} {value}")
            if fix is not None:
                typer.echo(f"\n{fix}")
        if facts["embedded models"] != "present" or facts["torch"] == "missing":
            raise typer.Exit(RUNTIME if facts["torch"] == "missing" else WEIGHTS)


def _facts(build: TorchBuild) -> dict[str, Any]:
    versions = {name: _version(name) for name in PACKAGES}
    gpu = _gpu()
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    models = Path(__file__).parent.parent / "pretrained"
    absent = [name for name in PRETRAINED if not (models / name / "SHA256SUMS.json").is_file()]
    mac = sys.platform == "darwin" and platform.machine() == "arm64"
    device = "cuda" if gpu else "mps" if mac else "cpu"
    return {
        "python": platform.python_version(),
        **versions,
        "torch build": explain_build(build),
        "processors": os.cpu_count(),
        **describe_threads(),
        "gpu": gpu or "none found",
        "will run on": f"{device}, {'bf16' if gpu else 'fp32'}",
        "free disk": f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB here",
        "hub cache": str(cache),
        "hub token": "present" if os.environ.get("HF_TOKEN") or (cache / "token").is_file() else "none (not needed)",
        "embedded models": f"{', '.join(absent)} missing: reinstall bitvar" if absent else "present",
        "next": 'bitvar generate "a red apple, 3D emoji"',
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _gpu() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip().replace("\n", "; ")
