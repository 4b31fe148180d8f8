"""What was unusual in a stream: typed warnings, counted, so that an endless stream has a bounded list of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

WarningKind = Literal["clip", "clock", "damaged", "gap", "order", "track"]


@dataclass(frozen=True)
class StreamWarning:
    """Something unusual that did not end a stream."""

    kind: WarningKind
    """``clip``: a warning of `omnisift.media.read`; ``clock``: time stamps jumped, and time continues without a gap;
    ``damaged``: packets that can't be decoded; ``gap``: images or audio missing for a while; ``order``: frames with
    decreasing time stamps, or a file that has to be decoded in one pass; ``track``: a track that is left out."""
    text: str
    """A sentence."""
    time: float
    """Seconds of the stream at which it happened first."""
    count: int = 1
    """How often it happened."""


class WarningLog:
    """Counts warnings; those of one text are one warning."""

    def __init__(self) -> None:
        self._warnings: dict[tuple[WarningKind, str], StreamWarning] = {}

    def add(self, kind: WarningKind, text: str, time: float = 0.0) -> None:
        """Count a warning. ``text`` holds no number that changes from one time to the next."""
        known = self._warnings.get((kind, text))
        new = StreamWarning(kind, text, time) if known is None else replace(known, count=known.count + 1)
        self._warnings[kind, text] = new

    def all(self) -> tuple[StreamWarning, ...]:
        """Return the warnings in the order in which they first happened."""
        return tuple(self._warnings.values())
