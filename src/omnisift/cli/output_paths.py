"""Checks of output paths: nothing is overwritten without ``--force``, and with it only what the command writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from omnisift.errors import UsageError


def check_file(path: Path, force: bool, reads: Sequence[str | Path | None] = ()) -> None:
    """Raise `UsageError` if ``path`` exists (and ``force`` is off), is a folder, or `check_parent` does.

    With ``force`` it may not be one of the files that the command ``reads``.
    """
    if path.exists() and not force:
        raise UsageError(f"{path} exists; choose another name or add --force")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file; name another one")
    if path.exists() and any(other is not None and Path(other).exists() and path.samefile(other) for other in reads):
        raise UsageError(f"{path} is read by this command; name another file")
    check_parent(path)


def check_parent(path: Path) -> None:
    """Raise `UsageError` if the folder of ``path`` does not exist or can't be written."""
    if not path.parent.is_dir():
        raise UsageError(f"folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"folder {path.parent} can't be written; choose another or change its permissions")


def check_folder(folder: Path, force: bool) -> None:
    """Raise `UsageError` if ``folder`` exists; with ``force``, if it is a file or holds anything but a model."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    if not force:
        raise UsageError(f"{folder} exists; choose another name or add --force")
    if any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} has no config.json, so it is not a model and --force does not replace it; delete it yourself"
        )
