"""What happens in a clip, before anything is drawn: which shapes are visible when, and what sounds when.

One shape is visible at a time, for whole seconds. Each shape has one short sound of its own inside its interval.
Seconds without a shape hold distractors: sounds of the same kinds that belong to nothing. So loudness alone can't tell
a sound that matters from one that doesn't; only the picture can.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from omnisift.errors import UsageError
from omnisift.world.splits import generator, scene_number
from omnisift.world.words import COLOR_NAMES, PLACES, SHAPES, SOUNDS


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
    """Fewest and most shapes in a clip; at most four, since a clip never repeats a form."""
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

    def __post_init__(self) -> None:
        most = self.shapes[1]
        if not 1 <= self.shapes[0] <= most <= len(SHAPES):
            raise UsageError(f"shapes must be a range within 1..{len(SHAPES)}, got {self.shapes}")
        if most * self.shape_seconds[0] > self.seconds - self.empty_seconds:
            raise UsageError(
                f"{most} shapes do not fit into {self.seconds} s with {self.empty_seconds} empty; lengthen it"
            )
        if self.size % 28 or self.size < 56:
            raise UsageError(f"size must be a multiple of 28 and at least 56, got {self.size}")
        if self.file_fps % self.fps:
            raise UsageError(f"file_fps must be a multiple of fps, got {self.file_fps} and {self.fps}")
        if not most <= self.sound_pool <= len(SOUNDS):
            raise UsageError(f"sound_pool must lie in {most}..{len(SOUNDS)}, got {self.sound_pool}")
        if not 0 <= self.distractors[0] <= self.distractors[1] <= 8:
            raise UsageError(f"distractors must be a range within 0..8, got {self.distractors}")


@dataclass(frozen=True)
class Shape:
    """A coloured form that is visible from ``start`` for ``seconds`` and drifts inside one quarter of the picture."""

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

    @property
    def end(self) -> int:
        """The second at which it is gone."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Sound:
    """A short sound event. ``shape`` is the index of the shape it belongs to, or -1 for a distractor."""

    name: str
    start: float
    seconds: float
    shape: int

    @property
    def end(self) -> float:
        """The time at which it is over, in seconds."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Scene:
    """One clip's description: everything that can be asked, and the number from which noise and textures come."""

    number: int
    split: str
    seed: int
    shapes: tuple[Shape, ...]
    """In order of time."""
    sounds: tuple[Sound, ...]
    """First the sound of each shape, in the shapes' order; then the distractors in order of time."""
    config: SceneConfig = field(default_factory=SceneConfig)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and words, for JSON."""
        return asdict(self)

    def fingerprint(self) -> str:
        """SHA-256 of the description, equal on every machine for the same split, seed and config."""
        text = json.dumps(self.as_dict(), sort_keys=True, default=float)
        return hashlib.sha256(text.encode()).hexdigest()


def make_scene(seed: int, split: str = "test", config: SceneConfig | None = None) -> Scene:
    """The scene of ``(split, seed)``: always the same one. `UsageError` for an unknown split or a negative seed."""
    config = config or SceneConfig()
    number = scene_number(split, seed)
    rng = generator(number, stream=0)
    count = int(rng.integers(config.shapes[0], config.shapes[1] + 1))
    starts, lengths = _timetable(count, config, rng)
    colors, forms = rng.permutation(len(COLOR_NAMES))[:count], rng.permutation(len(SHAPES))[:count]
    pool = [SOUNDS[int(i)] for i in rng.permutation(len(SOUNDS))[: config.sound_pool]]
    shapes = tuple(
        _shape(COLOR_NAMES[int(c)], SHAPES[int(f)], start, length, config, rng)
        for c, f, start, length in zip(colors, forms, starts, lengths, strict=True)
    )
    tied = [_tied_sound(pool[i], i, shape, config, rng) for i, shape in enumerate(shapes)]
    sounds = (*tied, *_distractors(shapes, pool, config, rng))
    return Scene(number, split, int(seed), shapes, sounds, config)


def _timetable(count: int, config: SceneConfig, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Start and length of each shape in whole seconds; the free seconds fall anywhere between them."""
    while True:
        lengths = rng.integers(config.shape_seconds[0], config.shape_seconds[1] + 1, size=count)
        free = config.seconds - int(lengths.sum())
        if free >= config.empty_seconds:
            break
    before = np.sort(rng.integers(0, free + 1, size=count))  # free seconds that lie before each shape
    starts = before + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return [int(s) for s in starts], [int(n) for n in lengths]


def _shape(color: str, form: str, start: int, seconds: int, config: SceneConfig, rng: np.random.Generator) -> Shape:
    place = int(rng.integers(0, len(PLACES)))
    half, unit = config.size / 2, config.size / 112
    radius = int(rng.integers(15, 21)) * unit
    x = (place % 2) * half + rng.uniform(20, 36) * unit
    y = (place // 2) * half + rng.uniform(20, 36) * unit
    vx, vy = rng.uniform(-5, 5, 2) * unit
    return Shape(color, form, PLACES[place], start, seconds, float(x), float(y), float(vx), float(vy), float(radius))


def _tied_sound(name: str, index: int, shape: Shape, config: SceneConfig, rng: np.random.Generator) -> Sound:
    seconds = rng.uniform(*config.sound_seconds)
    start = shape.start + rng.uniform(0.06, shape.seconds - seconds - 0.06)
    return Sound(name, float(start), float(seconds), index)


def _distractors(
    shapes: tuple[Shape, ...], pool: list[str], config: SceneConfig, rng: np.random.Generator
) -> list[Sound]:
    """Each empty second is cut into equal slots with one sound in each, so that distractors never overlap."""
    busy = {second for shape in shapes for second in range(shape.start, shape.end)}
    sounds = []
    for second in sorted(set(range(config.seconds)) - busy):
        count = int(rng.integers(config.distractors[0], config.distractors[1] + 1))
        for slot in range(count):
            longest = min(config.sound_seconds[1], 1 / count - 0.06)
            length = rng.uniform(min(config.sound_seconds[0], longest), longest)
            start = second + slot / count + rng.uniform(0.02, 1 / count - length - 0.02)
            sounds.append(Sound(pool[int(rng.integers(0, len(pool)))], float(start), float(length), -1))
    return sounds
