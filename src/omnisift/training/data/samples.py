"""Training data as plain records: a clip and a conversation about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Reading:
    """How clips are read; see `omnisift.media.read`."""

    fps: float = 2.0
    """Frames sampled per second; lowered over the full clip where ``max_frames`` is reached."""
    max_frames: int = 256
    """Maximum number of frames per clip."""
    max_pixels: int | None = None
    """Maximum number of pixels per frame; None means the smaller of the paper's 320 x 28 x 28 and the processor's
    limit."""
    max_seconds: float | None = None
    """Longer clips are skipped and counted; None takes all."""
