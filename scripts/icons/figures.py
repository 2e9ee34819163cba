r"""The tables of the embedded model's measurements, from one file, so that its card and docs/ can't disagree.

python scripts/icons/figures.py --data data/icons64 --scenes scenes/report.json --spoilt runs/spoilt/report.json

`--data` measures the embedded model's scales on that icon set (a few minutes), `--scenes` and `--spoilt` take reports
of `bitvar evaluate scenes`: of `icons`, and of real scenes spoilt by `scripts/icons/spoil.py`. What the tables need of
them is kept in `docs/figures.json`, and the tables are written into the pages. Without options, the pages are written
anew.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from runpy import run_path
from typing import Any, Final

from bitvar.icons.dataset.prompts import SKILLS, SPLITS
from bitvar.weights.hub import EMBEDDED_MODEL

ROOT: Final = Path(__file__).parents[2]
FIGURES: Final = ROOT / "docs" / "figures.json"
CARD: Final = EMBEDDED_MODEL / "README.md"
MODEL: Final = "icons"
NAMES: Final = dict(
    zip(
        SKILLS,
        ("single object", "two objects", "counting", "colours", "position", "colour attribution", "style"),
        strict=True,
    )
)
MEASURED: Final = {
    "val": "bit accuracy, validation",
    "held_out_combination": "held-out combination",
    "held_out_prompt": "held-out prompt",
}
SPOILT: Final = ("mirrored", "recoloured", "blurred", "noise")
Figures = Mapping[str, Any]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Keep the embedded model's figures, and write their tables.")
    parser.add_argument("--data", type=Path, help="the icon set, to measure the embedded model's scales on")
    parser.add_argument("--scenes", type=Path, help="report.json of `bitvar evaluate scenes` of icons")
    parser.add_argument("--spoilt", type=Path, help="report.json of the spoilt scenes")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.data is not None:
        found["scales"] = keep_scales(measure_embedded(options.data))
    for name in ("scenes", "spoilt"):
        if (report := getattr(options, name)) is not None:
            found[name] = keep_scenes(json.loads(report.read_text(encoding="utf-8")))
    for page, tables in pages(keep(FIGURES, **found)).items():
        text = page.read_text(encoding="utf-8")
        for table in tables:
            text = with_table(text, table)
        page.write_text(text, encoding="utf-8")


def keep(file: Path, **found: Any) -> Figures:
    """Put what was found into the file, and return all that it holds then."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(kept | found, indent=1) + "\n", encoding="utf-8")
    return kept | found


def measure_embedded(data: Path) -> dict[str, Any]:
    """What `scripts/icons/publish.py` measures of a run, of the model in the package, in fp32."""
    from bitvar.pipeline import InfinityPipeline

    measure = run_path(str(Path(__file__).with_name("publish.py")))["measure"]
    pipeline = InfinityPipeline.from_pretrained(device="cpu", dtype="fp32")
    with tempfile.TemporaryDirectory() as folder:
        inputs = {"data": data, "run": Path(folder), "text_encoder": EMBEDDED_MODEL / "text_encoder"}
        return {split: measure(pipeline, argparse.Namespace(**inputs), split) for split in MEASURED}


