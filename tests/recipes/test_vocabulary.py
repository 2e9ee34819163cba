"""The vocabulary experiment's recipes: entropies against brute force, memory points, the tokenizers, the comparison."""

import itertools
import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bitvar.errors import UsageError
from bitvar.tokenizer.losses import bit_entropy

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments" / "vocabulary"
RECIPES = ROOT / "recipes"
MEMORY = runpy.run_path(str(EXPERIMENTS / "memory.py"))
COMPARE = runpy.run_path(str(EXPERIMENTS / "compare.py"))
GIB = 2**30


def run(monkeypatch: pytest.MonkeyPatch, recipe: str, *arguments: str | Path) -> int | str | None:
    """The exit code of a recipe's command."""
    monkeypatch.setattr(sys, "argv", [recipe, *map(str, arguments)])
    try:
        runpy.run_path(str(EXPERIMENTS / recipe), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    return 0


def brute_force(residual: torch.Tensor, logit_scale: float) -> tuple[float, float]:
    """Per-sample and mean entropy over whole codes, one vector and one code at a time."""
    bits = residual.shape[1]
    codes = list(itertools.product((-1, 1), repeat=bits))
    assignments = []
    for vector in residual.movedim(1, -1).reshape(-1, bits).tolist():
        length = math.sqrt(sum(value * value for value in vector))
        distances = [
            sum((v / length - c / math.sqrt(bits)) ** 2 for v, c in zip(vector, code, strict=True)) for code in codes
        ]
        weights = [math.exp(-logit_scale * distance) for distance in distances]
        assignments.append([weight / sum(weights) for weight in weights])

    def entropy(shares: list[float]) -> float:
        return -sum(share * math.log2(share) for share in shares) / bits

    mean = [sum(column) / len(assignments) for column in zip(*assignments, strict=True)]
    return sum(map(entropy, assignments)) / len(assignments), entropy(mean)


@pytest.mark.parametrize(("bits", "logit_scale"), [(1, 1.0), (3, 1.0), (4, 5.0)])
def test_the_full_entropy_is_that_of_soft_assignment_to_every_code(bits: int, logit_scale: float) -> None:
    residual = torch.randn(2, bits, 3, 2, generator=torch.Generator().manual_seed(1))
    terms = MEMORY["full_entropy"](residual, inverse_temperature=logit_scale)
    per_sample, of_mean = brute_force(residual, logit_scale)
    assert terms.per_sample.item() == pytest.approx(per_sample, abs=1e-5)
    assert terms.of_mean.item() == pytest.approx(of_mean, abs=1e-5)


def test_the_factorised_entropy_agrees_where_it_is_exact_and_bounds_where_it_is_not() -> None:
    residual = torch.randn(1, 6, 64, 1, generator=torch.Generator().manual_seed(2))
    residual[:, 1] = residual[:, 0]  # two bits that always agree: fewer codes are used than the bits' means tell
    full = MEMORY["full_entropy"](residual, inverse_temperature=20.0)
    factorised = bit_entropy(residual, inverse_temperature=20.0)
    assert full.per_sample.item() == pytest.approx(factorised.per_sample.item(), abs=1e-5)
    assert full.of_mean.item() < factorised.of_mean.item() - 0.05


def test_memory_points_are_measured_and_refused() -> None:
    one_matrix = 256 * 2**12 * 4
    fits = MEMORY["measure"]("lookup-free", 12, vectors=256, budget=GIB)
    assert one_matrix * 3 < fits.memory < one_matrix * 8
    assert fits.fits
    assert MEMORY["measure"]("BSQ", 12, vectors=256, budget=GIB).memory < one_matrix
    assert MEMORY["measure"]("lookup-free", 12, vectors=256, budget=2 * one_matrix) is None


def made_up_points(monkeypatch: pytest.MonkeyPatch, *, largest: int) -> list[Any]:
    def measure(quantizer: str, bits: int, **_: Any) -> Any:
        size = bits * 2**20 if quantizer == "BSQ" else 2**bits * 2**14
        return MEMORY["Point"](quantizer, bits, size, 0.5) if quantizer == "BSQ" or bits <= largest else None

    monkeypatch.setitem(MEMORY["measure_all"].__globals__, "measure", measure)
    return MEMORY["measure_all"](8 * GIB, 16)


def test_what_does_not_fit_is_in_the_table_and_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = made_up_points(monkeypatch, largest=16)
    rows = MEMORY["table"](points).splitlines()
    assert "| 16 | 2^16 | 16 MiB, 0.5 s | 1 GiB, 0.5 s |" in rows
    assert "| 17 | 2^17 |  | does not fit: would need 2 GiB |" in rows
    assert "| 32 | 2^32 | 32 MiB, 0.5 s | does not fit: would need 64 TiB |" in rows
    figure = MEMORY["draw"](points, 8 * GIB)
    assert any("17 bits do not fit: 2 GiB" in text.get_text() for text in figure.axes[0].texts)
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_a_budget_that_shows_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="lookup-free at 8 bits does not fit"):
        made_up_points(monkeypatch, largest=7)
    assert run(monkeypatch, "memory.py", tmp_path / "a.png", "--budget", "1e9") == 2
    assert "is too much" in capsys.readouterr().err
    for arguments in (("a.pdf",), (), ("a.png", "--budget", "0"), ("a.png", "--vectors", "0")):
        assert run(monkeypatch, "memory.py", *arguments) == 2
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_readable() -> None:
    sizes = {readable: MEMORY["readable"](size) for readable, size in (("a", 1), ("b", 1536), ("c", 2**83))}
    assert sizes == {"a": "1 B", "b": "1.5 KiB", "c": "8 YiB"}


