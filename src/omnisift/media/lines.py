"""`Line`: a piece of text with its time in a clip; how its text is cleaned, and how lines are put in order."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from omnisift.errors import TooBig, UsageError

MAX_LINES = 20_000
"""Lines of one clip."""
MAX_CHARACTERS = 2000
"""Characters of one line."""
MAX_MARKED = 20 * MAX_CHARACTERS
"""Characters of one line with its markup."""

MAX_TIME = 1e12
"""Seconds that a caller may give: 30,000 years."""

TOUCH = 0.002
"""Seconds between two lines that follow each other without a gap: times are rounded to milliseconds."""
MAX_REPEATED_ROWS = 8
"""Rows of a rolling caption that are looked for in the next one."""

# Markup of SubRip, WebVTT (with its times) and ASS, by name: "1 < 2" and "<image>" are text.
_MARKUP = re.compile(
    r"</?(?:[biusvc]|br|em|font|lang|rt|ruby|span|strong)(?:[\s.][^<>]*)?/?>|<(?:\d+:)+\d+(?:\.\d+)?>|\{\\[^{}]*\}",
    re.IGNORECASE,
)
_ROW_END = re.compile(r"(?:\n|\\N)\s*")
_REMOVED = frozenset({"Cc", "Cf", "Cs"})
"""Unicode categories of control and format characters (directions, zero width) and of lone surrogates."""


@dataclass(frozen=True)
class Line:
    """A line of a subtitle track, or of a transcript."""

    start: float
    """Seconds from the start of the clip at which it begins."""
    end: float
    """Seconds at which it ends."""
    text: str
    """What is said, as plain text: no markup, no line breaks."""


@dataclass(frozen=True)
class Cue:
    """A line as a file states it."""

    start: float
    """Seconds on the clock of the clip."""
    end: float
    """Seconds; not before ``start``."""
    rows: tuple[str, ...]
    """Plain text of each row that is not empty."""


@dataclass
class LineList:
    """Collects the cues of a clip with bounds; `arrange` makes lines of them."""

    until: float
    """Seconds: cues that begin here or later are left out."""
    from_start: bool = True
    """Whether 0 is the start of the clip, so that a cue that ends before it is unusual."""
    cues: list[Cue] = field(default_factory=list)
    reversed: int = 0
    """Cues that end before they begin."""
    early: int = 0
    """Cues that end before the clip begins."""

    def add(self, start: float, end: float, text: str) -> None:
        """Add a cue with its markup.

        Args:
            start: seconds on the clock of the clip; below 0 if it begins before the clip.
            end: seconds.
            text: rows with markup, separated by line feeds.

        Raises:
            TooBig: the text or the number of cues is over its limit.
        """
        if start >= self.until:
            return
        rows = clean_rows(text, f"the subtitle line at {start:.1f} s")
        if not rows:
            return
        if end < start:
            self.reversed += 1
            end = start
        if start < 0 and end <= 0:
            self.early += 1
            return
        if len(self.cues) >= MAX_LINES:
            raise TooBig(f"more than {MAX_LINES} subtitle lines; read a part of the clip with start and end")
        self.cues.append(Cue(max(0.0, start), end, tuple(rows)))

    def arrange(self) -> tuple[Line, ...]:
        """Return the lines in order of their start, without the rows that rolling captions repeat."""
        lines: list[Line] = []
        shown: tuple[str, ...] = ()
        for cue in sorted(self.cues, key=lambda cue: cue.start):
            new = cue.rows
            if lines and cue.start <= lines[-1].end + TOUCH:
                # The rows at the end of the last cue that this one begins with are still the same text.
                new = () if " ".join(cue.rows) == " ".join(shown) else cue.rows[_repeated(shown, cue.rows) :]
            if new:
                lines.append(Line(cue.start, cue.end, " ".join(new)))
            else:
                lines[-1] = Line(lines[-1].start, max(lines[-1].end, cue.end), lines[-1].text)
            shown = cue.rows
        return tuple(lines)

    def warnings(self) -> list[str]:
        """Sentences about what was unusual."""
        found = []
        if self.reversed:
            found.append(f"{self.reversed} subtitle line(s) end before they begin; their start was taken as their end")
        if self.early and self.from_start:
            found.append(f"{self.early} subtitle line(s) end before the clip begins; left out")
        return found


def clean_rows(text: str, name: str) -> list[str]:
    """Return the rows of a line as plain text: without markup, control characters and superfluous spaces, in NFC.

    Args:
        text: rows with markup, separated by line feeds.
        name: the line in an error.

    Raises:
        TooBig: there are more than `MAX_CHARACTERS`, or more than `MAX_MARKED` with the markup.
    """
    # The length comes before each step that may take long for a long text.
    text = text.strip()
    _check_length(len(text), MAX_MARKED, name)
    rows = [" ".join(row.split()) for row in _ROW_END.split(_MARKUP.sub("", text))]
    _check_length(len(" ".join(rows)), MAX_CHARACTERS, name)
    rows = [row for row in map(_plain, rows) if row]
    _check_length(len(" ".join(rows)), MAX_CHARACTERS, name)
    return rows


def check_lines(lines: Any, seconds: float) -> tuple[tuple[Line, ...], list[str]]:
    """Check and clean the lines that a caller gives.

    Args:
        lines: a sequence of `Line` or ``(start, end, text)``.
        seconds: length of the clip.

    Returns:
        The lines in order of their start, and warnings.

    Raises:
        UsageError: a line is no line, or its times are wrong.
        TooBig: a text or the number of lines is over its limit.
    """
    if not isinstance(lines, Sequence) or isinstance(lines, (str, bytes, bytearray)):
        raise UsageError(_no_sequence(lines))
    if len(lines) > MAX_LINES:
        raise TooBig(f"lines has {len(lines)} lines, over the limit of {MAX_LINES}; give a part of the clip")
    checked = []
    for number, line in enumerate(lines):
        start, end, text = _check_line(number, line)
        rows = clean_rows(text, f"lines[{number}]")
        if rows:
            checked.append(Line(max(0.0, start), max(0.0, end), " ".join(rows)))
    return within(sorted(checked, key=lambda line: line.start), seconds)


def in_order(lines: Any) -> tuple[Line, ...]:
    """The lines that a caller gives for a clip that was read, in order of their start. Their text stays as it is.

    Args:
        lines: a sequence of `Line` or ``(start, end, text)``.

    Raises:
        UsageError: as `check_lines`.
    """
    if not isinstance(lines, Sequence) or isinstance(lines, (str, bytes, bytearray)):
        raise UsageError(_no_sequence(lines))
    checked = [Line(*_check_line(number, line)) for number, line in enumerate(lines)]
    return tuple(sorted(checked, key=lambda line: line.start))


def within(lines: Iterable[Line], seconds: float) -> tuple[tuple[Line, ...], list[str]]:
    """Leave out the lines that begin behind the end of a clip, with a warning.

    Args:
        lines: in order of their start.
        seconds: length of the clip.
    """
    lines = tuple(lines)
    kept = tuple(line for line in lines if line.start < seconds)
    if len(kept) == len(lines):
        return lines, []
    behind = f"{len(lines) - len(kept)} line(s) of text begin behind the end of the clip at {seconds:.1f} s; left out"
    return kept, [behind]


def _no_sequence(lines: Any) -> str:
    return f"lines must be a sequence of Line or (start, end, text), got {type(lines).__name__}; use a list"


def _check_line(number: int, line: Any) -> tuple[float, float, str]:
    """Start, end and text of a line that a caller gives."""
    values = (line.start, line.end, line.text) if isinstance(line, Line) else line
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 3:
        raise UsageError(f"lines[{number}] must be a Line or (start, end, text), got {type(line).__name__}; change it")
    start, end, text = values
    if not isinstance(text, str):
        raise UsageError(f"lines[{number}] must have a str as its text, got {type(text).__name__}; decode it")
    for value in (start, end):
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number:
            raise UsageError(
                f"lines[{number}] must have numbers as start and end, got {type(value).__name__}; change it"
            )
        if not abs(value) < MAX_TIME:  # an int may be too large to be written
            raise UsageError(
                f"lines[{number}] must have finite seconds as start and end, got NaN or over {MAX_TIME:g}; change it"
            )
    if end < start:
        raise UsageError(f"lines[{number}] ends before it begins, got {start} to {end}; swap them")
    return float(start), float(end), text


def _check_length(count: int, limit: int, name: str) -> None:
    if count > limit:
        raise TooBig(f"{name} has {count} characters, over the limit of {limit}; split it")


def _plain(row: str) -> str:
    """A row without entities, control characters and superfluous spaces, in NFC."""
    row = html.unescape(row)
    if not row.isprintable():
        row = "".join(c for c in row if c.isspace() or unicodedata.category(c) not in _REMOVED)
    return unicodedata.normalize("NFC", " ".join(row.split()))


def _repeated(before: tuple[str, ...], rows: tuple[str, ...]) -> int:
    """How many of the first rows are the last ones of the cue before."""
    longest = min(len(before), len(rows), MAX_REPEATED_ROWS)
    return next((count for count in range(longest, 0, -1) if before[-count:] == rows[:count]), 0)
