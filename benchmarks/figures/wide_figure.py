"""Draw ten clips of the wide family: six pictures each, above the spectrogram of the sound.

python benchmarks/figures/wide_figure.py docs/figures/wide.png
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnisift.world import Scene, make_scene, render_audio, render_images, world_setting

SIDE, GAP, SOUND = 112, 4, 34
"""Pixels of a picture, between pictures, and of a spectrogram's height."""
SHOWN = (0, 2, 4, 6, 8, 11)
CLIPS = 10


def main(path: str) -> None:
    """Write the figure."""
    config = world_setting("wide").config
    clips = [_clip(make_scene(seed, "train", config)) for seed in range(CLIPS)]
    columns = [np.concatenate(clips[first : first + CLIPS // 2]) for first in (0, CLIPS // 2)]
    sheet = np.concatenate([columns[0], np.full((len(columns[0]), 3 * GAP, 3), 255, np.uint8), columns[1]], axis=1)
    Image.fromarray(sheet).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


def _clip(scene: Scene) -> NDArray[np.uint8]:
    """[height, width, 3]: pictures in order of time, and the spectrogram below."""
    images = render_images(scene)
    parts = [np.asarray(Image.fromarray(images[k]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for k in SHOWN]
    row = np.concatenate([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in parts], axis=1)
    sound = np.pad(_spectrogram(render_audio(scene), row.shape[1] - GAP), ((0, 2 * GAP), (0, GAP)), constant_values=255)
    return np.concatenate([row, np.repeat(sound[..., None], 3, axis=2)])


def _spectrogram(wave: NDArray[np.float32], width: int) -> NDArray[np.uint8]:
    """[SOUND, width]: level by time and frequency up to 4 kHz, dark is loud."""
    hop = len(wave) // width
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(wave, (0, 512)), 512)[::hop][:width]
    power = np.abs(np.fft.rfft(windows * np.hanning(512)))[:, 2:130] ** 2
    level = np.log10(power + 1e-3).T[::-1]
    level = (level - level.min()) / (level.max() - level.min())
    return np.asarray(Image.fromarray((255 * (1 - level)).astype(np.uint8)).resize((width, SOUND)))


if __name__ == "__main__":
    main(sys.argv[1])
