"""The worker process: holds the model, reads jobs from standard input's socket, and writes back what happens.

The front process starts it as `python -m bitvar.serving.engine.worker` with a socket as standard input. It ends as soon
as that socket closes, so it never outlives the front process.
"""

import logging
import os
import signal
import socket
import sys
import threading
from typing import Final

from bitvar.errors import UsageError, WeightsError
from bitvar.serving.engine.events import Event
from bitvar.serving.engine.loading import build_runner
from bitvar.serving.engine.runner import ModelRunner
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.engine.wire import Frame, event_frame, pack, parse_job, read_frame
from bitvar.serving.logs import JsonLines

_LOG: Final = logging.getLogger(__name__)

_SWITCH_SECONDS: Final = 0.0005
"""How long the thread that draws may keep the interpreter while another waits for it: Python's default, ten times as
long, delays every preview by several milliseconds."""


class _Link:
    """The worker's end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._file = end.makefile("rb")
        self._end = end
        self._lock = threading.Lock()

    def read(self) -> Frame | None:
        """Wait for a frame; None once the front process is gone."""
        return read_frame(self._file.read)

    def write(self, frame: Frame) -> None:
        """Write a frame. An error means that the front process is gone, and ends this process."""
        try:
            with self._lock:
                self._end.sendall(pack(frame))
        except OSError:
            os._exit(0)

    def event(self, job_id: str, event: Event) -> None:
        """Write what happened to a job."""
        self.write(event_frame(job_id, event))


def serve(link: _Link) -> None:
    """Load the model that the first frame names, and draw jobs until the front process goes away."""
    first = link.read()
    if first is None:
        return
    settings = WorkerSettings.model_validate(first.values)
    commands: list[Frame] = []
    runner: ModelRunner | None = None
    ready = threading.Lock()

    def obey(frame: Frame) -> None:
        assert runner is not None
        if frame.kind == "submit":
            runner.submit(parse_job(frame))
        elif frame.kind == "cancel":
            runner.cancel(frame.values["job"])

    def listen() -> None:
        while (frame := link.read()) is not None:
            with ready:
                if runner is None:
                    commands.append(frame)
                else:
                    obey(frame)
        os._exit(0)  # the front process is gone; whatever is being drawn is for nobody

    threading.Thread(target=listen, name="listen", daemon=True).start()
    try:
        made, card = build_runner(settings, link.event)
    except (UsageError, WeightsError) as error:
        link.write(Frame("fatal", {"kind": type(error).__name__, "message": str(error)}))
        return
    link.write(Frame("card", card.model_dump(mode="json")))
    with ready:
        runner = made
        for frame in commands:
            obey(frame)
    made.run()


def main() -> None:
    """Run the worker on the socket that standard input is."""
    end = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123  (a descriptor, not a path)
        os.dup2(nothing.fileno(), 0)
    sys.setswitchinterval(_SWITCH_SECONDS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front process decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    serve(_Link(end))


if __name__ == "__main__":
    main()
