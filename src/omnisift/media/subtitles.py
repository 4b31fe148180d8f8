"""Subtitles of a clip: of the file beside it, else of its first track of text."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.subtitles.stream import SubtitleStream

from omnisift.errors import Damaged, MediaError, NotMedia, NotReadable, TooBig, UsageError
from omnisift.media.container import open_container, read_packets
from omnisift.media.cues import TEXT_CODECS, decode_text, packet_text, parse_file
from omnisift.media.headers import ENOUGH
from omnisift.media.lines import Line, LineList
from omnisift.media.source import Source, describe_file
from omnisift.media.work import WorkBudget

TextKind: TypeAlias = Literal["subtitles"] | None
"""What `omnisift.media.read` takes as ``text``."""

MAX_BYTES = 16 << 20
"""Bytes of a file, or of the text of a track."""
CHECK_STEP = 256
"""Cues, or names in a folder, between two looks at the time."""
MAX_NAMES = 8
"""Files that a warning names."""

_REST = re.compile(r"(\.[a-z]{2,8}(?:[-_][a-z0-9]{1,8})*)?\.(srt|vtt)", re.IGNORECASE | re.ASCII)
"""What follows the name of a clip in that of its subtitles: perhaps a language such as ``.en`` or ``.pt-BR``."""


def check_text(text: object) -> None:
    """Raise `UsageError` unless ``text`` is one of the choices of `omnisift.media.read`."""
    if not (text is None or (isinstance(text, str) and text == "subtitles")):
        raise UsageError(f"text must be None or 'subtitles', got {text!r:.40}")


def read_subtitles(
    file: Source, budget: WorkBudget, *, zero: float, start: float, until: float, strict: bool = False
) -> tuple[tuple[Line, ...], list[str]]:
    """Read the lines of a clip.

    Args:
        file: as `check_source` returned it; beside a file object nothing is looked for.
        budget: what reading the file may cost.
        zero: seconds on the file's own clock that are 0 in the result.
        start: seconds of the clip that are 0 in the result.
        until: seconds of the result; lines that begin here or later are left out.
        strict: whether a damaged packet of a track is an error.

    Returns:
        The lines in order of their start, and sentences about what was unusual.

    Raises:
        MediaError: subtitles are there and can't be read, or are over a limit.
    """
    lines = LineList(until, from_start=start == 0)
    beside, warnings = find_beside(file, budget)
    if beside is not None:
        warnings += _read_beside(beside, lines, start, budget)
    else:
        warnings += _read_track(file, lines, zero, budget, strict)
    return lines.arrange(), warnings + lines.warnings()


def find_beside(file: Source, budget: WorkBudget) -> tuple[Path | None, list[str]]:
    """Find the file of subtitles beside a clip.

    That is ``clip.srt``, else ``clip.vtt``, else the first in the alphabet of those with a language in their name.

    Args:
        file: as `check_source` returned it.
        budget: what reading the file may cost.

    Returns:
        The file; None without one. And warnings: of several languages, and of what is no file.
    """
    if file.content is not None:
        return None, []
    found, warnings = [], []
    stem = file.path.stem
    try:
        with os.scandir(file.path.parent) as entries:
            for number, entry in enumerate(entries):
                if number % CHECK_STEP == 0:
                    budget.check_time()
                match = _REST.fullmatch(entry.name, len(stem)) if entry.name.startswith(stem) else None
                if match is not None:
                    found.append((match[1] is not None, "" if match[1] else match[2].lower(), entry.name))
    except OSError as error:
        return None, [f"no file beside it can be looked for: its folder can't be listed ({type(error).__name__})"]
    files = [one for one in sorted(found) if _is_regular(file.path.with_name(one[2]))]
    if len(files) < len(found):
        warnings.append(f"not read because it is no regular file: {_listed(set(found) - set(files))}")
    if not files:
        return None, warnings
    has_language, _, name = files[0]
    if has_language and len(files) > 1:
        warnings.append(f"{len(files)} files of subtitles ({_listed(files)}); {describe_file(name)} was read")
    return file.path.with_name(name), warnings


def _listed(found: Iterable[tuple[bool, str, str]]) -> str:
    """Names for a message: the first ones in the alphabet."""
    names = sorted(describe_file(name) for *_, name in found)
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def _is_regular(path: Path) -> bool:
    """Whether a path leads to a regular file; without opening it, which may have effects on a device."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _read_beside(path: Path, lines: LineList, start: float, budget: WorkBudget) -> list[str]:
    """Read the cues of a file; returns warnings. Errors name the file."""
    name = describe_file(path.name)
    count = 0
    try:
        text, is_guess = decode_text(_content(path))
        for begin, end, body in parse_file(text, path.suffix.lower() == ".vtt"):
            if count % CHECK_STEP == 0:
                budget.check_time()
            lines.add(begin - start, end - start, body)
            count += 1
    except MediaError as error:
        raise type(error)(f"its subtitles {name}: {error}") from None
    warnings = [f"{name} is not UTF-8; it was read as Windows-1252"] if is_guess else []
    return warnings if count else [*warnings, f"no subtitles: {name} has no lines"]


