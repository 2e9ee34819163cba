"""What the site does beyond Sphinx: generated pages, links out of docs/, labels of command blocks, links from code.

Pages in docs/ are written for a code host first. On the site, links to files of the repository lead to the pages made
from them, `<!-- needs: ... -->` above a block becomes a visible label, and names such as `pyramid.py:encode` link to
the API reference.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, get_origin

import accessibility
import command_reference
import http_reference
import module_reference
from docutils import nodes
from sphinx.application import Sphinx

ROOT: Final = Path(__file__).parents[2]
GENERATED: Final = ROOT / "docs" / "generated"
PACKAGE: Final = ROOT / "src" / "bitvar"
COPIES: Final = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    **{
        str(card.relative_to(ROOT)): f"cards/{card.parent.name}.md"
        for card in sorted((PACKAGE / "pretrained").glob("*/README.md"))
    },
}
"""Files of the repository that become pages, and the pages' names below docs/generated."""

NEEDS: Final = re.compile(r"^( *)<!-- needs: (.+) -->$", re.MULTILINE)
LINK: Final = re.compile(r"(\[[^\]]*\])\(([^)\s#:]+)(#[^)\s]*)?\)")
SUFFIX: Final = re.compile(r"(\[[\w-]+)\.md\]\(")
"""The suffix of a page in the words of a link, which means nothing on the site."""

MARKS: Final = re.compile(r"(?<!\w)\*(?=\**\w)|(?<=\w)_(?=\W|$)|\|")
"""Characters that reStructuredText would read as emphasis, as a link, or as a substitution."""

GLOB: Final = re.compile(r"^([\w/-]+\*)\n", re.MULTILINE)
"""An entry of a table of contents for pages that may not exist yet."""

CODE: Final = re.compile(r"(?:src/bitvar/)?([\w/]+)\.py(?::([\w.]+))?")
FRONT_MATTER: Final = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension to a build."""
    app.connect("config-inited", lambda _app, _config: write_pages())
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_public_name)
    app.connect("doctree-resolved", link_code)
    app.connect("missing-reference", ignore_foreign)
    app.connect("build-finished", lambda built, _error: accessibility.mend_folder(Path(built.outdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages() -> None:
    """Write the generated pages, and leave those that are up to date."""
    wanted = dict(generated_pages())
    for name, text in wanted.items():
        path = GENERATED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in GENERATED.rglob("*.md"):
        if str(path.relative_to(GENERATED)) not in wanted:
            path.unlink()


def generated_pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every generated page."""
    yield "cli.md", command_reference.page()
    yield "http-api.md", http_reference.page()
    yield from module_reference.pages()
    for source, name in COPIES.items():
        text = FRONT_MATTER.sub("", (ROOT / source).read_text(encoding="utf-8"))
        yield name, relink(text, (ROOT / source).parent, (GENERATED / name).parent)


def relink(text: str, folder: Path, new_folder: Path) -> str:
    """Rewrite the relative links of a page so that they hold on the site.

    Args:
        text: The page.
        folder: Folder of the repository from which its links start.
        new_folder: Folder from which they start on the site.
    """

    def replace(match: re.Match[str]) -> str:
        label, link, anchor = match[1], match[2], match[3] or ""
        target = (folder / link).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return match[0]
        name = str(target.relative_to(ROOT))
        if name in COPIES:
            target = GENERATED / COPIES[name]
        elif not target.is_relative_to(ROOT / "docs"):
            return label[1:-1]  # a file that is no page: its name alone
        return f"{label}({os.path.relpath(target, new_folder)}{anchor})"

    return LINK.sub(replace, text)


def read_source(app: Sphinx, document: str, source: list[str]) -> None:
    """Prepare a page that was written for a code host."""
    if document.startswith("generated/") or app.env.doc2path(document).suffix != ".md":
        return
    folder = (Path(app.srcdir) / document).parent
    text = SUFFIX.sub(r"\1](", relink(source[0], folder, folder))
    text = GLOB.sub(lambda match: match[0] if any(folder.glob(match[1])) else "", text)
    source[0] = NEEDS.sub(lambda match: f"{match[1]}{{.needs}}\n{match[1]}Needs {match[2]}.\n", text)


def escape_docstring(_app: Sphinx, _kind: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Make literals of `code`, and characters of the marks of reStructuredText that are not meant as such."""
    lines[:] = [_escaped(line) for line in lines]


def _escaped(line: str) -> str:
    pieces = re.split(r"(``[^`]+``|`[^`]+`)", line)
    return "".join(
        f"``{piece.strip('`')}``" + ("\\ " if _joins(pieces, index) else "")
        if piece.startswith("`")
        else MARKS.sub(r"\\\g<0>", piece)
        for index, piece in enumerate(pieces)
    )


def _joins(pieces: list[str], index: int) -> bool:
    return index + 1 < len(pieces) and bool(re.match(r"\w", pieces[index + 1]))


def skip_public_name(_app: Sphinx, kind: str, name: str, value: Any, skip: bool, _options: object) -> bool | None:
    """Leave public names out of the pages of modules, since they stand on their own page, and types with patterns."""
    public = kind == "module" and f"{getattr(value, '__module__', '')}.{name}" in module_reference.public_names()
    if public or get_origin(value) is Annotated:
        return True
    return skip or None


def link_code(app: Sphinx, doctree: nodes.document, document: str) -> None:
    """Turn `pyramid.py:encode` in running text into a link to the reference."""
    objects = app.env.domains.python_domain.objects
    for literal in list(doctree.findall(nodes.literal)):
        match = CODE.fullmatch(literal.astext())
        if match is None or isinstance(literal.parent, nodes.reference):
            continue
        name = f"bitvar.{match[1].replace('/', '.')}" + (f".{match[2]}" if match[2] else "")
        for home, public in module_reference.public_names().items():
            if name == home or name.startswith(f"{home}."):
                name = public + name.removeprefix(home)
        if name in objects:
            entry = objects[name]
            address = app.builder.get_relative_uri(document, entry.docname) + f"#{entry.node_id}"
            literal.replace_self(nodes.reference("", "", literal.deepcopy(), internal=True, refuri=address))


def ignore_foreign(_app: Sphinx, _env: object, node: Any, content: nodes.Element) -> nodes.Element | None:
    """Accept names of types that the site doesn't describe: those of other packages, and private ones."""
    return content if node.get("refdomain") == "py" else None
