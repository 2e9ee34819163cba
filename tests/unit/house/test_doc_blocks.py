"""Every command block of the docs runs, or says what it needs. test_docs.py checks that its commands parse."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.command_blocks import ROOT, blocks_of, executable, pages, run_page

PAGES: Final = pages()
RUN: Final = [page for page in PAGES if executable(page)]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_a_block_that_cannot_run_says_what_it_needs(page: Path) -> None:
    for block in blocks_of(page):
        assert block.kind in ("", "needs", "file", "server"), block.name
        assert bool(block.value.strip()) == (block.kind in ("needs", "file")), block.name


@each_page
def test_a_block_that_runs_reaches_for_nothing_outside(page: Path) -> None:
    """A block that would fetch, install or need a device by its words carries a note."""
    outside = ("pip install", "npm ", "hf download", "docker ", "hf:", "torchrun", "apt-get", "sudo ")
    found = [(block.name, word) for block in blocks_of(page) if block.kind != "needs"
             for word in outside if word in block.text]  # fmt: skip
    assert found == []


def test_blocks_are_read_with_their_comments(tmp_path: Path) -> None:
    page = ROOT / "docs" / "made_up.md"
    text = (
        "```bash\nbitvar doctor\n```\n\n   <!-- needs: a GPU -->\n   ```bash\n   nvidia-smi\n   ```\n"
        "<!-- file: a.py -->\n```python\nx = 1\n```\n\n<!-- server -->\n```bash\nbitvar serve\n```\n```json\n{}\n```\n"
    )
    found = list(blocks_of(page, text))
    assert [(block.kind, block.value, block.text) for block in found] == [
        ("", "", "bitvar doctor\n"), ("needs", "a GPU", "nvidia-smi\n"), ("file", "a.py", "x = 1\n"),
        ("server", "", "bitvar serve\n"),
    ]  # fmt: skip
    assert [text.splitlines()[block.line - 1].strip() for block in found] == [
        block.text.strip() for block in found
    ]  # fmt: skip


def test_most_how_to_guides_run() -> None:
    guides = [page for page in PAGES if page.parent.name == "howto" and page.stem != "index"]
    assert len(guides) >= 8
    assert all(page in RUN for page in guides)
    assert ROOT / "docs" / "tutorial.md" in RUN


def test_a_failing_block_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "made_up.md"
    found = list(blocks_of(page, "x\n```bash\necho before\nfalse\n```\n"))
    monkeypatch.setattr("tests.support.command_blocks.executable", lambda _page: found)
    with pytest.raises(AssertionError, match=r"made_up\.md:3 exits with 1(.|\n)*before"):
        run_page(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    assert run_page(page, tmp_path)
