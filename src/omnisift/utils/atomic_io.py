"""Atomic file and directory writes: write to a temporary path, then rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; sync and rename it to ``path`` if the block succeeds, else delete it.

    Args:
        path: the file to create or replace. Its folder must exist.

    Yields:
        The temporary path to write to. It has the suffix of ``path``.
    """
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically.

    Args:
        path: the file to create or replace.
        text: its content.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; rename it to ``folder`` if the block succeeds, else delete it.

    An existing ``folder`` stays in place until then, and is restored if the exchange fails.

    Args:
        folder: the folder to create or replace. Missing parents are created.

    Yields:
        The temporary folder to write in.
    """
    temporary, backup = (folder.with_name(f"{folder.name}.{suffix}") for suffix in ("part", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        # A folder can't be replaced in one step: move the old one away, then the new one in.
        if folder.exists():
            shutil.rmtree(backup, ignore_errors=True)
            folder.rename(backup)
        try:
            temporary.rename(folder)
        except OSError:
            if backup.exists():
                backup.rename(folder)
            raise
        shutil.rmtree(backup, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Sync the entries of ``folder`` to the disk, so that a file created in it survives a power cut."""
    _sync(folder)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
