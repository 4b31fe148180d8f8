"""Background of the wide family: structured walls seen by a moving camera, with objects of no interest before them.

A wall has a 1/f texture, or many overlapping grey discs and blocks of all sizes ("dead leaves"), whose statistics are
those of photographs. Walls change by cuts and fades. Still objects are nearer than the wall, so that the camera moves
them further (parallax). All objects are grey, and a decoy is white: no answer is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omnisift.world.backdrop import enlarge
from omnisift.world.config import WideConfig
from omnisift.world.scene import Scene
from omnisift.world.splits import generator

Picture = NDArray[np.float32]
_REACH = 96
"""Pixels that the camera moves before it turns back."""
_SHAKE = 3
"""Largest amplitude of the camera's shake in pixels."""
_NEARER = 1.8
"""Motion of still objects by the camera, as a multiple of the wall's."""
_LEAVES = 140
_BLINKS = 2.5
"""Changes of a decoy's brightness per second."""


@dataclass(frozen=True, eq=False)
class _Thing:
    """An object of no interest, visible from ``start`` to ``end`` seconds."""

    inside: NDArray[np.bool_]
    """[h, w] bool: its pixels."""
    color: Picture
    """[3]."""
    at: NDArray[np.float64]
    """[2]: left and top edge in pixels at time 0."""
    speed: NDArray[np.float64]
    """[2]: pixels per second; ignored for a still object."""
    start: float
    end: float
    blinks: bool = False


@dataclass(frozen=True, eq=False)
class _Place:
    """What the camera sees between two changes."""

    wall: Picture
    """[side, side, 3]."""
    still: tuple[_Thing, ...]


@dataclass(frozen=True, eq=False)
class Scenery:
    """Everything behind the shapes of a clip."""

    places: tuple[_Place, ...]
    changes: tuple[tuple[int, bool], ...]
    """Second of each change, and whether it is a fade."""
    moving: tuple[_Thing, ...]
    camera: NDArray[np.float64]
    """[4, 2]: phase and speed of the pan, amplitude and frequency of the shake, for both axes."""


def scenery(scene: Scene, frames: NDArray[np.int64]) -> Picture:
    """Return [F, size, size, 3] float32: the background of ``F`` frames of the file, given by their numbers."""
    config, view = scene.config, _built(scene)
    size, seconds = config.size, frames / config.file_fps
    canvas = np.empty((len(frames), size, size, 3), np.float32)
    for row, time in enumerate(seconds):
        left, top = _camera(view, float(time), config.fps)
        number, before, share = _where(view, float(time))
        canvas[row] = view.places[number].wall[top : top + size, left : left + size]
        if share < 1:
            canvas[row] *= share
            canvas[row] += (1 - share) * view.places[before].wall[top : top + size, left : left + size]
        for thing in view.places[number].still:
            _put(canvas[row], thing, thing.at - _NEARER * np.array([left, top]), 1.0)
        for thing in view.moving:
            if thing.start <= time < thing.end:
                room = size - np.array(thing.inside.shape[::-1])
                light = 0.7 if thing.blinks and int(time * 2 * _BLINKS) % 2 else 1.0
                _put(canvas[row], thing, _back_and_forth(thing.at + thing.speed * time, room), light)
    return canvas


def changes(scene: Scene) -> tuple[tuple[int, bool], ...]:
    """Return the second of each change of the background, and whether it is a fade."""
    return _built(scene).changes


@lru_cache(maxsize=2)
def _built(scene: Scene) -> Scenery:
    config, wide, rng = scene.config, scene.config.wide or WideConfig(), generator(scene.number, stream=7)
    count = int(rng.integers(wide.changes[0], wide.changes[1] + 1))
    seconds = sorted(int(s) for s in rng.permutation(np.arange(2, config.seconds - 1, 2))[:count])
    fades = rng.random(len(seconds)) < 0.5
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*wide.pan)
    camera = np.stack(
        [
            rng.uniform(0, 2 * _REACH, 2),
            speed * np.array([np.cos(angle), np.sin(angle)]),
            rng.uniform(0, _SHAKE, 2),
            rng.uniform(0.5, 2, 2),
        ]
    )
    side = config.size + _REACH + 2 * _SHAKE
    places = tuple(_place(side, config.size, wide, rng) for _ in range(len(seconds) + 1))
    moving = [_clutter(config.size, rng) for _ in range(int(rng.integers(wide.moving[0], wide.moving[1] + 1)))]
    decoys = int(rng.integers(wide.decoys[0], wide.decoys[1] + 1))
    moving += [_decoy(config.size, config.seconds, rng) for _ in range(decoys)]
    return Scenery(places, tuple(zip(seconds, map(bool, fades), strict=True)), tuple(moving), camera)


def _camera(view: Scenery, time: float, fps: int) -> tuple[int, int]:
    """(left, top) of the frame on the wall."""
    phase, speed, amplitude, frequency = view.camera
    path = _back_and_forth(phase + speed * time * fps, np.array([_REACH, _REACH]))
    left, top = np.rint(path + amplitude * np.sin(2 * np.pi * frequency * time) + _SHAKE).astype(int)
    return int(left), int(top)


