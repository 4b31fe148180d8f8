"""Background of a clip: a still texture, one that a camera pans over, or several with cuts between them.

The still background uses the random numbers of the video; pans and cuts use others. So with the same seed, a clip with
cuts starts with the background that it would have without them.
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
"""Cells of the coarse and of the fine texture across one frame."""
_MIN_CHANGE = 30
"""Smallest change of the mean of at least one channel at a cut, of 255."""


def backdrop(scene: Scene, frames: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return [F, size, size, 3] float32: the background of ``F`` frames of the file, given by their numbers.

    Args:
        scene: The clip.
        frames: [F] int64: numbers of the frames, at ``file_fps`` per second.
        rng: Random numbers of the video.
    """
    config = scene.config
    still = _texture(config.size, _CELLS, rng)  # always drawn, so that later draws from ``rng`` do not change
    if config.drift[1] == 0 and config.cuts[1] == 0:
        return np.repeat(still[None], len(frames), axis=0)
    textures = _textures(scene, still)
    # The texture of each frame is that of its interval between cuts.
    which = np.searchsorted(np.array(cut_seconds(scene)) * config.file_fps, frames, side="right")
    left, top = _window(scene, frames)
    size = config.size
    return np.stack([textures[w][y : y + size, x : x + size] for w, x, y in zip(which, left, top, strict=True)])


def cut_seconds(scene: Scene) -> tuple[int, ...]:
    """Return the seconds at which the background changes, as integers above 0 in order."""
    min_cuts, max_cuts = scene.config.cuts
    if max_cuts == 0:
        return ()
    rng = generator(scene.number, stream=4)
    count = int(rng.integers(min_cuts, max_cuts + 1))
    return tuple(sorted(int(s) + 1 for s in rng.permutation(scene.config.seconds - 1)[:count]))


def pan(scene: Scene) -> tuple[float, float]:
    """Return (x, y): the motion of the background in pixels per image (per ``1 / fps`` seconds)."""
    if scene.config.drift[1] == 0:
        return 0.0, 0.0
    rng = generator(scene.number, stream=3)
    speed, angle = rng.uniform(*scene.config.drift), rng.uniform(0, 2 * np.pi)
    return float(speed * np.cos(angle)), float(speed * np.sin(angle))


def _window(scene: Scene, frames: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(left, top) of the part of the texture in each frame; it moves against the motion of the background."""
    config, slack = scene.config, _slack(scene.config)
    images = frames / (config.file_fps // config.fps)
    left, top = (np.rint((slack if v > 0 else 0) - v * images).astype(np.int64) for v in pan(scene))
    return left, top


def _slack(config: SceneConfig) -> int:
    """Pixels by which the texture is wider than a frame, so that the fastest pan stays on it."""
    return math.ceil(config.drift[1] * config.seconds * config.fps)


def _textures(scene: Scene, still: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """One texture for each interval between cuts."""
    side, rng = scene.config.size + _slack(scene.config), generator(scene.number, stream=5)
    coarse, fine = (math.ceil(cells * side / scene.config.size) for cells in _CELLS)
    textures = [still if side == scene.config.size else _texture(side, (coarse, fine), rng)]
    for _ in cut_seconds(scene):
        # Draw until the change is visible.
        while True:
            texture = _texture(side, (coarse, fine), rng)
            if np.abs(texture.mean((0, 1)) - textures[-1].mean((0, 1))).max() >= _MIN_CHANGE:
                break
        textures.append(texture)
    return textures


def _texture(side: int, cells: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """[side, side, 3]: one base colour with a coarse and a fine texture, scaled per channel."""
    base = rng.uniform(60, 150, 3)
    coarse, fine = (rng.standard_normal((n, n)) for n in cells)
    texture = 25 * enlarge(coarse, side) + 12 * enlarge(fine, side)
    return (base + texture[..., None] * rng.uniform(0.6, 1.2, 3)).astype(np.float32)


def enlarge(grid: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return [size, size]: a grid of cells, interpolated between their centres."""
    weights = _bilinear(grid.shape[0], size)
    return np.asarray(weights @ grid @ weights.T, dtype=np.float64)


@lru_cache(maxsize=16)
def _bilinear(cells: int, size: int) -> NDArray[np.float64]:
    """[size, cells]: each row mixes the two cells whose centres are nearest to the centre of the pixel."""
    position = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    weights: NDArray[np.float64] = np.clip(1 - np.abs(position[:, None] - np.arange(cells)[None]), 0, None)
    return weights
