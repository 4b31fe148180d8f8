"""Failures of the machine and of untrusted input as one line: a full disk, no memory, text that is not Unicode.

Every other unexpected error is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ADVICE = {
    errno.ENOSPC: "free disk space, or choose another disk",
    errno.EDQUOT: "free disk space, or ask for a larger quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
    errno.EACCES: "choose another path, or change its permissions",
    errno.EPERM: "choose another path, or change its permissions",
    errno.EROFS: "choose a folder that can be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOMEM: "close other programs, or give smaller values",
}
_OUT_OF_MEMORY = "out of memory; close other programs, or give a smaller batch, fewer frames or a lower resolution"
_NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_WRITE_FAILED = re.compile(r"PytorchStreamWriter|inline_container|file write failed|iostream error")
"""What torch says, as a RuntimeError, when it can't write a file."""


def describe(error: Exception) -> tuple[str, str] | None:
    """Describe a failure of the machine or of untrusted input.

    Args:
        error: what a command raised.

    Returns:
        The kind of error and a message for the user; None for a fault of the program.
    """
    kind = type(error).__name__
    if isinstance(error, OSError):
        return "OSError", _of_system(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return "MemoryError", _OUT_OF_MEMORY
    if isinstance(error, RecursionError):
        return "RecursionError", "the input is nested too deeply; give one with fewer levels"
    if isinstance(error, UnicodeError):
        return kind, f"a text or file name is not UTF-8 ({error}); correct or rename it"
    if isinstance(error, ValueError) and "integer string conversion" in str(error):
        return "ValueError", "the input holds a number with too many digits; correct it"
    # By name: these libraries are loaded only by the commands that need them.
    if kind == "SafetensorError" or (isinstance(error, RuntimeError) and _WRITE_FAILED.search(str(error))):
        advice = "get the file again, it may be incomplete" if kind == "SafetensorError" else _ADVICE[errno.ENOSPC]
        return kind, f"{str(error).partition(chr(10))[0]}; {advice}"
    return None


@contextmanager
def threads_fail_in_one_line(tell: Callable[[str], None]) -> Iterator[None]:
    """In the block, a failure of the machine that ends a thread of a library, such as TensorBoard's, is one line.

    Args:
        tell: prints a line.
    """
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        failure = describe(failed.exc_value) if isinstance(failed.exc_value, Exception) else None
        if failure is None:
            before(failed)
        else:
            tell(f"warning: a background thread ended ({failure[0]}): {' '.join(failure[1].split())}")

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _of_system(error: OSError) -> str:
    name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    reason = error.strerror or str(error) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0)
    return f"{name}{reason}" + (f"; {advice}" if advice else "")
