"""`bitvar study RECIPE`: train runs of several sizes, bits or lengths, and compare them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.study.plan import StudyRun
    from bitvar.study.results import Scores
    from bitvar.study.run import StudySettings


def study(
    recipe: Annotated[Path, typer.Argument(help="A Python file whose function `recipe()` takes what varies.")],
    data: Annotated[Path, typer.Option(help="A captioned set or an index to train on.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the study; the same command resumes it.")],
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Argument of recipe() and its values, such as width=64,96; depth+width=2+32,4+96 varies two together. "
            "Repeatable: every combination is a run.",
        ),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Trained tokenizer of every run; what varies may stand in braces: runs/d{bits}/model."),
    ] = None,
    text_encoder: Annotated[str | None, typer.Option(help="Text encoder: its folder, or that of a model.")] = None,
    arguments: Annotated[
        list[str] | None, typer.Option("--recipe-arg", help="Argument of recipe() that is the same for all runs.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of all runs, such as optimization.steps=1000.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Train these runs only, by name; repeatable. For several machines that share the folder."),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(help="report.json of `bitvar evaluate scenes` about these runs, by name; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the runs, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train runs of several sizes, bits or lengths, and write their losses and scores as table, plot and JSON."""
    with exit_codes():
        from bitvar.study.plan import Variation, plan_runs
        from bitvar.study.run import StudySettings, check_study

        every = plan_runs([Variation.parse(text) for text in vary])
        runs = _chosen(every, only or [])
        chosen = StudySettings(
            recipe, data, output, tokenizer, text_encoder, tuple(arguments or ()), tuple(settings or ()), device
        )
        scores = _read_reports(report or [])
        if dry_run:
            check_study(chosen, runs)
            rows = [run.arguments for run in runs]
            say(json.dumps(rows) if as_json else "\n".join(run.name for run in runs))
            return
        _carry_out(chosen, runs, every, scores, as_json=as_json)


def _read_reports(reports: list[Path]) -> "list[Scores]":
    """Read every report before any run is trained."""
    from bitvar.study.results import read_scores

    return [read_scores(path) for path in reports]


def _chosen(runs: "list[StudyRun]", only: list[str]) -> "list[StudyRun]":
    from bitvar.config import unknown
    from bitvar.errors import UsageError

    names = [run.name for run in runs]
    for name in only:
        if name not in names:
            raise UsageError(unknown(f"run {name!r}", name, names))
    return [run for run in runs if not only or run.name in only]


def _carry_out(
    settings: "StudySettings", runs: "list[StudyRun]", every: "list[StudyRun]", scores: "list[Scores]", *, as_json: bool
) -> None:
    """Train `runs`, and report every run of the study that is finished."""
    from bitvar.study.results import SCORES, group_lines
    from bitvar.study.run import TABLE, conclude, read_finished, require_plots, train_study, with_scores, write_study

    def log(text: str) -> None:
        say(text, err=True)

    require_plots()
    train_study(settings, runs, log)
    rows = read_finished(settings, every)
    for metrics, intervals in scores:
        rows = with_scores(rows, metrics, intervals)
    found = conclude(rows, group_lines(rows), list(SCORES))
    write_study(found, settings.out)
    if as_json:
        say(json.dumps(found.to_json()))
        return
    say((settings.out / TABLE).read_text(encoding="utf-8").rstrip())
    missing = len(every) - len(rows)
    more = f"; {missing} of {len(every)} runs aren't finished" if missing else ""
    say(f"Wrote {settings.out}: study.json, study.md, study.png{more}", err=True)
