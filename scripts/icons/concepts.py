r"""Write the table of the sticker set's concepts, `src/bitvar/icons/stickers/concepts.jsonl`.

Names come from emojibase's labels and `concept_names.txt`. The concepts of the 64-pixel set keep the names they have
there. Each row says which drawing of which artist shows the concept; one needs three artists, or a silhouette.

python scripts/icons/concepts.py downloads
"""

import argparse
import json
import re
import subprocess
import tarfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bitvar.cli.echo import say
from bitvar.icons.dataset.concepts import CONCEPTS
from bitvar.icons.dataset.sources import fetch_package, read_member
from bitvar.icons.stickers.artists import ARTISTS, SILHOUETTES

NAMES = Path(__file__).with_name("concept_names.txt")
TABLE = Path("src/bitvar/icons/stickers/concepts.jsonl")
EMOJIBASE = "emojibase-data@17.0.0"
GROUPS = {0: "face", 3: "nature", 4: "food", 5: "place", 6: "activity", 7: "object"}
LEAST_ARTISTS = 3


@dataclass
class Naming:
    """How people call a concept: its name, the plural, and other words."""

    name: str
    plural: str
    synonyms: list[str] = field(default_factory=list)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the table of concepts.")
    parser.add_argument("downloads", type=Path, help="folder for the packages, which are fetched if they are not there")
    downloads = parser.parse_args().downloads
    downloads.mkdir(parents=True, exist_ok=True)
    left_out, namings, silhouettes = read_names(NAMES)
    drawings = {artist.key: Drawings(fetch_package(artist, downloads), vector=artist.vector) for artist in ARTISTS}
    known = {concept.code_point: concept for concept in CONCEPTS}
    rows = []
    for emoji in read_emoji(downloads):
        label, code = emoji["label"], emoji["hexcode"].lower()
        old = known.get(code) or known.get(f"{code}-fe0f") or known.get(code.removesuffix("-fe0f"))
        if emoji.get("group") not in GROUPS and old is None:
            continue
        if label in left_out and old is None:
            continue
        naming = namings.get(label) or Naming(label, plural_of(label))
        if old is not None:
            naming = Naming(old.name, old.plural, [name for name in naming.synonyms if name != old.name])
        found = {key: place for key, drawn in drawings.items() if (place := drawn.find(code, label)) is not None}
        if key := drawings[SILHOUETTES].find_name(naming.name):
            found[SILHOUETTES] = key
        if len(found) < LEAST_ARTISTS:
            say(f"left out: {label}, drawn by {len(found)}")
            continue
        category = old.category if old is not None else GROUPS[emoji["group"]]
        rows.append(row(naming, category, old is not None and old.recolourable, found))
    names = {item["name"] for item in rows}
    for key, naming in silhouettes.items():
        if naming.name not in names:
            rows.append(row(naming, "silhouette", False, {SILHOUETTES: key}))
            names.add(naming.name)
    check(rows)
    TABLE.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows), encoding="utf-8")
    say(f"{len(rows)} concepts, {sum(len(item['drawings']) for item in rows)} drawings")


def row(naming: Naming, category: str, recolourable: bool, drawings: dict[str, str]) -> dict[str, Any]:
    """Make the JSON object of a concept."""
    return {**asdict(naming), "category": category, "recolourable": recolourable, "drawings": drawings}


def check(rows: list[dict[str, Any]]) -> None:
    """Refuse two concepts of one name; take from a concept the synonyms that name another."""
    names = [item["name"] for item in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"named twice: {twice}"
    taken = set(names)
    for item in rows:
        item["synonyms"] = [word for word in item["synonyms"] if word not in taken]
        taken.update(item["synonyms"])


def plural_of(name: str) -> str:
    """Put a noun phrase into the plural by the usual rules."""
    if re.search(r"[^aeiou]y$", name):
        return f"{name[:-1]}ies"
    return f"{name}es" if re.search(r"(s|x|z|ch|sh)$", name) else f"{name}s"


def read_names(path: Path) -> tuple[set[str], dict[str, Naming], dict[str, Naming]]:
    """Read `concept_names.txt`: the labels left out, the namings by label, and the silhouettes by their icon."""
    left_out, namings, silhouettes = set(), {}, {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("- "):
            left_out.add(line[2:].strip())
            continue
        key, _, said = line.removeprefix("+ ").partition(" = ")
        said, _, others = said.partition(" ; ")
        name, _, plural = said.partition(" / ")
        name = name.strip() or key.strip()
        synonyms = [word.strip() for word in others.split(",") if word.strip() and word.strip() != name]
        naming = Naming(name, plural.strip() or plural_of(name), synonyms)
        (silhouettes if line.startswith("+ ") else namings)[key.strip()] = naming
    return left_out, namings, silhouettes


class Drawings:
    """The names of the drawings in one package."""

    def __init__(self, tarball: Path, *, vector: bool) -> None:
        with tarfile.open(tarball) as archive:
            self.files = {Path(name).stem for name in archive.getnames() if name.endswith(".webp")}
            self.vector = vector
            if not vector:
                return
            self.icons = json.loads(read_member(archive, "package/icons.json"))
            codes = "package/chars.json"
            self.codes = json.loads(read_member(archive, codes)) if codes in archive.getnames() else {}

    def find(self, code: str, label: str) -> str | None:
        """Find the drawing of an emoji, by its code points or by its name."""
        spellings = spellings_of(code)
        if not self.vector:
            return next((item for item in spellings if item in self.files), None)
        if self.codes:
            return next((self.codes[item] for item in spellings if self.codes.get(item) in self.icons["icons"]), None)
        return self.find_name(label)

    def find_name(self, label: str) -> str | None:
        """Find a drawing by the name of what it shows."""
        slug = re.sub("[^a-z0-9]+", "-", re.sub("['\u2019]", "", label.lower())).strip("-")
        for name in (slug, slug.replace("-", ""), f"{slug}-face", slug.removesuffix("-face")):
            if name in self.icons["icons"]:
                return name
            if name in self.icons.get("aliases", {}):
                return self.icons["aliases"][name]["parent"]
        return None


def spellings_of(code: str) -> list[str]:
    """List how packages write code points; they differ in the variation selector U+FE0F."""
    bare = "-".join(part for part in code.split("-") if part != "fe0f")
    return [code, bare, f"{bare}-fe0f"]


def read_emoji(downloads: Path) -> list[dict[str, Any]]:
    """Read the emoji of emojibase, fetching the package if it is not there."""
    path = downloads / f"{EMOJIBASE.replace('@', '-')}.tgz"
    if not path.exists():
        subprocess.run(
            ["npm", "pack", EMOJIBASE, "--pack-destination", str(downloads)], check=True, capture_output=True
        )
    with tarfile.open(path) as archive:
        return json.loads(read_member(archive, "package/en/data.json"))


if __name__ == "__main__":
    main()