def _content(path: Path) -> bytes:
    """The bytes of a regular file of bounded size."""
    try:
        # Without waiting, should another kind of file be there by now.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as handle:
            state = os.fstat(handle.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise NotReadable("is no regular file; give one")
            # Files of the kernel have no size, and may block a reader.
            content = handle.read(MAX_BYTES + 1) if state.st_size else b""
    except OSError as error:
        raise NotReadable(f"can't be read ({error.strerror or type(error).__name__}); check its permissions") from None
    if len(content) > MAX_BYTES:
        raise TooBig(f"has more than {MAX_BYTES} bytes; give the subtitles of this clip alone")
    return content


def _read_track(file: Source, lines: LineList, zero: float, budget: WorkBudget, strict: bool) -> list[str]:
    """Read the cues of the default track of text, else of the first one; returns warnings."""
    with open_container(file) as container:
        tracks, others = _text_tracks(container)
        warnings = [f"subtitle track {number} ({codec}) holds no text; it was not read" for number, codec in others]
        if not tracks:
            return [*warnings, _nothing_found(file)]
        default = next((stream for stream, _ in tracks if stream.disposition & Disposition.default), None)
        stream, codec = next((track for track in tracks if track[0] is default), tracks[0])
        if len(tracks) > 1:
            which = "the default one" if default else f"track {stream.index}"
            warnings.append(f"{len(tracks)} subtitle tracks; {which} was read")
        try:
            packets = read_packets(container, [stream], budget)
            return warnings + _read_packets(packets, codec, lines, zero, strict)
        except MediaError as error:
            raise type(error)(f"its subtitle track {stream.index}: {error}") from None


def _read_packets(
    packets: Iterator[Packet[Any] | None], codec: str, lines: LineList, zero: float, strict: bool
) -> list[str]:
    """Read the cues of a track's packets; returns warnings."""
    size = damaged = guesses = count = late = 0
    for packet in packets:
        if packet is None or packet.pts is None or not packet.time_base:
            damaged += 1
            continue
        size += packet.size
        if size > MAX_BYTES:
            raise TooBig(f"has more than {MAX_BYTES} bytes of text; write a shorter track, or none")
        try:
            text, is_guess = packet_text(bytes(packet), codec)
        except NotMedia:
            damaged += 1
            continue
        begin = float(packet.pts * packet.time_base) - zero
        late = late + 1 if begin >= lines.until else 0
        if late == ENOUGH:
            break
        lines.add(begin, begin + max(0.0, float((packet.duration or 0) * packet.time_base)), text)
        guesses += is_guess
        count += bool(text.strip())
    if damaged and strict:
        raise Damaged(f"{damaged} packets can't be read; get a complete copy, or read with strict=False")
    warnings = [f"{damaged} damaged packet(s) of subtitles left out"] if damaged else []
    if guesses:
        warnings.append(f"{guesses} packet(s) of subtitles are not UTF-8; they were read as Windows-1252")
    return warnings if count else [*warnings, "no subtitles: the track of text has no lines"]


def _text_tracks(container: InputContainer) -> tuple[list[tuple[SubtitleStream, str]], list[tuple[int, str]]]:
    """The subtitle tracks of text with their codecs, and the numbers and codecs of the others."""
    tracks, others = [], []
    for stream in container.streams.subtitles:
        context = getattr(stream, "codec_context", None)
        codec = context.codec.canonical_name if context is not None else "unknown codec"
        if codec in TEXT_CODECS:
            tracks.append((stream, codec))
        else:
            others.append((stream.index, codec))
    return tracks, others


def _nothing_found(file: Source) -> str:
    """The warning that says what was looked for."""
    if file.content is not None:
        return "no subtitles: no track holds text"
    stem = describe_file(file.path.stem)
    return f"no subtitles: no {stem}.srt, {stem}.vtt or {stem}.LANGUAGE.srt lies beside it, and no track holds text"