def keep_scales(measured: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Of every split, the number of samples, and loss, bit accuracy and PSNR, of all scales together and one by one."""
    kept: dict[str, Any] = {}
    for split in MEASURED:
        found = measured[split]
        kept[split] = {"samples": int(found["samples"])}
        for name in ("loss", "accuracy", "psnr"):
            count = sum(key.startswith(f"{name}/scale_") for key in found)
            kept[split][name] = round(found[name], 6)
            kept[split][f"{name}_by_scale"] = [round(found[f"{name}/scale_{k}"], 6) for k in range(count)]
    return kept


def keep_scenes(report: Figures) -> dict[str, Any]:
    """Of a report: shares by contender, split and skill, the judge's accuracy, Frechet distances and alignment."""
    shares: dict[str, Any] = {}
    for row in report["results"]:
        kept = {name: row[name] for name in ("share", "low", "high", "prompts")}
        shares.setdefault(row["contender"], {}).setdefault(row["split"], {})[row["skill"]] = kept
    measures = {entry["contender"]: entry["measures"] for entry in report["contenders"]}
    settings = {name: report["settings"][name] for name in ("dtype", "device", "seeds", "limit")}
    return {"settings": settings, "judge": report["judge"]["accuracy"], "shares": shares, "measures": measures}


def scale_table(scales: Figures) -> str:
    """Bit accuracy, loss and PSNR by scale, for the model card."""
    header = ["scale", *MEASURED.values(), "loss, validation", "PSNR, dB"]
    val = scales["val"]
    rows = [
        [
            str(k + 1),
            *(f"{100 * scales[split]['accuracy_by_scale'][k]:.1f} %" for split in MEASURED),
            f"{val['loss_by_scale'][k]:.3f}",
            f"{val['psnr_by_scale'][k]:.1f}",
        ]
        for k in range(len(val["psnr_by_scale"]))
    ]
    return table(header, rows)


def scenes_table(scenes: Figures) -> str:
    """Share of correct images by skill and split, for the model card."""
    header = ["skill", "seen", "unseen", "paraphrase", "held-out artist x concept", "chance level", "judge"]
    rows = []
    for skill, name in NAMES.items():
        cells = [_beside_real(scenes["shares"], split, skill) for split in SPLITS]
        chance = max(
            found[skill]["share"]
            for kind in ("shuffled", "blank")
            for found in scenes["shares"][f"{MODEL}-{kind}"].values()
            if skill in found
        )
        judge = " / ".join(_percent(scenes["judge"][skill][claims]) for claims in ("true_claims", "false_claims"))
        rows.append([name, *cells, _percent(chance), judge])
    return table(header, rows)


def spoilt_table(scenes: Figures, spoilt: Figures) -> str:
    """Real scenes spoilt in known ways beside the model, unseen prompts: in docs/evaluation.md."""
    shuffled = f"{MODEL}-shuffled"
    columns = {
        "real": scenes,
        **dict.fromkeys(SPOILT[:-1], spoilt),
        MODEL: scenes,
        shuffled: scenes,
        SPOILT[-1]: spoilt,
    }
    shares = {name: found["shares"][name]["unseen"] for name, found in columns.items()}
    measures = {name: found["measures"].get(name, {}) for name, found in columns.items()}
    rows = [
        [title, *(_percent(share[skill]["share"]) for share in shares.values())]
        for skill, title in {**NAMES, "mean": "mean"}.items()
        if skill in shares["real"]
    ]
    rows.append(["Frechet, all 661", *(_measure(found, "frechet", "distance", 1, "") for found in measures.values())])
    found_title = "alignment, own prompt found, all"
    rows.append([found_title, *(_measure(found, "alignment", "found", 100, " %") for found in measures.values())])
    return table(["unseen prompts", *columns], rows)


def pages(figures: Figures) -> dict[Path, list[str]]:
    """Every page with its tables."""
    return {
        CARD: [scale_table(figures["scales"]), scenes_table(figures["scenes"])],
        ROOT / "docs" / "evaluation.md": [spoilt_table(figures["scenes"], figures["spoilt"])],
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, without a newline at the end."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def with_table(text: str, made: str) -> str:
    """A page with this table in the place of the one with the same header."""
    header = re.escape(made.partition("\n")[0])
    replace: Callable[[re.Match[str]], str] = lambda _: made + "\n"  # noqa: E731  (no backslash of `made` means anything)
    text, count = re.subn(rf"^{header}\n(?:\|.*\n)+", replace, text, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"the page has {count} tables that begin with {made.partition(chr(10))[0]!r}, not one")
    return text


def _beside_real(shares: Figures, split: str, skill: str) -> str:
    if skill not in shares[MODEL][split]:
        return ""
    return f"{_percent(shares[MODEL][split][skill]['share'])} ({_percent(shares['real'][split][skill]['share'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def _measure(found: Figures, name: str, figure: str, factor: float, unit: str) -> str:
    value = found.get(name, {}).get(figure)
    return "" if value is None else f"{factor * value:.1f}{unit}"


if __name__ == "__main__":
    main()
