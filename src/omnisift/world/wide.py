"""The wide family: shapes of 1 to 6 % of the frame, some dull or silent, with a spoken word and a written one.

It takes the shapes and sounds that the generator of the first family has drawn, and draws the rest by other random
numbers.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from omnisift.world.config import SceneConfig, WideConfig
from omnisift.world.events import Shape, Sound, Title
from omnisift.world.letters import TITLE_WIDTH
from omnisift.world.words import WORDS

_AREA = {"circle": math.pi, "square": 3.1, "triangle": 1.8, "cross": 2.2}
"""Form -> area of a shape of radius 1."""
_WORD_SECONDS = (0.42, 0.6)


def widened(
    shapes: tuple[Shape, ...],
    sounds: tuple[Sound, ...],
    config: SceneConfig,
    wide: WideConfig,
    rng: np.random.Generator,
) -> tuple[tuple[Shape, ...], tuple[Sound, ...], tuple[Title, ...]]:
    """Return the shapes, sounds and titles of a clip of the wide family.

    Args:
        shapes: Shapes of the first family.
        sounds: Their sounds, then the distractors.
        config: Size and difficulty.
        wide: What the wide family has besides.
        rng: Random numbers of this step.
    """
    silent = rng.random(len(shapes)) < wide.silent
    silent[int(rng.integers(len(shapes)))] = False
    shapes = tuple(_resized(shape, config, wide, rng) for shape in shapes)
    title = _title(config, rng)
    word = _word(config, rng)
    if config.conflict:
        word = _contradicting(word, title, rng)
    if not config.sound:
        return shapes, (), (title,)
    heard = tuple(sound for sound in sounds if sound.shape < 0 or not silent[sound.shape])
    return shapes, (*heard, word), (title,)


def _resized(shape: Shape, config: SceneConfig, wide: WideConfig, rng: np.random.Generator) -> Shape:
    """The shape with an area in the range of the family, small ones as often as large ones."""
    low, high = np.log(wide.area)
    area = math.exp(rng.uniform(low, high)) * config.size**2
    return replace(shape, radius=math.sqrt(area / _AREA[shape.form]), dull=bool(rng.random() < wide.dull))


def _title(config: SceneConfig, rng: np.random.Generator) -> Title:
    seconds = int(rng.integers(2, 4))
    start = int(rng.integers(0, config.seconds - seconds + 1))
    left = int(rng.integers(4, config.size - TITLE_WIDTH - 3))
    return Title(WORDS[int(rng.integers(len(WORDS)))], start, seconds, left)


def _word(config: SceneConfig, rng: np.random.Generator) -> Sound:
    """A spoken word inside one second, at the same time as other sounds or not."""
    seconds = rng.uniform(*_WORD_SECONDS)
    start = int(rng.integers(config.seconds)) + rng.uniform(0.03, 0.97 - seconds)
    return Sound(WORDS[int(rng.integers(len(WORDS)))], float(start), float(seconds), -1)


def _contradicting(word: Sound, title: Title, rng: np.random.Generator) -> Sound:
    """The spoken word as another one than the title's, in a second in which the title is shown."""
    others = [name for name in WORDS if name != title.word]
    second = int(rng.integers(title.start, title.end))
    return replace(word, name=others[int(rng.integers(len(others)))], start=second + word.start % 1)
