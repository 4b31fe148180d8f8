"""What lies behind the shapes: a still texture, or one that a camera pans over, or several with cuts between them.

The still background comes from the picture's own random numbers, pans and cuts from others: with the same seed, a clip
with cuts begins before the background that it would keep without them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omnisift.world.config import SceneConfig
from omnisift.world.scene import Scene
from omnisift.world.splits import generator

_CELLS = (9, 28)
"""Cells of the coarse and of the fine texture across one picture."""
_UNLIKE = 30
"""A cut moves the mean of at least one channel by so much, of 255."""


def backdrop(scene: Scene, pictures: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """[pictures, size, size, 3]: the background of the pictures with these numbers (on the file's clock)."""
    config = scene.config
    still = _texture(config.size, _CELLS, rng)  # drawn in any case, so that later draws from ``rng`` stay the same
    if config.drift[1] == 0 and config.cuts[1] == 0:
        return np.repeat(still[None], len(pictures), axis=0)
    walls = _walls(scene, still)
    which = np.searchsorted(np.array(cut_seconds(scene)) * config.file_fps, pictures, side="right")
    left, top = _window(scene, pictures)
    size = config.size
    return np.stack([walls[w][y : y + size, x : x + size] for w, x, y in zip(which, left, top, strict=True)])


def cut_seconds(scene: Scene) -> tuple[int, ...]:
    """The whole seconds at which the background becomes another one, in order; 0 is never among them."""
    fewest, most = scene.config.cuts
    if most == 0:
        return ()
    rng = generator(scene.number, stream=4)
    count = int(rng.integers(fewest, most + 1))
    return tuple(sorted(int(s) + 1 for s in rng.permutation(scene.config.seconds - 1)[:count]))


def pan(scene: Scene) -> tuple[float, float]:
    """(x, y): how far the background moves in the picture per image (per ``1 / fps`` seconds), in pixels."""
    if scene.config.drift[1] == 0:
        return 0.0, 0.0
    rng = generator(scene.number, stream=3)
    speed, angle = rng.uniform(*scene.config.drift), rng.uniform(0, 2 * np.pi)
    return float(speed * np.cos(angle)), float(speed * np.sin(angle))


def _window(scene: Scene, pictures: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(left, top) of the part of the wall that each picture shows. It moves against the background's own motion."""
    config, slack = scene.config, _slack(scene.config)
    images = pictures / (config.file_fps // config.fps)
    left, top = (np.rint((slack if v > 0 else 0) - v * images).astype(np.int64) for v in pan(scene))
    return left, top


def _slack(config: SceneConfig) -> int:
    """How much wider than the picture the wall is, so that the fastest pan stays on it."""
    return math.ceil(config.drift[1] * config.seconds * config.fps)


def _walls(scene: Scene, still: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """One texture for each stretch between cuts."""
    side, rng = scene.config.size + _slack(scene.config), generator(scene.number, stream=5)
    coarse, fine = (math.ceil(cells * side / scene.config.size) for cells in _CELLS)
    walls = [still if side == scene.config.size else _texture(side, (coarse, fine), rng)]
    for _ in cut_seconds(scene):
        while True:
            wall = _texture(side, (coarse, fine), rng)
            if np.abs(wall.mean((0, 1)) - walls[-1].mean((0, 1))).max() >= _UNLIKE:
                break
        walls.append(wall)
    return walls


def _texture(side: int, cells: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """[side, side, 3]: one base colour with a coarse and a fine texture, each channel in its own strength."""
    base = rng.uniform(60, 150, 3)
    coarse, fine = (rng.standard_normal((n, n)) for n in cells)
    texture = 25 * _enlarge(coarse, side) + 12 * _enlarge(fine, side)
    return (base + texture[..., None] * rng.uniform(0.6, 1.2, 3)).astype(np.float32)


def _enlarge(grid: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    weights = _bilinear(grid.shape[0], size)
    return np.asarray(weights @ grid @ weights.T, dtype=np.float64)


@lru_cache(maxsize=16)
def _bilinear(cells: int, size: int) -> NDArray[np.float64]:
    """[size, cells]: each row mixes the two cells whose centres lie next to the pixel's centre."""
    at = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    weights: NDArray[np.float64] = np.clip(1 - np.abs(at[:, None] - np.arange(cells)[None]), 0, None)
    return weights