def _back_and_forth(x: NDArray[np.float64], room: NDArray[np.int64]) -> NDArray[np.float64]:
    """Positions folded into 0..room."""
    return np.asarray(room - np.abs(x % (2 * room) - room))


def _where(view: Scenery, time: float) -> tuple[int, int, float]:
    """(number of the place, number of the place that fades out, weight of the first)."""
    for number, (second, fades) in enumerate(view.changes):
        share = (time - (second - 1)) / 2 if fades else float(time >= second)
        if share < 1:
            return (number + 1, number, share) if share > 0 else (number, number, 1.0)
    return len(view.changes), len(view.changes), 1.0


def _put(canvas: Picture, thing: _Thing, corner: NDArray[np.float64], light: float) -> None:
    """Draw the visible part of a thing whose left and top edges are at ``corner``."""
    left, top = (round(float(v)) for v in corner)
    height, width = thing.inside.shape
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, canvas.shape[1]), min(top + height, canvas.shape[0])
    if x0 < x1 and y0 < y1:
        inside = thing.inside[y0 - top : y1 - top, x0 - left : x1 - left]
        canvas[y0:y1, x0:x1][inside] = thing.color * light


def _place(side: int, size: int, wide: WideConfig, rng: np.random.Generator) -> _Place:
    wall = _clouds(side, size, rng)
    if rng.random() < 0.5:
        _add_leaves(wall, size, rng)
    still = [_clutter(size, rng) for _ in range(int(rng.integers(wide.still[0], wide.still[1] + 1)))]
    # Spread them over the part that the nearer layer can show.
    spread = [
        _Thing(s.inside, s.color, rng.uniform(-30, size + _NEARER * _REACH, 2), s.speed, s.start, s.end) for s in still
    ]
    return _Place(wall, tuple(spread))


def _clouds(side: int, size: int, rng: np.random.Generator) -> Picture:
    """[side, side, 3]: a base colour with five octaves of a 1/f texture, each with its own colouring."""
    base, layers, tints = rng.uniform(60, 150, 3), [], []
    for octave in range(5):
        cells = round(4 * 2**octave * side / size)
        layers.append(enlarge(rng.standard_normal((cells, cells)), side))
        tints.append(30 / 2 ** (0.8 * octave) * rng.uniform(0.6, 1.2, 3))
    return np.asarray(base + np.stack(layers, axis=-1) @ np.stack(tints), np.float32)


def _add_leaves(wall: Picture, size: int, rng: np.random.Generator) -> None:
    """Cover the wall with grey discs and blocks, many small and few large ones, that keep half of its texture."""
    side, unit = len(wall), size / 280
    texture = 0.5 * (wall - wall.mean((0, 1)))
    for _ in range(_LEAVES):
        # Sizes follow the power law of photographs, r^-3, between 8 and 64 pixels.
        radius = unit / np.sqrt(rng.uniform(1 / 64**2, 1 / 8**2))
        inside = _form(int(rng.integers(2)), float(radius), rng)
        left, top = (int(v) for v in rng.uniform(-20, side - 10, 2))
        color = rng.uniform(40, 190) + rng.normal(0, 9, 3)
        height, width = inside.shape
        rows, columns = slice(max(top, 0), top + height), slice(max(left, 0), left + width)
        part = wall[rows, columns]
        inside = inside[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
        part[inside] = (color + texture[rows, columns][inside]).astype(np.float32)


def _clutter(size: int, rng: np.random.Generator) -> _Thing:
    """A grey object, from 1 to 8 % of the frame's width in radius."""
    inside = _form(int(rng.integers(4)), rng.uniform(0.03, 0.1) * size, rng)
    color = (rng.uniform(20, 225) + rng.normal(0, 8, 3)).astype(np.float32)
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(10, 40) * size / 280
    velocity = speed * np.array([np.cos(angle), np.sin(angle)])
    return _Thing(inside, color, rng.uniform(0, size, 2), velocity, 0.0, np.inf)


def _decoy(size: int, seconds: int, rng: np.random.Generator) -> _Thing:
    inside = _form(2 + int(rng.integers(2)), rng.uniform(0.13, 0.19) * size, rng)
    start = rng.uniform(0, seconds - 2)
    velocity = rng.choice([-1, 1], 2) * rng.uniform(20, 60, 2) * size / 280
    color = np.full(3, 250, np.float32)
    return _Thing(inside, color, rng.uniform(0, size, 2), velocity, start, start + rng.uniform(1.5, 3), blinks=True)


def _form(kind: int, radius: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[h, w] bool: a disc, a block, a ring or a star."""
    reach = max(2, round(radius))
    row, column = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(row, column)
    if kind == 0:
        inside = distance < radius
    elif kind == 1:
        inside = (np.abs(row) < radius * rng.uniform(0.3, 1)) & (np.abs(column) < radius * rng.uniform(0.3, 1))
    elif kind == 2:
        inside = (distance < radius) & (distance > 0.6 * radius)
    else:
        inside = distance < radius * (0.65 + 0.35 * np.cos(5 * np.arctan2(row, column)))
    return np.asarray(inside)
