"""The clips of a run: one media file, all media files below a folder, or the lines of a list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from omnisift.errors import UsageError
from omnisift.media.suffixes import MEDIA_SUFFIXES


def clips_of(source: Path) -> tuple[Path, list[str]]:
    """List the clips of a run.

    Args:
        source: a media file, by its suffix; a folder, of which every file with a suffix in `MEDIA_SUFFIXES` counts, in
            the order of names, except hidden and unfinished (``.part``) files; or a UTF-8 text file with one path per
            line, relative to its folder, which may name any file. Dangling links and pipes count as clips, so that
            each of them becomes a row with an error.

    Returns:
        The folder that the names are relative to, and the name of each clip.

    Raises:
        UsageError: nothing exists at ``source``, it can't be read, it holds no clips, or a list names a clip twice.
    """
    if source.is_dir():
        root, names = source, _clips_below(source)
    elif source.is_file():
        root, names = source.parent, [source.name] if _is_clip(source.name) else _listed_clips(source)
    else:
        raise UsageError(f"nothing at {source}; give a clip, a folder of clips, or a text file with one path per line")
    if not names:
        raise UsageError(f"no clips in {source}; known suffixes: {' '.join(sorted(MEDIA_SUFFIXES))}")
    return root, names


def read_text(path: Path, expected: str) -> str:
    """Read a UTF-8 text file that the user named.

    Args:
        path: the file.
        expected: what the file should be, for the error message.

    Raises:
        UsageError: the file can't be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start}); give {expected}") from None
    except OSError as error:
        raise UsageError(f"can't read {path} ({error.strerror}); give {expected}") from None


def _clips_below(folder: Path) -> list[str]:
    def refuse(error: OSError) -> NoReturn:
        raise UsageError(
            f"can't read the folder {error.filename} ({error.strerror}); check its permissions, or give a list"
        )

    clips = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        clips += [Path(parent, name) for name in files if _is_clip(name)]
    return sorted(path.relative_to(folder).as_posix() for path in clips)


def _is_clip(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in MEDIA_SUFFIXES and not name.startswith(".") and ".part" not in path.suffixes


def _listed_clips(path: Path) -> list[str]:
    line_of: dict[str, int] = {}
    expected = "a clip with a known suffix, or a list with one path per line"
    for number, line in enumerate(read_text(path, expected).split("\n"), start=1):
        name = line.strip()
        if "\0" in name:
            raise UsageError(f"{path}:{number}: a NUL character, which no path has; give {expected}")
        if name in line_of:
            raise UsageError(f"{path}:{number} names {name} again (line {line_of[name]}); name each clip once")
        if name:
            line_of[name] = number
    return list(line_of)
