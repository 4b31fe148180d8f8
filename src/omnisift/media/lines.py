"""`Line`: a piece of text with its time in a clip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line of a subtitle track, or of a transcript."""

    start: float
    """Seconds from the start of the clip at which it begins."""
    end: float
    """Seconds at which it ends."""
    text: str
    """What is said, as plain text: no markup, no line breaks."""
