"""The documentation site: what is generated for it, and, in the slow tier, its pages in a browser."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer

import bitvar
from bitvar.cli.main import app
from bitvar.serving.http.openapi import openapi_document
from tests.support.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT: Final = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "scripts" / "docs"))

PAGES: Final = (
    "index", "tutorial", "explained", "troubleshooting", "howto/index", "howto/serve", "model", "structure", "training",
    "notebooks/pyramid", "generated/cli", "generated/http-api", "generated/public-api", "generated/api/transformer",
    "generated/cards/icons", "search",
)  # fmt: skip
"""Pages of every kind."""


def test_the_reference_has_every_command_and_option() -> None:
    import command_reference

    page = command_reference.page()
    for words, command in command_reference.commands():
        assert len(words) == 1 or f"# {' '.join(words)}\n" in page
        if not hasattr(command, "commands"):
            section = page.partition(f" {' '.join(words)}\n")[2].partition("\n#")[0]
            options = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
            assert [name for name in options if name not in section and name != "--help"] == []
    assert typer.main.get_command(app).commands.keys() <= {
        words[1] for words, _ in command_reference.commands() if words[1:]
    }  # type: ignore[attr-defined]


def test_the_reference_has_every_route_and_field() -> None:
    import http_reference

    page, document = http_reference.page(), openapi_document()
    assert [path for path in document["paths"] if f" {path}`" not in page] == []
    for name in http_reference.SCHEMAS:
        assert [
            field for field in document["components"]["schemas"][name]["properties"] if f"| `{field}` |" not in page
        ] == []


def test_links_out_of_the_docs_lead_to_pages() -> None:
    import site_extension

    text = "[how](../CONTRIBUTING.md#style) [code](../src/bitvar/bits.py) [page](model.md#bits) [web](https://a.b/c.md)"
    docs = ROOT / "docs"
    assert site_extension.relink(text, docs, docs) == (
        "[how](generated/contributing.md#style) code [page](model.md#bits) [web](https://a.b/c.md)"
    )
    assert site_extension.relink("[t](docs/terms.md)", ROOT, docs / "generated") == "[t](../terms.md)"


def test_docstrings_become_markup_that_says_the_same() -> None:
    import site_extension

    lines = ["Return `a_` of **b, for `x`s: 2 * c | d_."]
    site_extension.escape_docstring(None, "", "", None, None, lines)  # type: ignore[arg-type]
    assert lines == [r"Return ``a_`` of \*\*b, for ``x``\ s: 2 * c \| d\_."]


def test_pages_are_mended_once() -> None:
    import accessibility

    page = (
        '<p class="caption" role="heading">Start</p><aside class="sidebar-drawer"><aside class="toc-drawer no-toc">'
        '<pre>x</pre><dl>\n<dd><em class="sig-param">a</em></dd>\n<dd><em class="sig-param">b</em></dd></dl>'
        '<div id="search-results"></div>'
    )
    mended = accessibility.mend(page)
    for wanted in (
        'aria-level="2"',
        'aria-label="Site"',
        'aria-label="On this page"',
        '<pre tabindex="0"',
        "<h1>Search</h1>",
    ):
        assert mended.count(wanted) == 1
    assert mended.count('<span class="sig-line">') == 2
    assert "<dl>" not in mended
    assert accessibility.mend(mended) == mended


def test_figures_are_small() -> None:
    figures = [*(ROOT / "docs" / "images").glob("explained-*.png"), *(ROOT / "docs" / "images").glob("tutorial-*.png")]
    assert len(figures) == 8
    assert [path.name for path in figures if path.stat().st_size > 300_000] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without running notebooks, or the one that BITVAR_SITE names."""
    built = os.environ.get("BITVAR_SITE")
    if built:
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "scripts/docs/build.py", str(folder), "--no-notebooks"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_pass_axe(site: Path, browser: "Browser", scheme: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    violations = []
    for name in PAGES:
        page.goto(f"file://{site}/{name}.html")
        found = Axe().run(page).response["violations"]
        violations += [(name, rule["id"], rule["nodes"][0]["html"][:120]) for rule in found]
    page.close()
    assert violations == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_window(site: Path, browser: "Browser", width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    wide = []
    for path in sorted(site.rglob("*.html")):
        page.goto(f"file://{path}")
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(str(path.relative_to(site)))
    page.close()
    assert wide == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "title"), [("flash-attn", "Troubleshooting"), ("self-correction", "The model explained")]
)
def test_the_search_works_from_a_disk(site: Path, browser: "Browser", words: str, title: str) -> None:
    page = browser.new_page()
    page.goto(f"file://{site}/search.html?q={words}")
    page.locator("#search-results li a").first.wait_for(timeout=20_000)
    page.wait_for_timeout(1000)
    found = page.locator("#search-results").inner_text()
    page.close()
    assert title in found


@pytest.mark.slow
def test_names_of_code_link_to_the_reference(site: Path) -> None:
    model = (site / "model.html").read_text(encoding="utf-8")
    assert 'href="generated/api/core.html#bitvar.pyramid.encode"' in model
    public = (site / "generated" / "public-api.html").read_text(encoding="utf-8")
    assert [name for name in bitvar.__all__ if f'id="bitvar.{name}"' not in public] == []
    assert "Needs" in (site / "howto" / "official-weights.html").read_text(encoding="utf-8")
