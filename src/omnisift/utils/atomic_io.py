"""Atomic file and directory writes: write into a temporary folder next to the target, then rename; and file locks.

Temporary folders are called ``.omnisift-XXXXXXXX.part``. Nothing else next to a target is deleted or overwritten. The
process that writes in a temporary folder holds a lock on it, so a folder without a lock is what a killed process left.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from omnisift.errors import UsageError

_RUST_ERROR = re.compile(r"I/O error: .*\(os error (\d+)\)")
_TEMPORARY = re.compile(r"\.omnisift-[0-9a-f]{8}\.part")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for ``path``; sync and rename it to ``path`` if the block succeeds, else delete it.

    A symbolic link stays, and the file that it names is replaced.

    Args:
        path: the file to create or replace. Its folder must exist.

    Yields:
        The temporary path to write to. It has the name of ``path`` and is in a folder of its own.

    Raises:
        UsageError: ``path`` is a device, a pipe or a folder.
        OSError: the file can't be written; the error names ``path``.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise UsageError(f"{path} is not a regular file; name another one")
    with _naming(path), _temporary_folder(target.parent) as folder:
        temporary = folder / path.name
        yield temporary
        _sync(temporary)
        temporary.replace(target)


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

    An existing ``folder`` stays in place until then, and is restored if the exchange fails. A symbolic link stays, and
    the folder that it names is replaced.

    Args:
        folder: the folder to create or replace. Missing parents are created.

    Yields:
        The temporary folder to write in.

    Raises:
        OSError: the folder can't be written; the error names ``folder``.
    """
    target = Path(os.path.realpath(folder))
    with _naming(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(target.parent) as temporary:
            new, old = temporary / "new" / target.name, temporary / "old" / target.name
            new.mkdir(parents=True)
            yield new
            # A folder can't be replaced in one step: move the old one away, then the new one in.
            if target.exists():
                old.parent.mkdir()
                target.rename(old)
            try:
                new.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise


def sync_folder(folder: Path) -> None:
    """Sync the entries of ``folder`` to the disk, so that a file created in it survives a power cut."""
    _sync(folder)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder, whatever its name, for this process until the descriptor is closed.

    Args:
        descriptor: the open file or folder.

    Returns:
        False if another process holds the lock.

    Raises:
        OSError: the file system has no locks.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_writer(descriptor: int, path: Path, results: Path) -> None:
    """Lock an open file as its only writer.

    Args:
        descriptor: the open file.
        path: its path. If the file was deleted or replaced after it was opened, the lock would exclude nobody.
        results: the path that the user named, for the message.

    Raises:
        UsageError: another process holds the lock, or the file system has no locks.
    """
    try:
        alone = try_lock(descriptor) and is_same_file(descriptor, path)
    except OSError as error:
        raise UsageError(
            f"{results} can't be locked against a second writer ({error.strerror}); name a file on a local disk, or "
            "mount this file system with locks"
        ) from None
    if not alone:
        raise UsageError(f"another process is writing {results}; wait for it, or name another --out")


def is_same_file(descriptor: int, path: Path) -> bool:
    """Return whether ``path`` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new, locked folder in ``parent``, and delete it with its content after the block."""
    _clean(parent)
    with ExitStack() as stack:
        folder = _new_folder(parent, stack)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _new_folder(parent: Path, stack: ExitStack) -> Path:
    """Create a temporary folder and lock it until ``stack`` is closed."""
    while True:
        folder = parent / f".omnisift-{secrets.token_hex(4)}.part"
        with suppress(FileExistsError):
            folder.mkdir()
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            try:
                # Before the lock, another process may have taken the folder for one that a killed process left.
                if try_lock(descriptor) and is_same_file(descriptor, folder):
                    return folder
            except OSError:  # no locks here: then no process deletes what others left
                return folder


@cache
def _clean(parent: Path) -> None:
    """Delete the temporary folders in ``parent`` that killed processes left; once in a process, as it lists them."""
    with suppress(OSError):
        for entry in list(os.scandir(parent)):
            if _TEMPORARY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    _clean_one(Path(entry.path))


def _clean_one(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(descriptor):
            return
        # The process may have been killed between the two renames of `atomic_folder`.
        for old in folder.glob("old/*"):
            if not (folder.parent / old.name).exists():
                old.rename(folder.parent / old.name)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise errors of writing as an `OSError` with the name of the target."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None or ".omnisift-" in f"{error.filename} {error.filename2}"
        if not unnamed or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    except Exception as error:
        number = _RUST_ERROR.search(str(error))  # safetensors has an exception of its own
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
