"""How servers write logs: one JSON object a line, in which an unexpected error never brings its message along.

Messages of unexpected errors repeat values, such as the prompt that a library couldn't take; logs must not.
"""

import json
import logging
import traceback
from typing import Any


class JsonLines(logging.Formatter):
    """Formats log records as one JSON object a line. `extra={"fields": ...}` adds keys to it."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry["exception"] = outline(record.exc_info[1])
        return json.dumps(entry)


def outline(error: BaseException) -> str:
    """Write where an error was raised and of which type it is, with its causes, but not what it says."""
    following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    earlier = "" if following is None else f"{outline(following)}\nand then\n"
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{earlier}{frames}{type(error).__module__}.{type(error).__qualname__}"
