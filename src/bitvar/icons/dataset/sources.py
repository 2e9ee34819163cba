"""Where the icons come from: pinned packages, their licences, and the artwork of each concept.

Packages are fetched by name with `npm pack` and read inside their tarballs, without installing or running anything. A
tarball whose SHA-256 differs from the pinned one is refused. This module knows nothing about scenes.
"""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from bitvar.errors import explain, install_hint
from bitvar.icons.dataset.concepts import Concept
from bitvar.icons.dataset.sprites import trim_to_alpha

_FETCH_SECONDS = 600


@dataclass(frozen=True)
class Artist:
    """One set of drawings: `key` in labels, `style` in captions, `vector` for an Iconify SVG set (else WebP files)."""

    key: str
    style: str
    package: str
    version: str
    sha256: str
    vector: bool

    @property
    def tarball_name(self) -> str:
        """The name of the file that `npm pack` writes."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Licence:
    """The licence of a package's artwork, with names and links as its own metadata gives them."""

    set_name: str
    authors: str
    authors_url: str
    title: str
    url: str


ARTISTS: tuple[Artist, ...] = (
    Artist(
        "noto",
        "Noto emoji",
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        vector=True,
    ),
    Artist(
        "twemoji",
        "Twemoji",
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        vector=True,
    ),
    Artist(
        "fluent-flat",
        "flat emoji",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        vector=True,
    ),
    Artist(
        "fluent-3d",
        "3D emoji",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        vector=False,
    ),
)

PERMISSIVE = frozenset({"Apache-2.0", "CC-BY-4.0", "MIT"})


def fetch_package(artist: Artist, downloads: Path, *, log: Callable[[str], None] | None = None) -> Path:
    """Fetch the artist's tarball into `downloads`, unless it is there already, and return its path.

    Raises:
        RuntimeError: if npm is missing or fails, or if the tarball isn't the pinned one.
    """
    tarball = downloads / artist.tarball_name
    if not tarball.exists():
        if log is not None:
            log(f"fetching {artist.package}@{artist.version}")
        arriving = downloads / f"{artist.key}.partial"
        shutil.rmtree(arriving, ignore_errors=True)
        arriving.mkdir(parents=True)
        _npm_pack(artist, arriving)
        (arriving / artist.tarball_name).replace(tarball)
        arriving.rmdir()
    digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if digest != artist.sha256:
        raise RuntimeError(
            explain(
                f"{tarball} is not {artist.package}@{artist.version} as pinned.",
                f"its SHA-256 is {digest}, expected {artist.sha256}",
                "delete the file and run again; if the digest is the same again, do not use the file, and report it",
            )
        )
    return tarball


def _npm_pack(artist: Artist, folder: Path) -> None:
    npm = shutil.which("npm")
    name = f"{artist.package}@{artist.version}"
    if npm is None:
        todo = f"install Node.js with npm, or put {artist.tarball_name} into {folder.parent}"
        raise RuntimeError(explain(f"Can't fetch {name}.", "the program npm is not on the PATH", todo))
    command = [npm, "pack", name, "--pack-destination", str(folder), "--ignore-scripts"]
    todo = f"check the network and run again, or put {artist.tarball_name} into {folder.parent}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(explain(f"Can't fetch {name}.", f"npm took over {_FETCH_SECONDS} s", todo)) from error
    if done.returncode != 0 or not (folder / artist.tarball_name).exists():
        said = done.stderr.strip()[-500:] or "it wrote no tarball"
        raise RuntimeError(explain(f"Can't fetch {name}.", f"npm pack ended with {done.returncode}: {said}", todo))


def read_licence(artist: Artist, tarball: Path, *, permitted: frozenset[str] = PERMISSIVE) -> Licence:
    """Read the licence in the package's metadata; RuntimeError unless its SPDX identifier is among the permitted."""
    with tarfile.open(tarball) as archive:
        if artist.vector:
            info = json.loads(read_member(archive, "package/info.json"))
            spdx, licence = info["license"]["spdx"], info["license"]
            found = Licence(
                info["name"], info["author"]["name"], info["author"]["url"], licence["title"], licence["url"]
            )
        else:
            package = json.loads(read_member(archive, "package/package.json"))
            spdx, homepage = package["license"], package["homepage"]
            # The package names only its packager; its description names the author of the drawings.
            authors = f"Microsoft (packaged by {package['author'].split(' <')[0]})"
            found = Licence("Fluent Emoji 3D", authors, homepage, spdx, f"{homepage}/blob/master/LICENSE")
    if spdx not in permitted:
        why = f"its metadata says {spdx}; expected one of {', '.join(sorted(permitted))}"
        raise RuntimeError(explain(f"{artist.package} is not openly licensed.", why, "do not use it; report it"))
    return found


