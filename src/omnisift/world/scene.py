"""Scenes: the shapes and sounds of a clip with their times, before rendering.

One shape is visible at a time (two with ``together=2``), for whole seconds. Each shape has one short sound inside its
interval. Seconds without a shape hold distractors: sounds of the same kinds that belong to no shape. So a relevant
sound differs from a distractor by what is visible, not by its loudness.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.world.config import SceneConfig
from omnisift.world.events import Shape, Sound, Title, shape_dict
from omnisift.world.splits import generator, scene_number
from omnisift.world.wide import widened
from omnisift.world.words import COLOR_NAMES, PLACES, SHAPES, SOUNDS


@dataclass(frozen=True)
class Scene:
    """Description of one clip; ``number`` seeds its noise and textures."""

    number: int
    split: str
    seed: int
    shapes: tuple[Shape, ...]
    """In order of time."""
    sounds: tuple[Sound, ...]
    """First the sound of each shape that has one, in the shapes' order; then the distractors in order of time; then the
    spoken words. None if silent."""
    config: SceneConfig = field(default_factory=SceneConfig)
    titles: tuple[Title, ...] = ()
    """Words in the picture, in order of time."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; what only the wide family has is included only there."""
        values = {**asdict(self), "shapes": [shape_dict(s) for s in self.shapes], "config": self.config.as_dict()}
        if not self.titles:
            del values["titles"]
        return values

    def sound_of(self, shape: int) -> int | None:
        """Return the index of the sound of a shape; None if it is silent."""
        return next((i for i, sound in enumerate(self.sounds) if sound.shape == shape), None)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the description, equal on every machine for the same split, seed and configuration."""
        text = json.dumps(self.as_dict(), sort_keys=True, default=float)
        return hashlib.sha256(text.encode()).hexdigest()


def make_scene(seed: int, split: str = "test", config: SceneConfig | None = None) -> Scene:
    """Return the scene of a split and seed, always the same one.

    Args:
        seed: Number of the scene in its split, 0 or more.
        split: ``train``, ``validation`` or ``test``.
        config: Size and difficulty; None means the default world.

    Raises:
        UsageError: The split is unknown, or the seed is negative.
    """
    config = config or SceneConfig()
    number = scene_number(split, seed)
    rng = generator(number, stream=0)
    # Shapes first, then their sounds, then distractors: later draws do not change earlier ones.
    count = int(rng.integers(config.shapes[0], config.shapes[1] + 1))
    starts, lengths = _timetable(count, config, rng)
    colors, forms = rng.permutation(len(COLOR_NAMES))[:count], rng.permutation(len(SHAPES))[:count]
    pool = [SOUNDS[int(i)] for i in rng.permutation(len(SOUNDS))[: config.sound_pool]]
    shapes = _shapes(colors, forms, starts, lengths, config, rng)
    sounds: tuple[Sound, ...] = ()
    if config.sound:
        tied = [_tied_sound(pool[i], i, shapes, config, rng) for i in range(count)]
        sounds = (*tied, *_distractors(shapes, pool, config, rng))
    if config.wide is None:
        return Scene(number, split, int(seed), shapes, sounds, config)
    shapes, sounds, titles = widened(shapes, sounds, config, config.wide, generator(number, stream=6))
    return Scene(number, split, int(seed), shapes, sounds, config, titles)


def _timetable(count: int, config: SceneConfig, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Start and length of each shape in whole seconds, with the free seconds at random between them."""
    # Draw lengths and overlaps until enough seconds stay empty.
    while True:
        lengths = rng.integers(config.shape_seconds[0], config.shape_seconds[1] + 1, size=count)
        shared = _shared_seconds(lengths, config, rng)
        if shared is None:
            continue
        free = config.seconds - int(lengths.sum() - shared.sum())
        if free >= config.empty_seconds:
            break
    group = np.cumsum(shared == 0) - 1  # overlapping shapes form a group
    groups = int((shared == 0).sum())
    before = np.sort(rng.integers(0, free + 1, size=groups))  # free seconds before each group
    starts = before[group] + np.cumsum(lengths) - lengths - np.cumsum(shared)
    return [int(s) for s in starts], [int(n) for n in lengths]


