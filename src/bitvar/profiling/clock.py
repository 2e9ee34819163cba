"""Wall-clock time and peak memory of a device."""

import resource
import sys
import time

import torch


class Clock:
    """Measure the seconds between readings, after waiting for the device to finish its work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last reading."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        return seconds


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in MB: of the device on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
