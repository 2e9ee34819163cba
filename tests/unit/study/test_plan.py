"""The runs that `--vary` asks for."""

import pytest

from bitvar.errors import UsageError
from bitvar.study.plan import Variation, plan_runs


def test_every_combination_is_a_run() -> None:
    runs = plan_runs([Variation.parse("depth+width=2+32, 4+96"), Variation.parse("bits=12,64")])
    assert [run.name for run in runs] == [
        "depth2-width32-bits12",
        "depth2-width32-bits64",
        "depth4-width96-bits12",
        "depth4-width96-bits64",
    ]
    assert runs[2].arguments == {"depth": "4", "width": "96", "bits": "12"}


def test_a_name_is_a_plain_folder_name() -> None:
    assert plan_runs([Variation.parse("model=../a b")])[0].name == "model.._a_b"


@pytest.mark.parametrize(
    "text", ["width", "=3", "width=", "width=1,", "a+b=1", "a+b=1+2,3", "a+a=1+2", "width=3,3", "wi dth=3", "a+b=1+"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Can't read --vary"):
        Variation.parse(text)


def test_an_argument_varies_once_and_runs_are_bounded() -> None:
    with pytest.raises(UsageError, match="width varies twice"):
        plan_runs([Variation.parse("width=1,2"), Variation.parse("depth+width=1+2,2+3")])
    many = ",".join(map(str, range(30)))
    with pytest.raises(UsageError, match="900 runs"):
        plan_runs([Variation.parse(f"a={many}"), Variation.parse(f"b={many}")])


def test_patterns_are_filled_with_what_varies() -> None:
    run = plan_runs([Variation.parse("bits=12"), Variation.parse("width=32")])[0]
    assert run.fill("runs/d{bits}/w{width}") == "runs/d12/w32"
    assert run.fill("general") == "general"
    for pattern in ("runs/{depth}", "runs/{}"):
        with pytest.raises(UsageError, match="Can't fill in"):
            run.fill(pattern)