def _shared_seconds(
    lengths: NDArray[np.int64], config: SceneConfig, rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """Seconds that each shape shares with the one before it; None for a draw to reject.

    A draw is rejected if a shape is never alone, or if no two shapes overlap. A second alone separates the shapes
    before and after it, so that three are never visible at once.
    """
    if config.together == 1 or len(lengths) < 2:
        return np.zeros_like(lengths)
    shared = rng.integers(0, config.shape_seconds[1], size=len(lengths))
    shared[0] = 0
    alone = lengths - shared - np.append(shared[1:], 0)
    return shared if alone.min() >= 1 and shared.any() else None


def _shapes(
    colors: NDArray[np.int64],
    forms: NDArray[np.int64],
    starts: list[int],
    lengths: list[int],
    config: SceneConfig,
    rng: np.random.Generator,
) -> tuple[Shape, ...]:
    shapes: list[Shape] = []
    for c, f, start, length in zip(colors, forms, starts, lengths, strict=True):
        occupied = shapes[-1].place if shapes and start < shapes[-1].end else None
        shapes.append(_shape(COLOR_NAMES[int(c)], SHAPES[int(f)], start, length, occupied, config, rng))
    return tuple(shapes)


def _shape(
    color: str, form: str, start: int, seconds: int, occupied: str | None, config: SceneConfig, rng: np.random.Generator
) -> Shape:
    """A shape in a random quarter other than the ``occupied`` one."""
    places = [corner for corner in PLACES if corner != occupied]
    name = places[int(rng.integers(0, len(places)))]
    corner = PLACES.index(name)
    half, unit = config.size / 2, config.size / 112
    radius = int(rng.integers(15, 21)) * unit
    x = (corner % 2) * half + rng.uniform(20, 36) * unit
    y = (corner // 2) * half + rng.uniform(20, 36) * unit
    vx, vy = rng.uniform(-5, 5, 2) * unit
    return Shape(color, form, name, start, seconds, float(x), float(y), float(vx), float(vy), float(radius))


def own_seconds(shapes: tuple[Shape, ...], index: int) -> list[int]:
    """Return the seconds in which only this shape is visible; every scene has at least one."""
    others = {second for i, shape in enumerate(shapes) if i != index for second in range(shape.start, shape.end)}
    return [second for second in range(shapes[index].start, shapes[index].end) if second not in others]


def _tied_sound(
    name: str, index: int, shapes: tuple[Shape, ...], config: SceneConfig, rng: np.random.Generator
) -> Sound:
    """The sound of a shape, in its interval; where shapes can overlap, in a second in which it is alone."""
    seconds = rng.uniform(*config.sound_seconds)
    first, room = shapes[index].start, shapes[index].seconds
    if config.together > 1:
        free_seconds = own_seconds(shapes, index)
        first, room = free_seconds[int(rng.integers(len(free_seconds)))], 1
    start = first + rng.uniform(0.06, room - seconds - 0.06)
    return Sound(name, float(start), float(seconds), index)


def _distractors(
    shapes: tuple[Shape, ...], pool: list[str], config: SceneConfig, rng: np.random.Generator
) -> list[Sound]:
    """Distractors: every empty second has equal slots with one sound each, so that distractors never overlap."""
    busy = {second for shape in shapes for second in range(shape.start, shape.end)}
    unused = pool[len(shapes) :]  # kinds of no shape, in random order
    sounds: list[Sound] = []
    for second in sorted(set(range(config.seconds)) - busy):
        count = int(rng.integers(config.distractors[0], config.distractors[1] + 1))
        for slot in range(count):
            max_length = min(config.sound_seconds[1], 1 / count - 0.06)
            length = rng.uniform(min(config.sound_seconds[0], max_length), max_length)
            start = second + slot / count + rng.uniform(0.02, 1 / count - length - 0.02)
            if config.heard == "any":
                name = pool[int(rng.integers(0, len(pool)))]
            elif unused:
                name = unused.pop()
            else:
                return sounds
            sounds.append(Sound(name, float(start), float(length), -1))
    return sounds
