"""Formats of subtitles: the text of a SubRip or WebVTT file, and of a packet of a subtitle track.

FFmpeg's readers are not used for files: that of WebVTT ends without an error at the first block that it does not
understand, and that of SubRip takes any text.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import TypeAlias

from omnisift.errors import Damaged, NotMedia

TextCue: TypeAlias = "tuple[float, float, str]"
"""Start and end in seconds as the file states them, and the text with its markup."""

TEXT_CODECS = frozenset({"ass", "mov_text", "ssa", "subrip", "text", "webvtt"})
"""Codecs of subtitle tracks that hold text, by FFmpeg's names; all others hold images or need a decoder."""

_ARROW_ROW = re.compile(r"^[ \t]*-?[0-9].*->.*$", re.MULTILINE)
_TIME = r"(-?)(?:(\d{1,9}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,9}))?"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?", re.ASCII)
_LIKE_TIMES = re.compile(r"\s*-?\d+:\d+.*->", re.ASCII)
"""What is meant as the times of a cue, so that it is no text if it can't be read."""
_NUMBER = re.compile(r"\s*\d+\s*", re.ASCII)

_BINARY = re.compile(r"[\x00-\x08\x0e-\x19\x1b-\x1f]")
_ASS_BLOCK = re.compile(r"(\{[^{}]*\})")
_ASS_DRAWING = re.compile(r"\\p(\d)", re.ASCII)
_ASS_SPACE = re.compile(r"\\[nh]")


def decode_text(content: bytes) -> tuple[str, bool]:
    """Decode the bytes of subtitles: UTF-8, UTF-16 with a byte order mark, else Windows-1252.

    Returns:
        The text, and whether it was read as Windows-1252.

    Raises:
        NotMedia: it is none of these.
    """
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_wide else "utf-8-sig"), False
    except UnicodeDecodeError:
        if is_wide:
            raise NotMedia("has broken UTF-16; save it as UTF-8") from None
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        text = "\0"
    if _BINARY.search(text):
        raise NotMedia("is no text in UTF-8, UTF-16 or Windows-1252; save it as UTF-8")
    return text, True


def parse_file(text: str, is_webvtt: bool) -> Iterator[TextCue]:
    """Yield the cues of a file; an empty SubRip file has none.

    Args:
        text: the content of the file.
        is_webvtt: whether it is WebVTT, else SubRip.

    Raises:
        NotMedia: it is no such file.
        Damaged: the times of a cue can't be read.
    """
    text = _with_line_feeds(text)
    if is_webvtt and re.match(r"WEBVTT(\s|$)", text) is None:
        raise NotMedia("does not begin with WEBVTT; give a WebVTT file, or name a SubRip file .srt")
    found = list(_find_times(text))
    if not found and not is_webvtt and text.strip():
        raise NotMedia("has no times such as 00:00:01,000 --> 00:00:02,000; give a SubRip file")
    for place, (row, start, end) in enumerate(found):
        is_last = place + 1 == len(found)
        body = text[row.stop : None if is_last else found[place + 1][0].start]
        if is_webvtt:
            # An empty row ends a cue; what follows is a comment, a style, or the name of the next cue.
            body = body.partition("\n\n")[0]
        elif not is_last:
            # The row before the times of the next cue may be its number.
            before, _, number = body[:-1].rpartition("\n")
            body = before if _NUMBER.fullmatch(number) else body
        yield start, end, body


def packet_text(content: bytes, codec: str) -> tuple[str, bool]:
    """Return the text of one packet with its markup.

    Args:
        content: of the packet.
        codec: one of `TEXT_CODECS`.

    Returns:
        As `decode_text`.

    Raises:
        NotMedia: the packet holds no text.
    """
    if codec == "mov_text":
        # Two bytes state the length of the text; boxes with its style follow.
        content = content[2 : 2 + int.from_bytes(content[:2], "big")]
    text, is_guess = decode_text(content)
    if codec in ("ass", "ssa"):
        # Eight fields (order, layer, style, name, three margins, effect) precede the text.
        fields = text.split(",", 8)
        if len(fields) != 9:
            raise NotMedia("is no line of ASS")
        text = _ass_text(fields[8])
    return _with_line_feeds(text), is_guess


def _find_times(text: str) -> Iterator[tuple[slice, float, float]]:
    """Yield the place in the text of each row that states the times of a cue, with start and end."""
    for row in _ARROW_ROW.finditer(text):
        match = _TIMES.fullmatch(row[0])
        if match is not None:
            groups = match.groups()
            yield slice(*row.span()), _seconds(*groups[:5]), _seconds(*groups[5:])
        elif _LIKE_TIMES.match(row[0]):
            number = text.count("\n", 0, row.start()) + 1
            raise Damaged(f"row {number} states times that can't be read; write 00:00:01.000 --> 00:00:02.000")


def _with_line_feeds(text: str) -> str:
    """A text whose rows end with a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _ass_text(text: str) -> str:
    """A line of ASS without its blocks in braces, and without the drawings that some of them begin."""
    shown, is_drawing = [], False
    for part in _ASS_BLOCK.split(text):
        if part.startswith("{") and part.endswith("}"):
            modes = _ASS_DRAWING.findall(part)
            is_drawing = modes[-1] != "0" if modes else is_drawing
        elif not is_drawing:
            shown.append(part)
    return _ASS_SPACE.sub(" ", "".join(shown))


def _seconds(sign: str, hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    """Seconds of a time; the fraction is of any length."""
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    value = float(f"{whole}.{fraction or 0}")
    return -value if sign else value
