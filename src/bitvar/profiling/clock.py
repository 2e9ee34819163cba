"""What benchmarks measure with."""

import resource
import sys
import time
from typing import Any


class Clock:
    """Seconds since the last question, once the device has done what it was given."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.last = time.perf_counter()

    def lap(self) -> float:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        return seconds


def peak_memory(device: Any) -> float:
    """MB: of the device on CUDA, of the process elsewhere."""
    import torch

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
