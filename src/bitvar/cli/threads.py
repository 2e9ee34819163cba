"""Threads of commands that share the machine with other programs: how they wait, and how many of them pay.

OpenMP's threads wait by spinning. Beside another program they spin on processors that the thread they wait for needs.
What the user's environment says about threads always takes precedence.
"""

import gc
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline

_SPINS: Final = "1000"
_WAITING: Final = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_COUNTS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def wait_politely() -> None:
    """Let OpenMP's threads of this process and its children sleep after a short wait. Has no effect once torch runs."""
    if not chosen_by_user(_WAITING):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def settle(pipeline: "InfinityPipeline") -> None:
    """End the start of a command whose model is loaded: collect garbage again, and choose the number of threads.

    The number depends on the model alone, so an image doesn't depend on what else is drawn.
    """
    if not gc.isenabled():
        gc.freeze()  # modules and weights stay to the end: no collection need look at them
        gc.enable()
    if pipeline.transformer.device.type == "cpu" and not chosen_by_user(_COUNTS):
        import torch

        from bitvar.costs.flops import forward_flops
        from bitvar.runtime.threads import useful_threads

        config = pipeline.transformer.config
        schedules = config.all_schedules()
        operations = [forward_flops(config, s, text_tokens=config.max_text_tokens).total for s in schedules]
        torch.set_num_threads(useful_threads(max(operations), torch.get_num_threads()))


def describe_threads() -> dict[str, str]:
    """Describe for `bitvar doctor` how many threads commands use, how they wait, and how busy the machine is."""
    from bitvar.runtime.threads import num_processors

    available = num_processors()
    count, waiting = chosen_by_user(_COUNTS), chosen_by_user(_WAITING)
    by_work = f"{available}; 1 in `bitvar generate` with a small model, which gains little from more"
    politely = f"spin briefly in `bitvar generate` and `bitvar demo` (GOMP_SPINCOUNT={_SPINS})"
    facts = {"threads": count or by_work, "waiting threads": waiting or f"{politely}, as OpenMP does elsewhere"}
    if hasattr(os, "getloadavg"):
        facts["load"] = f"{os.getloadavg()[0]:.1f} for {available} processors, average of the last minute"
    return facts


def chosen_by_user(names: tuple[str, ...]) -> str:
    """Return the settings of the environment among `names`, as NAME=VALUE; empty if there is none."""
    return ", ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))
