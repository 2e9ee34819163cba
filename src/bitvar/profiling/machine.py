"""The machine that a measurement was taken on: its processor, its PyTorch, and what else ran meanwhile."""

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from bitvar.runtime.threads import num_processors

FLAGS: Final = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "bf16",
    "i8mm",
)
"""Instruction sets that decide which matrix kernels run, by the names that Linux gives them on x86 and ARM."""

_CPUINFO: Final = Path("/proc/cpuinfo")
_STAT: Final = Path("/proc/stat")


def describe_machine() -> dict[str, Any]:
    """Return the facts that a figure must name: processor, instruction sets, processors in reach, threads, PyTorch."""
    name, flags = describe_processor(_CPUINFO.read_text() if _CPUINFO.is_file() else "")
    libraries = re.findall(r"MKL-DNN v[\d.]+|BLAS_INFO=\w+", torch.__config__.show())
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": name,
        "flags": flags,
        "processors": num_processors(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "kernels": [torch.backends.cpu.get_cpu_capability(), *libraries],
        **({"gpus": gpus} if gpus else {}),
    }


def describe_processor(cpuinfo: str) -> tuple[str, list[str]]:
    """Return the name of the first processor and those of `FLAGS` that it has.

    Args:
        cpuinfo: Content of Linux's `/proc/cpuinfo`. Empty elsewhere, where no flags are known.
    """
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    kind = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{name} ({', '.join(kind)})" if kind else name, [flag for flag in FLAGS if flag in present]


@dataclass(frozen=True)
class BusyTime:
    """Seconds of processor time used since the machine started, by all processes and by this one.

    Attributes:
        at: Time of the reading, in seconds of an arbitrary clock.
        everyone: Processor seconds of all processes, and what a host took for its other guests; None if unknown.
        own: Processor seconds of this process.
    """

    at: float
    everyone: float | None
    own: float

    @classmethod
    def now(cls) -> "BusyTime":
        stat = _STAT.read_text() if _STAT.is_file() else ""
        return cls(time.perf_counter(), busy_seconds(stat), time.process_time())

    def others_since(self, before: "BusyTime") -> float | None:
        """Return how many processors everything but this process kept busy since a reading; None if unknown."""
        if self.everyone is None or before.everyone is None or self.at <= before.at:
            return None
        others = (self.everyone - before.everyone) - (self.own - before.own)
        return max(0.0, others / (self.at - before.at))


def busy_seconds(stat: str) -> float | None:
    """Add up the processor seconds of all processes in Linux's `/proc/stat`; None for text of another form.

    Time stolen by a host counts, idle time and waiting for disks don't. Guests are part of user time.
    """
    found = re.match(r"cpu +(\d+) (\d+) (\d+) \d+ \d+ (\d+) (\d+) (\d+)", stat)
    return None if found is None else sum(map(int, found.groups())) / os.sysconf("SC_CLK_TCK")
