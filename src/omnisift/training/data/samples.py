"""What fine-tuning learns from: a clip and a conversation about it. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROLES = ("system", "user", "assistant")
CLIP = "<video>"
"""Where the clip stands in a turn of the user."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``; what the assistant says is learned."""
    text: str
    """Without any tag: the clip stands before the first turn of the user."""


@dataclass(frozen=True)
class Sample:
    """One row: at most one clip, with its own sound, and what is said about it."""

    id: str
    """For messages and counts: the row's own id, or its file and line."""
    media: Path | None
    """A file with picture, sound or both; None for a row of text alone."""
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Reading:
    """How clips are read (`omnisift.media.read`)."""

    fps: float = 2.0
    """Pictures sampled per second; lowered over the whole clip where ``max_frames`` caps it."""
    max_frames: int = 256
    """Most pictures of a clip."""
    max_pixels: int | None = None
    """Most pixels of a picture; None means the paper's 320 x 28 x 28 or the processor's limit, whichever is less."""
    max_seconds: float | None = None
    """A longer clip is left out, and counted; None takes all."""
