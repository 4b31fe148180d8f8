"""Where a command may write: never over something unasked, with ``--force`` only over what it could have written."""

from __future__ import annotations

from pathlib import Path

from omnisift.errors import UsageError


def check_file(path: Path, force: bool) -> None:
    """`UsageError` if ``path`` is taken (and ``force`` is off), or its folder is not there."""
    if path.exists() and not force:
        raise UsageError(f"{path} exists; choose another name or add --force")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent}; make it first")


def check_folder(folder: Path, force: bool) -> None:
    """`UsageError` if ``folder`` is taken; with ``force`` if it is a file, or holds other things than a model."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    if not force:
        raise UsageError(f"{folder} exists; choose another name or add --force")
    if any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} holds no model (no config.json), so --force does not replace it; delete it yourself"
        )
