"""Mend what the theme leaves out for screen readers and keyboards, in the finished pages."""

import re
from pathlib import Path
from typing import Final

REPLACEMENTS: Final = (
    # Captions of the navigation are headings without a level.
    (re.compile(r'<p class="caption" role="heading">'), '<p class="caption" role="heading" aria-level="2">'),
    # Two landmarks of one kind need names.
    (re.compile(r'<aside class="sidebar-drawer">'), '<aside class="sidebar-drawer" aria-label="Site">'),
    (re.compile(r'<aside class="toc-drawer( no-toc)?">'), r'<aside class="toc-drawer\1" aria-label="On this page">'),
    # A long line can only be read with the keyboard if its block can have the focus.
    (re.compile(r"<pre(?! tabindex)"), '<pre tabindex="0"'),
    # The title of the page of search results is written by a script, and is a heading of the second level.
    (re.compile(r'(?<!</h1>)<div id="search-results">'), '<h1>Search</h1><div id="search-results">'),
)


PARAMETERS: Final = re.compile(r'<dl>\s*(?:<dd><em class="sig-param">.*?</dd>\s*)+</dl>', re.DOTALL)
"""The parameters of a long signature, laid out as a list of definitions without terms."""


def mend(text: str) -> str:
    """Return a page with levels, names, places in the order of focus, and sound lists; twice changes nothing."""
    for pattern, replacement in REPLACEMENTS:
        text = pattern.sub(replacement, text)
    return PARAMETERS.sub(lambda match: _as_lines(match[0]), text)


def _as_lines(parameters: str) -> str:
    for tag, name in (("dl", "sig-params"), ("dd", "sig-line")):
        parameters = parameters.replace(f"<{tag}>", f'<span class="{name}">').replace(f"</{tag}>", "</span>")
    return parameters


def mend_folder(folder: Path) -> None:
    """Mend every page of a built site."""
    for path in folder.rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        after = mend(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
