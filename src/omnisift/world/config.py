"""Configuration of generated scenes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.suggest import check_choice
from omnisift.world.degradations import DEGRADATIONS
from omnisift.world.words import SHAPES, SOUNDS

_LATER = frozenset({"together", "drift", "cuts", "distractor_gain", "heard", "sound", "wide", "degraded", "conflict"})
"""Fields added after the first published results: at their defaults they are not in the description of a scene."""


@dataclass(frozen=True)
class WideConfig:
    """What clips of the wide family have besides shapes and sounds; ranges are (minimum, maximum)."""

    area: tuple[float, float] = (0.01, 0.06)
    """Share of the frame that a shape covers."""
    dull: float = 0.3
    """Probability that a shape's colour is mixed with grey."""
    silent: float = 0.25
    """Probability that a shape has no sound; at least one keeps its sound."""
    still: tuple[int, int] = (4, 8)
    """Grey objects of no interest that stand still, so that they move with the camera, nearer than the background."""
    moving: tuple[int, int] = (1, 3)
    """Grey objects of no interest that move."""
    decoys: tuple[int, int] = (0, 1)
    """Large white objects that blink and move, and make no sound."""
    pan: tuple[float, float] = (0.0, 8.0)
    """Speed of the camera in pixels per image (per ``1 / fps`` seconds); it turns back at the ends of its path."""
    changes: tuple[int, int] = (0, 2)
    """Changes of the background at whole seconds; each is a cut or a fade of two seconds."""
    snr: tuple[float, float] = (0.0, 10.0)
    """Level of the quietest event above the continuous background sound, in dB."""


@dataclass(frozen=True)
class SceneConfig:
    """Size and difficulty of scenes. The defaults are the world of the nano model; ranges are (minimum, maximum)."""

    seconds: int = 6
    """Length of the clip in seconds."""
    size: int = 112
    """Height and width of the video in pixels; a multiple of 28, since one token of Qwen2.5-Omni covers 28 x 28."""
    fps: int = 2
    """Images per second that a model reads."""
    file_fps: int = 10
    """Frames per second of the file; a multiple of ``fps``, so that both have the same instants."""
    sample_rate: int = 16000
    """Audio samples per second."""
    shapes: tuple[int, int] = (2, 4)
    """Shapes in a clip; at most four, since a clip never repeats a form; (0, 0) has none."""
    shape_seconds: tuple[int, int] = (1, 2)
    """Seconds for which a shape is visible."""
    empty_seconds: int = 2
    """Minimum number of seconds without a shape."""
    sound_seconds: tuple[float, float] = (0.12, 0.24)
    """Length of a sound event in seconds."""
    sound_pool: int = 6
    """Kinds of sound in a clip; questions can ask for the other kinds, which do not occur."""
    distractors: tuple[int, int] = (3, 4)
    """Distractor sounds in each empty second."""
    rumbles: tuple[int, int] = (2, 4)
    """Long low rumbles, which no question is about."""
    noise: float = 10.0
    """Standard deviation of the noise of pixels, of 255."""
    together: int = 1
    """Maximum number of shapes visible at once, 1 or 2. With 2, some successive shapes overlap by whole seconds, in
    different quarters of the frame; each shape is alone for at least one second, and its sound is in such a second."""
    drift: tuple[float, float] = (0.0, 0.0)
    """Speed of the pan of the background, in pixels per image (per ``1 / fps`` seconds)."""
    cuts: tuple[int, int] = (0, 0)
    """Number of times that the background changes, at whole seconds."""
    distractor_gain: float = 1.0
    """Factor of the amplitude of distractors. From 2.5 on, none is quieter than a sound of a shape."""
    heard: str = "any"
    """Sounds that ``heard`` asks about: "any", or "unseen" ones, which occur once while no shape is visible. With
    "unseen", no distractor has the kind of another sound; when all kinds are used, no further distractors follow."""
    sound: bool = True
    """Whether the clip has an audio track."""
    wide: WideConfig | None = None
    """Contents of the wide family; None has a clip of the first family."""
    degraded: str = ""
    """Name of a degradation (`omnisift.world.degradations`); empty for none."""
    conflict: bool = False
    """Whether the voice contradicts the title: it says another word, while the title is shown (wide family only)."""

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_video()
        self._check_sounds()
        if self.heard not in ("any", "unseen"):
            raise UsageError(f"heard must be 'any' or 'unseen', got {self.heard!r}")
        if self.heard == "unseen":
            self._check_unseen()
        self._check_wide()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; fields added later are included only where they differ from their defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        if self.wide is not None:
            values["wide"] = (asdict(self.wide), None)
        return {name: value for name, (value, default) in values.items() if name not in _LATER or value != default}

    def _check_shapes(self) -> None:
        max_shapes = self.shapes[1]
        if tuple(self.shapes) != (0, 0) and not 1 <= self.shapes[0] <= max_shapes <= len(SHAPES):
            raise UsageError(f"shapes must be a range within 1..{len(SHAPES)}, or (0, 0), got {self.shapes}")
        if self.together not in (1, 2):
            raise UsageError(f"together must be 1 or 2, got {self.together}")
        min_seconds = self.shape_seconds[0]
        if self.together == 2 and min_seconds < 2:
            raise UsageError(f"two visible shapes at once need shape_seconds of at least 2, got {min_seconds}")
        needed = max_shapes * min_seconds
        if self.together == 2:  # at best, pairs that share all but one second each
            needed = max_shapes // 2 * (min_seconds + 1) + max_shapes % 2 * min_seconds
        if needed > self.seconds - self.empty_seconds:
            raise UsageError(
                f"{max_shapes} shapes do not fit into {self.seconds} s with {self.empty_seconds} s empty; raise seconds"
            )

    def _check_video(self) -> None:
        if self.size % 28 or self.size < 56:
            raise UsageError(f"size must be a multiple of 28 and at least 56, got {self.size}")
        if self.file_fps % self.fps:
            raise UsageError(f"file_fps must be a multiple of fps, got {self.file_fps} and {self.fps}")
        if not 0 <= self.drift[0] <= self.drift[1] <= self.size:
            raise UsageError(f"drift must be a range within 0..{self.size} pixels, got {self.drift}")
        if not 0 <= self.cuts[0] <= self.cuts[1] <= self.seconds - 1:
            raise UsageError(f"cuts must be a range within 0..{self.seconds - 1}, got {self.cuts}")

    def _check_sounds(self) -> None:
        max_shapes = self.shapes[1]
        if not max_shapes <= self.sound_pool <= len(SOUNDS):
            raise UsageError(f"sound_pool must be in {max_shapes}..{len(SOUNDS)}, got {self.sound_pool}")
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

    def _check_wide(self) -> None:
        check_choice("degraded", self.degraded, ("", *DEGRADATIONS))
        if self.conflict and (self.wide is None or not self.sound):
            raise UsageError("a conflict needs a title and a voice: a clip of the wide family with sound")
        if self.wide is None:
            return
        if self.size < 224 or self.seconds < 4 or self.shapes[0] < 1:
            raise UsageError(
                "a wide clip needs a size of at least 224, 4 seconds and a shape, "
                f"got {self.size}, {self.seconds} and {self.shapes[0]}"
            )
        if (self.drift, self.cuts, self.distractor_gain, self.heard) != ((0.0, 0.0), (0, 0), 1.0, "any"):
            raise UsageError(
                "a wide clip has its own camera and background; leave drift, cuts, gain and heard as they are"
            )
