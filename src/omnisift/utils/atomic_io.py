"""Files and folders that are there whole or not at all, whatever kills the process that writes them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it takes the place of ``path`` if the block ends well, else is deleted."""
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """``text`` as the UTF-8 content of ``path``."""
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write in; it takes the place of ``folder`` if the block ends well, else is deleted.

    What was at ``folder`` stays until then, and comes back if the exchange fails.
    """
    unfinished, old = (folder.with_name(f"{folder.name}.{what}") for what in ("part", "old"))
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        try:
            unfinished.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
