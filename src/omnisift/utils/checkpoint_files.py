"""Read the small files of a checkpoint, and turn what libraries raise about a broken one into one `CheckpointError`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnisift.errors import CheckpointError, OmniSiftError

MAX_REASON = 300
"""Characters of a library's message that are shown."""
AGAIN = "download the checkpoint again, or correct the file"
_LFS = b"version https://git-lfs"


@contextmanager
def checkpoint_errors(source: object, advice: str = AGAIN) -> Iterator[None]:
    """Turn every exception of the block into a `CheckpointError`. The block must only read a checkpoint.

    Libraries raise what they happen to stumble on in a broken file: SafetensorError, TypeError, KeyError,
    RecursionError, MemoryError and more.

    Args:
        source: the file or folder that is read, for the message.
        advice: what to do.

    Raises:
        CheckpointError: the block raised an exception.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # the border around the libraries
        raise CheckpointError(f"can't load {source}: {reason_of(error)}; {advice}") from error


def reason_of(error: Exception) -> str:
    """What ``error`` says, as one line of at most `MAX_REASON` characters."""
    text = " ".join(str(error).split()).rstrip(".")
    if "trust_remote_code" in text:
        return "it needs code of its own (auto_map), which is never run"
    if not isinstance(error, (OmniSiftError, OSError)):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint that holds an object.

    Raises:
        CheckpointError: the file is missing or a git-lfs pointer, or holds something else.
    """
    with checkpoint_errors(path):
        content = path.read_bytes()
    check_not_pointer(path, content)
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({reason_of(error)}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}; {AGAIN}")
    return value


def check_not_pointer(path: Path, content: bytes) -> None:
    """Raise `CheckpointError` if ``content`` is what git keeps in place of a large file."""
    if content.startswith(_LFS):
        raise CheckpointError(f"{path} is a git-lfs pointer and not the file itself; run git lfs pull in its folder")
