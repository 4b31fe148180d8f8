"""The clips of a run: one media file, all media files below a folder, or the lines of a list."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from omnisift.errors import UsageError
from omnisift.media.signatures import looks_like_media
from omnisift.media.source import HEAD, describe_file
from omnisift.media.suffixes import MEDIA_SUFFIXES, OTHER_MEDIA_SUFFIXES

SHOWN = 5
"""Files named in a sentence about many."""


def clips_of(source: Path) -> tuple[Path, list[str]]:
    """List the clips of a run.

    Args:
        source: a media file, by its suffix; a folder, of which every file with a suffix in `MEDIA_SUFFIXES` counts, in
            the order of names, except hidden and unfinished (``.part``) files; or a UTF-8 text file with one path per
            line, relative to its folder, which may name any file; lines that begin with ``#`` are comments. Dangling
            links and pipes count as clips, so that each of them becomes a row with an error.

    Returns:
        The folder that the names are relative to, and the name of each clip.

    Raises:
        UsageError: nothing exists at ``source``, it can't be read, it holds no clips, or a list names a clip twice.
    """
    if source.is_dir():
        paths = [path for path in _files_below(source) if _is_clip(path.name)]
        root, names = source, [path.relative_to(source).as_posix() for path in paths]
    elif source.is_file():
        root, names = source.parent, [source.name] if _is_clip(source.name) else _listed_clips(source)
    else:
        raise UsageError(f"nothing at {source}; give a clip, a folder of clips, or a text file with one path per line")
    if not names:
        others = f" ({describe_left_out(left_out)})" if (left_out := left_out_of(source)) else ""
        raise UsageError(f"no clips in {source}{others}; known suffixes: {' '.join(sorted(MEDIA_SUFFIXES))}")
    return root, names


def left_out_of(source: Path) -> list[str]:
    """List the files of a folder that look like media and are no clips by their suffix; none for a clip or a list.

    A file looks like media if its suffix is that of a format which can't be read, or if its first bytes are those of
    one that can. Hidden and unfinished files are not listed.
    """
    if not source.is_dir():
        return []
    paths = [path for path in _files_below(source) if _is_finished(path.name) and not _is_clip(path.name)]
    return [path.relative_to(source).as_posix() for path in paths if _looks_like_media(path)]


def describe_left_out(names: Sequence[str]) -> str:
    """One sentence about the result of `left_out_of`, with the first few names."""
    shown = ", ".join(describe_file(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"files that look like media but have other suffixes ({len(names)}): {shown}"


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


def _files_below(folder: Path) -> list[Path]:
    """All files below a folder, hidden folders left out, in the order of names."""

    def refuse(error: OSError) -> NoReturn:
        raise UsageError(
            f"can't read the folder {error.filename} ({error.strerror}); check its permissions, or give a list"
        )

    paths = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(parent, name) for name in files]
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _is_clip(name: str) -> bool:
    return Path(name).suffix.lower() in MEDIA_SUFFIXES and _is_finished(name)


def _is_finished(name: str) -> bool:
    return not name.startswith(".") and ".part" not in Path(name).suffixes


def _looks_like_media(path: Path) -> bool:
    """By suffix or content; not for a file that can't be read, or is a pipe, which might block."""
    if path.suffix.lower() in OTHER_MEDIA_SUFFIXES:
        return True
    try:
        if not path.is_file() or not path.stat().st_size:
            return False
        with path.open("rb") as file:
            return looks_like_media(file.read(HEAD))
    except OSError:
        return False


def _listed_clips(path: Path) -> list[str]:
    line_of: dict[str, int] = {}
    expected = "a clip with a known suffix, or a list with one path per line"
    for number, line in enumerate(read_text(path, expected).split("\n"), start=1):
        name = line.strip()
        if "\0" in name:
            raise UsageError(f"{path}:{number}: a NUL character, which no path has; give {expected}")
        if name in line_of:
            raise UsageError(f"{path}:{number} names {name} again (line {line_of[name]}); name each clip once")
        if name and not name.startswith("#"):
            line_of[name] = number
    return list(line_of)
