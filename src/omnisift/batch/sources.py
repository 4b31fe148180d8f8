"""Which clips a run is about: all media files below a folder, or the lines of a list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from omnisift.errors import UsageError

_FILM = {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".gif"}
_SOUND = {".wav", ".mp3", ".m4a", ".flac", ".ogg", ".oga", ".opus", ".aac"}
SUFFIXES = frozenset(_FILM | _SOUND)
"""What counts as a clip in a folder; a list may name anything."""


def clips_of(source: Path) -> tuple[Path, list[str]]:
    """(root, names): the folder that the names are relative to, and every clip's name, each once.

    In a folder: every name with one of `SUFFIXES`, in order, hidden and unfinished (``.part``) files left out. A link
    to nowhere or a pipe counts: it becomes a row with an error, not a hole. In a list: one path a line, empty lines
    left out; relative ones start at the list's folder.

    Raises:
        UsageError: nothing there, an unreadable folder or list, no clips, or a list that names one twice.
    """
    if source.is_dir():
        root, names = source, _below(source)
    elif source.is_file():
        root, names = source.parent, _listed(source)
    else:
        raise UsageError(f"nothing at {source}; give a folder of clips, or a text file with one path a line")
    if not names:
        raise UsageError(f"no clips in {source}; known endings: {' '.join(sorted(SUFFIXES))}")
    return root, names


def read_text(path: Path, what: str) -> str:
    """The text of a file that the user named. `UsageError` if it can't be read; ``what`` says what it should be."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start}); give {what}") from None
    except OSError as error:
        raise UsageError(f"can't read {path} ({error.strerror}); give {what}") from None


def _below(folder: Path) -> list[str]:
    def refuse(error: OSError) -> NoReturn:
        raise UsageError(f"can't look into {error.filename} ({error.strerror}); check its rights, or give a list")

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if _is_clip(name)]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _is_clip(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not name.startswith(".") and ".part" not in path.suffixes


def _listed(path: Path) -> list[str]:
    lines: dict[str, int] = {}
    for number, line in enumerate(read_text(path, "a list with one path a line").split("\n"), start=1):
        name = line.strip()
        if name in lines:
            raise UsageError(f"{path}:{number} names {name} again (line {lines[name]}); name each clip once")
        if name:
            lines[name] = number
    return list(lines)
