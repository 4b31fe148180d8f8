"""`SceneConfig`: how rich and how hard the scenes are. Later additions are off by default and leave no trace then."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from omnisift.errors import UsageError
from omnisift.world.words import SHAPES, SOUNDS

_LATER = frozenset({"together", "drift", "cuts", "distractor_gain", "heard", "sound"})
"""Fields younger than the first published numbers: at their defaults they stay out of a scene's description."""


@dataclass(frozen=True)
class SceneConfig:
    """How rich and how hard the scenes are. The defaults are the world of the nano model."""

    seconds: int = 6
    """Length of the clip."""
    size: int = 112
    """Height and width of the picture in pixels; a multiple of 28 (one token of Qwen2.5-Omni covers 28 x 28)."""
    fps: int = 2
    """Images per second that a model sees."""
    file_fps: int = 10
    """Pictures per second in the written file; a multiple of ``fps``, so that both show the same instants."""
    sample_rate: int = 16000
    """Audio samples per second."""
    shapes: tuple[int, int] = (2, 4)
    """Fewest and most shapes in a clip; at most four, since a clip never repeats a form; (0, 0) shows none."""
    shape_seconds: tuple[int, int] = (1, 2)
    """Shortest and longest time a shape stays visible."""
    empty_seconds: int = 2
    """At least so many seconds show no shape."""
    sound_seconds: tuple[float, float] = (0.12, 0.24)
    """Shortest and longest sound event."""
    sound_pool: int = 6
    """How many kinds of sound a clip uses; the rest can be asked for and are not heard."""
    distractors: tuple[int, int] = (3, 4)
    """Fewest and most distractor sounds in each empty second."""
    rumbles: tuple[int, int] = (2, 4)
    """Fewest and most long low rumbles, which are never asked about."""
    noise: float = 10.0
    """Standard deviation of the picture noise, of 255."""
    together: int = 1
    """Most shapes visible at once, 1 or 2. With 2, some neighbours in time overlap by whole seconds, in different
    quarters of the picture; each shape still has a second of its own, and its sound lies in such a second."""
    drift: tuple[float, float] = (0.0, 0.0)
    """Slowest and fastest pan of the background, in pixels per image (per ``1 / fps`` seconds)."""
    cuts: tuple[int, int] = (0, 0)
    """Fewest and most whole seconds at which the background becomes another one."""
    distractor_gain: float = 1.0
    """Distractors are so many times as loud as they would be. From 2.5 on, none is drawn softer than a tied sound."""
    heard: str = "any"
    """What ``heard`` asks about: "any" sound, or only one that is "unseen": heard once, while nothing is visible. Then
    no distractor shares its kind with another sound; when all kinds are used up, the rest of the clip has none."""
    sound: bool = True
    """Whether the clip has a sound track at all."""

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_picture()
        self._check_sounds()
        if self.heard not in ("any", "unseen"):
            raise UsageError(f"heard must be 'any' or 'unseen', got {self.heard!r}")
        if self.heard == "unseen":
            self._check_unseen()

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and words, for JSON; later-added fields only where they are not at their defaults."""
        every = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, usual) in every.items() if name not in _LATER or value != usual}

    def _check_shapes(self) -> None:
        most = self.shapes[1]
        if tuple(self.shapes) != (0, 0) and not 1 <= self.shapes[0] <= most <= len(SHAPES):
            raise UsageError(f"shapes must be a range within 1..{len(SHAPES)}, or (0, 0), got {self.shapes}")
        if self.together not in (1, 2):
            raise UsageError(f"together must be 1 or 2, got {self.together}")
        shortest = self.shape_seconds[0]
        if self.together == 2 and shortest < 2:
            raise UsageError(f"shapes that are visible together need shape_seconds of at least 2, got {shortest}")
        needed = most * shortest
        if self.together == 2:  # at best, pairs that share all but one second each
            needed = most // 2 * (shortest + 1) + most % 2 * shortest
        if needed > self.seconds - self.empty_seconds:
            raise UsageError(
                f"{most} shapes do not fit into {self.seconds} s with {self.empty_seconds} empty; lengthen it"
            )

    def _check_picture(self) -> None:
        if self.size % 28 or self.size < 56:
            raise UsageError(f"size must be a multiple of 28 and at least 56, got {self.size}")
        if self.file_fps % self.fps:
            raise UsageError(f"file_fps must be a multiple of fps, got {self.file_fps} and {self.fps}")
        if not 0 <= self.drift[0] <= self.drift[1] <= self.size:
            raise UsageError(f"drift must be a range within 0..{self.size} pixels, got {self.drift}")
        if not 0 <= self.cuts[0] <= self.cuts[1] <= self.seconds - 1:
            raise UsageError(f"cuts must be a range within 0..{self.seconds - 1}, got {self.cuts}")

    def _check_sounds(self) -> None:
        most = self.shapes[1]
        if not most <= self.sound_pool <= len(SOUNDS):
            raise UsageError(f"sound_pool must lie in {most}..{len(SOUNDS)}, got {self.sound_pool}")
        if not 0 <= self.distractors[0] <= self.distractors[1] <= 8:
            raise UsageError(f"distractors must be a range within 0..8, got {self.distractors}")
        if not 0 < self.distractor_gain <= 10:
            raise UsageError(f"distractor_gain must be above 0 and at most 10, got {self.distractor_gain}")

    def _check_unseen(self) -> None:
        if not self.sound:
            raise UsageError("heard='unseen' needs sound, got sound=False; leave heard at 'any'")
        if self.empty_seconds < 1 or self.distractors[0] < 1:
            raise UsageError(
                "heard='unseen' needs empty_seconds and distractors of at least 1, "
                f"got {self.empty_seconds} and {self.distractors}"
            )
        if self.sound_pool <= self.shapes[1]:
            raise UsageError(f"heard='unseen' needs sound_pool above {self.shapes[1]} shapes, got {self.sound_pool}")
