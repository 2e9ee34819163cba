r"""Compare finished runs: losses, shares of correct images and Frechet distances, as a plot and a table.

bitvar evaluate scenes data/icons64 -o evaluations/sizes --no-references --guidance 3 --temperature 0.5 \
    --model w64=runs/w64/model --model w96=runs/w96/model
python experiments/compare.py docs/images/sizes.png --by parameters --fit \
    --run w64=runs/w64 --run w96=runs/w96 --scenes evaluations/sizes/report.json

`--by label` draws a row for each run; `--by parameters` draws curves against the size of the transformer, a line for
each number of bits. `--fit` fits L = a + b N^-c to the losses of all runs and gives the range of each coefficient when
any one run is left out. Labels are those of the report of `bitvar evaluate scenes`; without a report, only losses are
compared. A label that is missing in the report, or among the runs, is named.

Losses are of the whole validation split at a run's end, with averaged weights, nothing flipped. Nats a bit compare at
equal bits of the same tokenizer only; nats a token add the bits of a token up, and compare an index head with a
bitwise one.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from bitvar.errors import UsageError
from bitvar.files import atomic_path
from bitvar.study.fit import PowerLaw, fit_power_law
from bitvar.study.plot import draw_labels, draw_study, table
from bitvar.study.results import SCORES, StudyRow, last_validation, read_run, read_scores
from bitvar.training.config import TransformerTraining
from bitvar.training.export import pick_checkpoint

FACTS: Final = "facts.json"


def read(label: str, run: Path) -> StudyRow:
    """Read a finished transformer run; for an index head, from the facts beside it.

    Raises:
        UsageError: if it is no such run, or not finished.
    """
    data = json.loads((pick_checkpoint(run) / "config.json").read_text(encoding="utf-8"))
    if data.pop("head", "bitwise") == "bitwise":
        return read_run(label, run)
    config = TransformerTraining.parse(data, source=str(run))
    metrics = last_validation(run, config.optimization.steps)
    metrics["loss"] /= config.model.bits
    parameters = int(json.loads((run / FACTS).read_text(encoding="utf-8"))["parameters"])
    samples = config.optimization.steps * config.optimization.batch_size
    return StudyRow(label, parameters, config.model.bits, samples, 0.0, metrics)


def collect(runs: Sequence[str], scenes: Sequence[Path]) -> tuple[list[StudyRow], list[str]]:
    """Collect the rows of `LABEL=RUN` with their metrics from the reports, and a line for everything that is missing.

    Raises:
        UsageError: for anything that can't be read, or a label given twice.
    """
    rows: list[StudyRow] = []
    for argument in runs:
        label, equals, path = argument.partition("=")
        if not (label and equals and path) or label in {row.label for row in rows}:
            why = "each --run needs a label of its own, and a folder"
            raise UsageError(f"Can't read --run {argument}.", why, "write --run LABEL=FOLDER")
        rows.append(read(label, Path(path)))
    missing: list[str] = []
    for path in scenes:
        metrics, intervals = read_scores(path)
        labels = [row.label for row in rows]
        missing += [f"{path}: {label} is no --run, left out" for label in metrics if label not in labels]
        rows = [row.scored(metrics, intervals) for row in rows]
    if scenes:
        missing += [f"{row.label}: no images in any report" for row in rows if not set(SCORES) & set(row.metrics)]
    return rows, missing


def draw(rows: Sequence[StudyRow], *, by: str, fit: PowerLaw | None = None) -> Figure:
    """Draw the runs `by` "label" or "parameters"."""
    return draw_labels(rows) if by == "label" else draw_study(rows, fit)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Compare finished runs.")
    parser.add_argument("out", type=Path, help="the plot, a .png")
    parser.add_argument("--run", action="append", required=True, metavar="LABEL=FOLDER", help="may be repeated")
    parser.add_argument("--scenes", action="append", default=[], type=Path, help="report.json; may be repeated")
    parser.add_argument("--by", choices=("label", "parameters"), default="label")
    parser.add_argument("--fit", action="store_true", help="a power law through the losses")
    options = parser.parse_args()
    try:
        if options.out.suffix != ".png":
            raise UsageError(f"Can't write {options.out}.", "the plot is a .png", "name it so")
        rows, missing = collect(options.run, options.scenes)
        if options.fit and len({row.bits for row in rows}) > 1:
            raise UsageError("There is nothing to fit.", "losses of different bits don't compare", "drop some")
        losses = [row.metrics["loss"] for row in rows]
        fit = fit_power_law([row.parameters for row in rows], losses) if options.fit else None
    except UsageError as error:
        parser.exit(2, f"{error}\n")
    for line in missing:
        sys.stderr.write(line + "\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.out) as partial:
        draw(rows, by=options.by, fit=fit).savefig(partial, dpi=150, format="png", metadata={"Software": None})
    print(table(rows))  # noqa: T201
    if fit is not None:
        print(f"\n{fit.describe()}")  # noqa: T201


if __name__ == "__main__":
    main()
