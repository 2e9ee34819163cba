"""Command blocks of the docs: which of them can run, and running those of a page in a folder of their own.

A block of `bash` or `python` in a page runs as it stands, unless an HTML comment in the line above it says otherwise:

- `<!-- needs: WHAT -->`: it needs something that a fresh machine lacks, so it isn't run; the site shows the note.
- `<!-- server -->`: it starts a server, which runs until the end of the page.
- `<!-- file: NAME -->`: its text is saved as that file, for blocks below it.
"""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

ROOT: Final = Path(__file__).parents[2]
BLOCK: Final = re.compile(
    r"(?:^(?P<comment> *<!-- [^\n]* -->)\n)?"
    r"^(?P<indent> *)```(?P<language>bash|sh|python|json|text)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
COMMENT: Final = re.compile(r" *<!-- (?P<kind>needs|file|server|script|command)(?:: (?P<value>.+))? -->")
NEEDS_OF_PAGES: Final = {
    "gpu.md": "a GPU",
    "experiments.md": "hours",
    "log.md": "hours",
    "CONTRIBUTING.md": "the network",
    "README.md": "the network, or what tests/unit/house/test_readme.py stands in for",
}
"""Pages none of whose blocks run, and the reason."""


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        page: The page.
        line: Its first line, counted from 1.
        language: `bash` or `python`.
        text: Its text, without indentation.
        kind: What the comment above it says: `needs`, `file`, `server`, or "" where it runs as it stands.
        value: What stands behind the colon of that comment.
    """

    page: Path
    line: int
    language: str
    text: str
    kind: str
    value: str

    @property
    def name(self) -> str:
        """The place, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """List every page with command blocks that readers may type."""
    docs = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "generated" not in path.parts]
    return [*docs, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def blocks_of(page: Path, text: str | None = None) -> Iterator[Block]:
    """Yield the command blocks of a page."""
    source = page.read_text(encoding="utf-8") if text is None else text
    for match in BLOCK.finditer(source):
        comment = COMMENT.fullmatch(match["comment"] or "")
        kind = comment["kind"] if comment else ""
        value = (comment["value"] or "") if comment else ""
        if kind in ("script", "command"):  # other tests know these blocks
            kind, value = "", ""
        if match["language"] in ("json", "text") and kind != "file":
            continue
        if page.name in NEEDS_OF_PAGES and kind != "needs":
            kind, value = "needs", NEEDS_OF_PAGES[page.name]
        indent = len(match["indent"])
        body = "".join(line[indent:] for line in match["text"].splitlines(keepends=True))
        line = source.count("\n", 0, match.start("language")) + 2
        language = "bash" if match["language"] == "sh" else match["language"]
        yield Block(page, line, language, body, kind, value)


def executable(page: Path) -> list[Block]:
    """List the blocks of a page that can run, files and servers included; none if it has only files."""
    chosen = [block for block in blocks_of(page) if block.kind != "needs"]
    return chosen if any(block.kind != "file" for block in chosen) else []


def run_page(page: Path, folder: Path) -> list[tuple[Block, float]]:
    """Run the blocks of a page in order, in a folder that has what readers are assumed to have.

    Args:
        page: The page.
        folder: An empty folder.

    Returns:
        Each block with its seconds.

    Raises:
        AssertionError: with the output, for a block that fails.
    """
    prepare(folder)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONWARNINGS": "default",
        "HF_HUB_OFFLINE": "1",
    }
    times = []
    with ExitStack() as servers:
        for block in executable(page):
            started = time.perf_counter()
            if block.kind == "file":
                (folder / block.value).write_text(block.text, encoding="utf-8")
            elif block.kind == "server":
                servers.enter_context(_server(block, folder, environment))
            else:
                _run(block, folder, environment)
            times.append((block, time.perf_counter() - started))
    return times


def prepare(folder: Path) -> None:
    """Put links to the clone, and the files that the pages call yours, into a folder."""
    from PIL import Image, ImageDraw

    for name in ("recipes", "scripts", "src", "docs", "experiments"):
        (folder / name).symlink_to(ROOT / name)
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 14, 54, 58), fill="#c8281e")
    draw.rectangle((28, 4, 34, 16), fill="#4c8b2b")
    for name in ("photo.jpg", "photo.png"):
        image.resize((128, 128)).save(folder / name)
    (folder / "my_images").mkdir()
    for index, colour in enumerate(("red", "orange", "gold", "green", "teal", "blue", "purple", "brown")):
        tinted = image.copy()
        ImageDraw.Draw(tinted).ellipse((10, 14, 54, 58), fill=colour)
        tinted.save(folder / "my_images" / f"ball-{index}.png")
        (folder / "my_images" / f"ball-{index}.txt").write_text(f"a {colour} ball\n")
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).rectangle((0, 12, 31, 38), fill=255)
    mask.save(folder / "mask.png")
    (folder / "prompts.jsonl").write_text('{"prompt": "a red apple, 3D emoji", "seed": 1}\n')
    for name in ("a.png", "car.png"):
        image.save(folder / name)
    (folder / "apple.png").write_bytes(drawn_apple())
    shutil.copy(ROOT / "docs" / "images" / "drawing-car.png", folder / "drawing.png")


@functools.cache
def drawn_apple() -> bytes:
    """Return an image file that bitvar wrote, with its settings inside."""
    from bitvar import InfinityPipeline

    with tempfile.TemporaryDirectory() as folder:
        (path,) = InfinityPipeline.from_pretrained()("a red apple, 3D emoji", seed=0).save(f"{folder}/")
        return Path(path).read_bytes()


def _run(block: Block, folder: Path, environment: dict[str, str]) -> None:
    if block.language == "python":
        command = [sys.executable, "-c", block.text]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.name} exits with {done.returncode}:\n{block.text}\n{done.stdout[-3000:]}"


@contextmanager
def _server(block: Block, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    port = re.search(r"--port (\d+)", block.text)
    address = f"http://127.0.0.1:{port[1] if port else 8000}/readyz"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {block.text}"], cwd=folder, env=environment, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        _wait_for(address, process, folder / "server.log")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"{address} never answered:\n{log.read_text(errors='replace')[-3000:]}")
