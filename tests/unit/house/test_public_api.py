"""The public API is what `public_api.txt` says, typed, and free of surprises for a user's own type checker."""

import difflib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bitvar
from tests.support import public_api

REPOSITORY = Path(__file__).parent.parent.parent.parent

SCRIPT = """
from pathlib import Path

from bitvar import GenerationOutput, ImageCodec, InfinityPipeline, SamplingParams, ScaleEvent, UsageError, train

pipe: InfinityPipeline = InfinityPipeline.from_pretrained("icons", device="cpu")


def draw(prompt: str, *, seed: int) -> list[Path]:
    try:
        out: GenerationOutput = pipe(prompt, seed=seed, guidance_scale=2.0)
    except UsageError as error:
        raise SystemExit(str(error)) from None
    return out.save("images/")


def watch(prompt: str) -> int:
    tokens = 0
    event: ScaleEvent
    for event in pipe.stream(prompt, temperature=0.5):
        tokens = event.tokens_done
    return tokens


codec: ImageCodec = ImageCodec.from_pretrained("fine")
params: SamplingParams = SamplingParams(guidance_scale=(1.0, 2.0), top_k=0)
model: Path = train("recipe.py", data="data", out="runs/mine")
"""


def test_a_change_of_the_public_api_is_a_decision() -> None:
    before, after = public_api.FILE.read_text(encoding="utf-8"), public_api.public_api()
    changed = "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), "promised", "now", lineterm=""))
    assert before == after, f"{changed}\nIf this was decided (docs/stability.md): python -m tests.support.public_api"


def test_a_changed_signature_would_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = Path(shutil.copytree(public_api.ROOT, tmp_path / "bitvar", ignore=shutil.ignore_patterns("pretrained")))
    monkeypatch.setattr(public_api, "ROOT", package)
    file = package / "pipeline" / "text_to_image.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("offload_text: bool = False", "offload_text: bool = True"), encoding="utf-8")
    assert "offload_text: bool=True" in public_api.public_api()
    assert "offload_text: bool=False" in public_api.FILE.read_text(encoding="utf-8")


def test_the_version_is_said_once() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.+)"$', text, flags=re.MULTILINE)[1] == bitvar.__version__  # type: ignore[index]


@pytest.mark.slow
def test_a_strict_type_checker_accepts_a_users_script(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    settings = {
        "typeCheckingMode": "strict",
        "include": ["script.py"],
        "extraPaths": [str(Path(bitvar.__file__).parent.parent)],
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout
