"""Memory of this machine and of this process, as the system tells it."""

import contextlib
import os
import sys
from pathlib import Path

_UNKNOWN = 4 << 30
"""Bytes that are assumed where the system does not say."""


def total_bytes() -> int:
    """Memory in bytes that this machine, or the container that this process is in, has."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # no limit is the word "max"
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(found, default=_UNKNOWN)


def available_bytes() -> int:
    """Memory in bytes that this machine, or the container that this process is in, has left."""
    found = [_UNKNOWN]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = [int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        found.append(int(limit) - int(used))  # no limit is the word "max"
    return max(0, min(found))


def resident_bytes() -> int:
    """Memory in bytes that this process has in use, file mappings included; its peak where the system has no more."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) << 10
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