def test_the_tokenizers_differ_in_their_bits_alone() -> None:
    recipe = runpy.run_path(str(RECIPES / "vocabulary" / "tokenizer.py"))["recipe"]
    few, many = recipe(bits=8).model_dump(), recipe(bits=64).model_dump()
    assert (few["model"].pop("bits"), many["model"].pop("bits")) == (8, 64)
    assert few == many
    embedded = runpy.run_path(str(RECIPES / "icons" / "tokenizer.py"))["recipe"]().model_dump()
    different = recipe().model_dump()
    assert different["optimization"].pop("steps") < embedded["optimization"].pop("steps")
    assert {**different, "intervals": None} == {**embedded, "intervals": None}


def report(path: Path, *, size: str = "64x64", **changes: Any) -> Path:
    """A made-up report of two tokenizers and a candidate of another kind."""
    results = [
        {
            "candidate": f"d{bits}",
            "kind": "tokenizer",
            "size": size,
            "images": 60,
            "bits_per_pixel": bits / 48,
            "psnr": 20 + bits / 8,
            "ssim": 0.9,
            "distance": 1 / bits,
            "frechet": None,
            "scales": [],
        }
        for bits in (64, 8)
    ]
    results.append({**results[0], "candidate": "jpeg", "kind": "codec"})
    path.write_text(json.dumps({"format": 3, "results": results, **changes}))
    return path


def test_the_comparison_draws_and_prints_what_the_reports_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    icons, photographs = report(tmp_path / "a.json"), report(tmp_path / "b.json", size="own")
    arguments = ("--report", f"held-out icons={icons}", "--report", f"photographs={photographs}")
    assert run(monkeypatch, "compare.py", tmp_path / "plots" / "out.png", *arguments) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "| set | bits of a cell | bits per pixel | PSNR, dB | SSIM | perceptual distance | images |"
    assert lines[2] == "| held-out icons | 8 | 0.167 | 21.00 | 0.900 | 0.125 | 60 |"
    assert [line.split(" | ")[1] for line in lines[2:]] == ["8", "64", "8", "64"]
    assert printed.err.count("jpeg") == 2
    assert (tmp_path / "plots" / "out.png").stat().st_size > 5000


def test_a_panel_shows_only_who_was_measured(tmp_path: Path) -> None:
    rows, _ = COMPARE["read_report"]("icons", report(tmp_path / "a.json"))
    other = [COMPARE["Row"]("photographs", row.bits, 40, 0.3, {**row.metrics, "frechet": 5.0}) for row in rows]
    figure = COMPARE["draw"](rows + other)
    titles = [axes.get_title(loc="left").splitlines() for axes in figure.axes[:3]]
    assert [title[0] for title in titles] == ["PSNR, dB", "perceptual distance", "Frechet distance"]
    psnr, _, frechet = (axes.lines for axes in figure.axes[:3])
    assert [len(line.get_xdata()) for line in psnr] == [2, 2]
    assert [len(line.get_xdata()) for line in frechet] == [0, 2]
    assert psnr[1].get_color() == frechet[1].get_color()


def test_sizes_of_one_report_are_sets_of_their_own(tmp_path: Path) -> None:
    path = report(tmp_path / "a.json")
    content = json.loads(path.read_text())
    content["results"][0]["size"] = "own"
    path.write_text(json.dumps(content))
    rows, others = COMPARE["read_report"]("icons", path)
    assert [(row.name, row.bits) for row in rows] == [("icons, 64x64", 8), ("icons, own", 64)]
    assert others == ["jpeg"]


def test_reports_that_cannot_be_compared_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = report(tmp_path / "good.json")
    (tmp_path / "text.json").write_text("no report")
    report(tmp_path / "newer.json", format=4)
    report(tmp_path / "empty.json", results=[])
    report(tmp_path / "bare.json", results=[{"candidate": "d8", "kind": "tokenizer"}])
    for arguments, said in (
        (("--report", f"a={tmp_path / 'none.json'}"), "There is no"),
        (("--report", f"a={tmp_path / 'text.json'}"), "is no report"),
        (("--report", f"a={tmp_path / 'newer.json'}"), "its format is 4"),
        (("--report", f"a={tmp_path / 'empty.json'}"), "has no tokenizer"),
        (("--report", f"a={tmp_path / 'bare.json'}"), "it lacks 'size'"),
        (("--report", good), "write --report NAME=FILE"),
        (("--report", f"a={good}", "--report", f"a={good}"), "a name of its own"),
        ((), "--report"),
    ):
        assert run(monkeypatch, "compare.py", tmp_path / "out.png", *arguments) == 2
        assert said in capsys.readouterr().err
    assert run(monkeypatch, "compare.py", tmp_path / "out.pdf", "--report", f"a={good}") == 2
    assert not (tmp_path / "out.png").exists()
