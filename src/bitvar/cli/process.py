"""The process of the `bitvar` command: how it starts and how it leaves. Imports nothing that takes time.

`bitvar generate` draws a small image in a tenth of a second, so what surrounds the drawing decides how long it takes:
collecting garbage while a million objects are imported, taking them apart at the end, and threads that wait for each
other by spinning.
"""

import atexit
import contextlib
import gc
import os
import sys
import threading
from typing import NoReturn

from bitvar.cli.threads import wait_politely

_QUICK = ("generate",)
"""Commands of seconds, which write their output themselves. Others leave as Python does."""


def run() -> NoReturn:
    """Run the console script. An interrupt while modules load ends it like any other, with 130 and without a traceback.

    Unlike `bitvar.cli.main.main`, it may end the process without returning to its caller.
    """
    quick = sys.argv[1:2] and sys.argv[1] in _QUICK
    try:
        if quick:
            gc.disable()  # `bitvar.cli.threads.settle` enables it
            wait_politely()
        from bitvar.cli.main import main

        main()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.write("Cancelled.\n")
        code: object = 130
    except SystemExit as stop:
        code = stop.code
    else:
        code = 0
    if quick and isinstance(code, int) and may_leave_at_once():
        leave_at_once(code)
    sys.exit(code)  # type: ignore[arg-type]


def may_leave_at_once() -> bool:
    """Whether nothing but memory would be lost.

    Something would be if another thread still works, if a profiler or a debugger watches (those of GPUs write what they
    know when the libraries of the GPU end), or if Python is to ask for more input.
    """
    waiting = [thread for thread in threading.enumerate() if not thread.daemon]
    tools = getattr(sys, "monitoring", None)
    watched = tools is not None and any(tools.get_tool(index) is not None for index in range(6))
    traced = sys.gettrace() is not None or sys.getprofile() is not None
    cuda = sys.modules.get("torch.cuda")
    on_gpu = cuda is not None and cuda.is_initialized()
    return waiting == [threading.main_thread()] and not (watched or traced or on_gpu or sys.flags.inspect)


def leave_at_once(code: int) -> NoReturn:
    """Run the functions that were registered for the end, flush, and end the process without taking it apart."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
