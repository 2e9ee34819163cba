"""Recognising that memory ran out, whatever raised it, and saying what saves memory."""

import contextlib
import errno
import traceback
from collections.abc import Iterator
from typing import Final

from bitvar.errors import OutOfMemoryError

_WORDS: Final = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
"""Parts of the messages of CUDA, MPS, and PyTorch's allocators on Linux and on Windows."""

_FIX: Final = (
    "try dtype='bf16', one image a call, a smaller size, offload_text=True, or pipe.optimize('tiled-decode');"
    " `bitvar fit` predicts what is enough"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a device or on the host."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


def place_of(error: BaseException) -> str:
    """Name the memory that ran out: "the GPU" or "this machine"."""
    text = str(error).lower()
    on_device = isinstance(error, RuntimeError) and any(word in text for word in ("cuda", "mps", "hip", "the gpu"))
    return "the GPU" if on_device else "this machine"


@contextlib.contextmanager
def explained_memory(what: str) -> Iterator[None]:
    """Turn running out of memory into an `OutOfMemoryError`, which does not keep the tensors of the failed call alive.

    Args:
        what: What does not fit, such as "the model and its activations".

    Raises:
        OutOfMemoryError: in place of whatever was raised for want of memory.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the failed call
        raise OutOfMemoryError("Out of memory.", f"{what} don't fit {place_of(error)}", _FIX) from None