def attribution(artists: Sequence[Artist], licences: Mapping[str, Licence], used: Mapping[str, int]) -> str:
    """Write the text that a set must keep with its images.

    Args:
        artists: Artists of the set.
        licences: Licence of each artist, by key.
        used: Number of images of each artist, by key.
    """
    text = io.StringIO()
    text.write(
        "# Where the images come from\n\nEvery image shows drawings of one of these sets, scaled, placed and in\n"
    )
    text.write("part recoloured. Keep this file with the images, and with weights trained on them.\n")
    for artist in artists:
        licence = licences[artist.key]
        text.write(f"\n## {licence.set_name}\n\n")
        text.write(f"- Authors: {licence.authors} ({licence.authors_url})\n")
        text.write(f"- Licence: {licence.title} ({licence.url})\n")
        text.write(f"- Package: {artist.package} {artist.version}\n")
        text.write(f'- Images: {used[artist.key]}, captioned "{artist.style}"\n')
    return text.getvalue()


def render_sprites(artist: Artist, tarball: Path, concepts: Sequence[Concept], *, side: int) -> dict[str, Image.Image]:
    """Render the artist's drawing of each concept, by the concept's name: RGBA, trimmed to its opaque part.

    Vector art is rendered on a `side` x `side` pixel canvas; raster art keeps its own size (256 x 256 before trimming).

    Raises:
        RuntimeError: if the artist lacks any concept; it names them all.
    """
    with tarfile.open(tarball) as archive:
        drawings = _render_vectors(archive, concepts, side) if artist.vector else _read_rasters(archive, concepts)
    missing = [concept.name for concept in concepts if concept.name not in drawings]
    if missing:
        why = f"no drawing for: {', '.join(missing)}"
        raise RuntimeError(explain(f"{artist.package}@{artist.version} is incomplete.", why, "report it"))
    return {name: trim_to_alpha(drawing) for name, drawing in drawings.items()}


def _render_vectors(archive: tarfile.TarFile, concepts: Sequence[Concept], side: int) -> dict[str, Image.Image]:
    icon_set = read_icon_set(archive)
    names = json.loads(read_member(archive, "package/chars.json"))
    drawings = {}
    for concept in concepts:
        key = next((names[code] for code in _code_point_spellings(concept) if code in names), None)
        if key is not None and key in icon_set["icons"]:
            drawings[concept.name] = render_icon(icon_set, key, side=side)
    return drawings


def read_icon_set(archive: tarfile.TarFile) -> dict[str, Any]:
    """Read the drawings of an Iconify package from its `icons.json`."""
    return json.loads(read_member(archive, "package/icons.json"))


def render_icon(icon_set: Mapping[str, Any], name: str, *, side: int) -> Image.Image:
    """Render one drawing of an Iconify set on a `side` x `side` pixel canvas, RGBA; RuntimeError without resvg-py."""
    try:
        import resvg_py
    except ImportError as error:
        raise RuntimeError(
            explain("Can't render the icons.", "the package resvg-py is not installed", install_hint("data"))
        ) from error
    icon = icon_set["icons"][name]
    width, height = (icon.get(axis, icon_set.get(axis, 16)) for axis in ("width", "height"))
    view = f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {view} width="{width}" height="{height}">{icon["body"]}</svg>'
    return Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))).convert("RGBA")


def _read_rasters(archive: tarfile.TarFile, concepts: Sequence[Concept]) -> dict[str, Image.Image]:
    members = set(archive.getnames())
    drawings = {}
    for concept in concepts:
        paths = [f"package/assets/{code}.webp" for code in _code_point_spellings(concept)]
        path = next((path for path in paths if path in members), None)
        if path is not None:
            drawings[concept.name] = Image.open(io.BytesIO(read_member(archive, path))).convert("RGBA")
    return drawings


def _code_point_spellings(concept: Concept) -> tuple[str, ...]:
    # Packages differ in whether they write the variation selector U+FE0F.
    bare = concept.code_point.removesuffix("-fe0f")
    return (concept.code_point, bare, f"{bare}-fe0f")


def read_member(archive: tarfile.TarFile, path: str) -> bytes:
    """Read a file of a package."""
    member = archive.extractfile(path)
    assert member is not None, f"{path} is a folder in the tarball"
    return member.read()
