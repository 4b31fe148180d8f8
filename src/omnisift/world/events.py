"""What happens in a clip: shapes, sounds and titles with their times."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A coloured form, visible from ``start`` for ``seconds``, that drifts inside one quarter of the frame."""

    color: str
    form: str
    place: str
    start: int
    seconds: int
    x: float
    """Centre in pixels in the middle of its interval; ``y`` likewise."""
    y: float
    vx: float
    """Drift in pixels per image (per ``1 / fps`` seconds); ``vy`` likewise."""
    vy: float
    radius: float
    dull: bool = False
    """Whether its colour is mixed with grey; only in the wide family."""

    @property
    def end(self) -> int:
        """Second at which it disappears."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Sound:
    """A short sound event. ``shape`` is the index of the shape it belongs to, or -1 for a distractor or a word."""

    name: str
    """Kind of sound, or a spoken word."""
    start: float
    seconds: float
    shape: int

    @property
    def end(self) -> float:
        """Time at which it ends, in seconds."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Title:
    """A word written in the picture, in the bottom row of tokens; only in the wide family."""

    word: str
    start: int
    seconds: int
    left: int
    """Left edge in pixels."""

    @property
    def end(self) -> int:
        """Second at which it disappears."""
        return self.start + self.seconds


def shape_dict(shape: Shape) -> dict[str, Any]:
    """Return plain data for JSON; ``dull`` was added later and is included only where it is true."""
    values = asdict(shape)
    if not shape.dull:
        del values["dull"]
    return values
