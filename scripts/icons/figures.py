r"""Write the tables of the embedded model's results from one file, so that its card and docs/ agree.

python scripts/icons/figures.py --data data/icons64 --scenes scenes/report.json --spoilt runs/spoilt/report.json

`--data` measures the embedded model's scales on that icon set (a few minutes); `--scenes` and `--spoilt` take reports
of `bitvar evaluate scenes` on `icons`, and on real scenes spoilt by `scripts/icons/spoil.py`. The results that the
tables need are kept in `docs/figures.json`, and the tables are written into the pages. Without options, the pages are
written from the kept results.
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
Results = Mapping[str, Any]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Keep the embedded model's results, and write their tables.")
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


def keep(file: Path, **found: Any) -> Results:
    """Add results to the file, and return all that it holds."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(kept | found, indent=1) + "\n", encoding="utf-8")
    return kept | found


def measure_embedded(data: Path) -> dict[str, Any]:
    """Measure the model in the package in fp32, as `scripts/icons/publish.py` measures a run."""
    from bitvar.pipeline import InfinityPipeline

    measure = run_path(str(Path(__file__).with_name("publish.py")))["measure"]
    pipeline = InfinityPipeline.from_pretrained(device="cpu", dtype="fp32")
    with tempfile.TemporaryDirectory() as folder:
        inputs = {"data": data, "run": Path(folder), "text_encoder": EMBEDDED_MODEL / "text_encoder"}
        return {split: measure(pipeline, argparse.Namespace(**inputs), split) for split in MEASURED}


def keep_scales(measured: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Keep, for every split, the number of samples, and loss, bit accuracy and PSNR, overall and by scale."""
    kept: dict[str, Any] = {}
    for split in MEASURED:
        found = measured[split]
        kept[split] = {"samples": int(found["samples"])}
        for name in ("loss", "accuracy", "psnr"):
            count = sum(key.startswith(f"{name}/scale_") for key in found)
            kept[split][name] = round(found[name], 6)
            kept[split][f"{name}_by_scale"] = [round(found[f"{name}/scale_{k}"], 6) for k in range(count)]
    return kept


def keep_scenes(report: Results) -> dict[str, Any]:
    """Keep a report's scores by candidate, split and skill, the judge's accuracy, and the metrics."""
    scores: dict[str, Any] = {}
    for row in report["results"]:
        kept = {name: row[name] for name in ("score", "low", "high", "prompts")}
        scores.setdefault(row["candidate"], {}).setdefault(row["split"], {})[row["skill"]] = kept
    metrics = {entry["candidate"]: entry["metrics"] for entry in report["candidates"]}
    settings = {name: report["settings"][name] for name in ("dtype", "device", "seeds", "limit")}
    return {"settings": settings, "judge": report["judge"]["accuracy"], "scores": scores, "metrics": metrics}


def scale_table(scales: Results) -> str:
    """Tabulate bit accuracy, loss and PSNR by scale: for the model card."""
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


def scenes_table(scenes: Results) -> str:
    """Tabulate correct images by skill and split: for the model card."""
    header = ["skill", "seen", "unseen", "paraphrase", "held-out artist x concept", "chance level", "judge"]
    rows = []
    for skill, name in NAMES.items():
        cells = [_beside_real(scenes["scores"], split, skill) for split in SPLITS]
        chance = max(
            found[skill]["score"]
            for kind in ("shuffled", "blank")
            for found in scenes["scores"][f"{MODEL}-{kind}"].values()
            if skill in found
        )
        judge = " / ".join(_percent(scenes["judge"][skill][f"true_{kind}_rate"]) for kind in ("positive", "negative"))
        rows.append([name, *cells, _percent(chance), judge])
    return table(header, rows)


def spoilt_table(scenes: Results, spoilt: Results) -> str:
    """Tabulate real scenes spoilt in known ways beside the model, on unseen prompts: for docs/evaluation.md."""
    shuffled = f"{MODEL}-shuffled"
    columns = {
        "real": scenes,
        **dict.fromkeys(SPOILT[:-1], spoilt),
        MODEL: scenes,
        shuffled: scenes,
        SPOILT[-1]: spoilt,
    }
    scores = {name: found["scores"][name]["unseen"] for name, found in columns.items()}
    metrics = {name: found["metrics"].get(name, {}) for name, found in columns.items()}
    rows = [
        [title, *(_percent(own[skill]["score"]) for own in scores.values())]
        for skill, title in {**NAMES, "mean": "mean"}.items()
        if skill in scores["real"]
    ]
    rows.append(["Frechet, all 661", *(_metric(found, "frechet", "distance", 1, "") for found in metrics.values())])
    found_title = "alignment, own prompt found, all"
    rows.append([found_title, *(_metric(found, "alignment", "found", 100, " %") for found in metrics.values())])
    return table(["unseen prompts", *columns], rows)


def pages(results: Results) -> dict[Path, list[str]]:
    """List every page with its tables."""
    return {
        CARD: [scale_table(results["scales"]), scenes_table(results["scenes"])],
        ROOT / "docs" / "evaluation.md": [spoilt_table(results["scenes"], results["spoilt"])],
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table, without a newline at the end."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def with_table(text: str, made: str) -> str:
    """Replace the table with the same header in a page."""
    header = re.escape(made.partition("\n")[0])
    replace: Callable[[re.Match[str]], str] = lambda _: made + "\n"  # noqa: E731  (no backslash of `made` means anything)
    text, count = re.subn(rf"^{header}\n(?:\|.*\n)+", replace, text, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"the page has {count} tables that begin with {made.partition(chr(10))[0]!r}, not one")
    return text


def _beside_real(scores: Results, split: str, skill: str) -> str:
    if skill not in scores[MODEL][split]:
        return ""
    return f"{_percent(scores[MODEL][split][skill]['score'])} ({_percent(scores['real'][split][skill]['score'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def _metric(found: Results, name: str, key: str, factor: float, unit: str) -> str:
    value = found.get(name, {}).get(key)
    return "" if value is None else f"{factor * value:.1f}{unit}"


if __name__ == "__main__":
    main()
