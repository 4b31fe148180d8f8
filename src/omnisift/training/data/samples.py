"""Training data as plain records: a clip and a conversation about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omnisift.config import ReadOptions

ROLES = ("system", "user", "assistant")
CLIP = "<video>"
"""Placeholder of the clip in a user turn."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``; assistant turns are what is learned."""
    text: str
    """Text without media tags: the clip comes before the first user turn."""


@dataclass(frozen=True)
class Sample:
    """One row of a data set: a conversation about at most one clip."""

    id: str
    """The row's id, or its file and line; used in messages and counts."""
    media: Path | None
    """A file with video, audio or both; None for a row of text only."""
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True)
class Reading(ReadOptions):
    """How clips are read for training."""

    max_seconds: float | None = None
    """Longer clips are skipped and counted; None takes all."""
