"""The page under pa11y, whose two engines find what axe alone does not. Needs `npm install -g pa11y`."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.support.browser import chromium_path
from tests.unit.serving.page.stub_server import CARD, StubServer, drawn

DRAWN = [
    "set field #prompt to a cat",
    "click element #go",
    "wait for element .tools button:nth-child(4) to be visible",
]
STATES = {
    "empty": ["wait for element .examples button to be visible"],
    "one image": DRAWN,
    "help": [*DRAWN, "click element #help-button"],
    "history": [*DRAWN, "click element #history-button"],
    "code": [*DRAWN, "click element .tools button:nth-child(3)"],
}


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("state", STATES)
def test_pa11y_finds_nothing(stub: StubServer, tmp_path: Path, state: str, width: int) -> None:
    stub.card, stub.draw = {**CARD, "alpha": True}, partial(drawn, alpha=True)
    pa11y = shutil.which("pa11y")
    if pa11y is None:
        pytest.skip("needs pa11y: PUPPETEER_SKIP_DOWNLOAD=1 npm install -g pa11y")
    config = {
        "actions": STATES[state],
        "chromeLaunchConfig": {"executablePath": chromium_path(), "args": ["--no-sandbox"]},
        "reporter": "json",
        "runners": ["axe", "htmlcs"],
        "standard": "WCAG2AA",
        "viewport": {"width": width, "height": 800},
    }
    file = tmp_path / "pa11y.json"
    file.write_text(json.dumps(config))
    command = [pa11y, "--config", str(file), stub.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    issues = [issue for issue in json.loads(done.stdout) if not issue["runnerExtras"].get("needsFurtherReview")]
    assert [(issue["code"], issue["selector"]) for issue in issues] == []
