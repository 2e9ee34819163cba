"""What a figure says of its machine: the processor, its instruction sets, and what else ran."""

import pytest

from bitvar.profiling.machine import BusyTime, busy_seconds, describe_machine, describe_processor

X86 = """processor\t: 0
model name\t: Some EPYC 9999
cpu family\t: 25
model\t\t: 17
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni unrelated

processor\t: 1
model name\t: Another
flags\t\t: amx_tile
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd sve bf16 i8mm\n"
STAT = "cpu  100 20 30 5000 600 7 8 9 100 0\ncpu0 50 10 15 2500 300 3 4 5 50 0\n"


def test_the_processor_is_named_with_the_instructions_that_matter() -> None:
    name, flags = describe_processor(X86)
    assert name == "Some EPYC 9999 (cpu family 25, model 17)"
    assert flags == ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"]
    assert describe_processor(ARM)[1] == ["asimd", "sve", "bf16", "i8mm"]
    name, flags = describe_processor("")
    assert name and flags == []


def test_a_machine_is_described_by_what_a_figure_must_name() -> None:
    facts = describe_machine()
    assert {"processor", "flags", "processors", "threads", "torch", "kernels"} <= facts.keys()
    assert facts["processors"] >= 1


def test_busy_time_has_stolen_time_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    assert busy_seconds(STAT) == pytest.approx((100 + 20 + 30 + 7 + 8 + 9) / 100)
    assert busy_seconds("") is None


def test_others_are_everyone_but_this_process() -> None:
    before = BusyTime(10.0, 100.0, 3.0)
    assert BusyTime(14.0, 107.0, 4.0).others_since(before) == pytest.approx(1.5)
    assert BusyTime(14.0, 103.9, 7.0).others_since(before) == 0  # the kernel counts in ticks
    assert BusyTime(14.0, None, 4.0).others_since(before) is None
    assert BusyTime(10.0, 107.0, 4.0).others_since(before) is None
    assert BusyTime.now().own > 0
