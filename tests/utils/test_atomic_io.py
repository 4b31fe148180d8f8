"""Atomic writes: no partial files, and the old content is restored on failure."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

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
