"""Read text that a user named, and show wrong values in messages."""

from __future__ import annotations

import os
from pathlib import Path

from omnisift.errors import UsageError

MAX_NAME = 1000
"""Characters of a path or model name; hub ids are far shorter, and file systems take no longer name in one piece."""


def check_path_name(name: str, what: str) -> None:
    """`UsageError` unless ``name`` can be looked up as a path: no overlong name, no null character, only Unicode."""
    if len(name) > MAX_NAME:
        raise UsageError(f"{what} has {len(name)} characters; give a path or hub id of at most {MAX_NAME}")
    try:
        Path(name).exists()  # of names that the file system refuses, such as those with a null character
        os.fsencode(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{what} is not a path ({error}); give a folder") from None


def read_text(path: Path, what: str, *, errors: str = "strict") -> str:
    """Read a UTF-8 text file.

    Args:
        path: the file.
        what: what it should be, for messages, such as ``the recipe``.
        errors: as in `open`; ``surrogateescape`` takes bytes that are not UTF-8.

    Raises:
        UsageError: it is missing, no regular file, unreadable or not UTF-8 text.
    """
    try:
        # Files of the kernel, such as /proc/kmsg, have no size, and some of them block a reader for ever.
        if path.is_file() and not path.stat().st_size:
            return ""
        return path.read_text(encoding="utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        raise UsageError(f"can't read {what} {path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UsageError(f"can't read {what} {path}: {(error.strerror or 'unknown error').lower()}") from None
    except ValueError as error:  # a null character in the name
        raise UsageError(f"can't read {what} {str(path)!r}: {error}") from None


def shown(value: object) -> str:
    """``repr`` of a wrong value, cut to the length that a message has room for."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else text[:79] + "…"


def is_file_name(value: object) -> bool:
    """Whether ``value`` is a string that the file system takes as a name, in UTF-8 or other bytes."""
    try:
        return isinstance(value, str) and bool(value) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def is_text(value: object) -> bool:
    """Whether ``value`` is a string of Unicode characters: no lone surrogates, no null characters."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
