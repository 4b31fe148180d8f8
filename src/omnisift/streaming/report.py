"""The answer about a stream, and what the session holds of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StreamReport:
    """What a session has read, holds, and dropped."""

    seconds: float
    """Seconds of the stream so far."""
    units: int
    """Units that were read into the cache; see `StreamSession.unit_seconds`."""
    held_tokens: int
    """Tokens in the cache: of the stream, and of the text before it."""
    held_units: int
    """Units of which a token is held."""
    held_seconds: float
    """Seconds from the beginning of the oldest of these to the end of the newest."""
    evicted_units: int
    """Units of which no token is left."""
    cache_bytes: int
    """Bytes of keys and values."""
    next_position: int
    """Rotary position along time at which the next unit begins."""
    encode_seconds: float
    """Seconds of work so far: preparing and encoding."""
    compress_seconds: float
    """Choosing tokens."""
    read_seconds: float
    """The language model, and the policy."""
    text_tokens: int = 0
    """Tokens of lines of text among the held ones."""
    repeated_images: int = 0
    """Moments without an image of their own, for which the last one stands."""
    silent_seconds: float = 0.0
    """Seconds of missing samples that are silence."""
    gap_seconds: float = 0.0
    """Seconds without any piece, or before the first image, of which no token exists."""
    late_pieces: int = 0
    """Pieces that came too late; what was missing had been filled."""
    doubled_pieces: int = 0
    """Pieces of which a part was there already."""
    behind_seconds: float = 0.0
    """Seconds by which the session is behind its source, as `omnisift.LiveReader` says."""
    dropped_seconds: float = 0.0
    """Seconds of the source that were left out because the session was behind."""

    @classmethod
    def empty(cls) -> StreamReport:
        """Of a session without an image."""
        return cls(0.0, 0, 0, 0, 0.0, 0, 0, 0, 0.0, 0.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class StreamAnswer:
    """The answer to a question about a stream."""

    text: str
    time: float
    """Seconds of the stream that the answer knows."""
    first_token_seconds: float
    """Seconds from the question to its first token: unfinished pieces and the question itself are read."""
    seconds: float
    """Seconds from the question to the end of the answer."""
    generated_tokens: int
    report: StreamReport
    thinking: str = ""
    """What the model thought before its answer."""

    def __str__(self) -> str:
        return self.text
