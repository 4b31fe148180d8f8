"""Atomic writes: no partial files, and the old content is restored on failure."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from omnisift.utils import atomic_io
from omnisift.utils.atomic_io import atomic_file, atomic_folder, write_atomic


def test_a_file_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with atomic_file(path) as unfinished:
        unfinished.write_text("new")
        assert unfinished.suffix == ".mp4"  # writers look at it
        assert not path.exists()
    assert path.read_text() == "new"
    write_atomic(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with suppress(KeyboardInterrupt), atomic_file(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    for content in ("first", "second"):
        with atomic_folder(folder) as unfinished:
            (unfinished / content).write_text(content)
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    with atomic_folder(folder) as unfinished:
        (unfinished / "old").touch()
    with suppress(ValueError), atomic_folder(folder) as unfinished:
        (unfinished / "half").touch()
        raise ValueError
    assert [path.name for path in folder.iterdir()] == ["old"]
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if self.parent.name == "new":
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(PermissionError), atomic_folder(folder) as unfinished:
        (unfinished / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


CHILD = """
import os, sys
from pathlib import Path
from omnisift.utils.atomic_io import atomic_file, atomic_folder
target = Path(sys.argv[2])
if sys.argv[1] == "exchange":
    rename = Path.rename
    Path.rename = lambda self, to: rename(self, to) if self.parent.name != "new" else os.kill(os.getpid(), 9)
with (atomic_file if sys.argv[1] == "file" else atomic_folder)(target) as unfinished:
    (unfinished if sys.argv[1] == "file" else unfinished / "new.txt").write_text("new")
    print("writing", flush=True)
    if sys.argv[1] != "exchange":
        sys.stdin.read()
"""


def child(kind: str, target: Path) -> subprocess.Popen[bytes]:
    """A process that writes ``target`` until it is killed; with "exchange" it dies between the two renames."""
    command = [sys.executable, "-c", CHILD, kind, str(target)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_deleted_and_no_more(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.part").write_text("mine")
    (tmp_path / ".omnisift-mine.part").mkdir()
    killed, writing = (child(kind, tmp_path / name) for name in ("killed", "writing"))
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.glob(".omnisift-????????.part"))) == 2
    atomic_io._clean.cache_clear()
    write_atomic(tmp_path / "other", "text")
    assert len(list(tmp_path.glob(".omnisift-????????.part"))) == 1
    writing.communicate(b"")
    assert {path.name for path in tmp_path.iterdir()} == {"a.part", ".omnisift-mine.part", "writing", "other"}


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    assert child("exchange", folder).wait() == -9
    assert not folder.exists()
    atomic_io._clean.cache_clear()
    write_atomic(tmp_path / "other", "text")
    assert (folder / "old.txt").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"model", "other"}


def test_names_of_any_length(tmp_path: Path) -> None:
    for name in ("a" * 255, "é" * 127, ".hidden", "-o", "a b\n.json"):
        write_atomic(tmp_path / name, "text")
        with atomic_folder(tmp_path / "folders" / name) as folder:
            (folder / "a").touch()
    assert len(list(tmp_path.iterdir())) == 6


def test_where_folders_cannot_be_locked_files_are_written_and_nothing_is_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", flock)
    left = tmp_path / ".omnisift-01234567.part"
    left.mkdir()
    write_atomic(tmp_path / "a", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "a"]


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    with (
        pytest.raises(PermissionError, match=r"Permission denied: '.*/a\.txt'$"),
        atomic_file(tmp_path / "a.txt") as path,
    ):
        raise PermissionError(13, "Permission denied", str(path))
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "none" / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "none" / "a.txt")
    with pytest.raises(OSError, match="No space left") as full, atomic_file(tmp_path / "a.txt"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (full.value.errno, full.value.filename) == (28, str(tmp_path / "a.txt"))
