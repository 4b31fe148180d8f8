"""Rendering of scenes to images and a waveform with numpy.

`render_images` gives the images that a model reads (``fps``); `render_frames` gives every frame of the file
(``file_fps``). Both have the same pixels at the same instant.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omnisift.world.backdrop import backdrop
from omnisift.world.config import SceneConfig, WideConfig
from omnisift.world.degradations import degrade_images, degrade_sound, shown_frames
from omnisift.world.events import Shape
from omnisift.world.letters import title_box, title_picture
from omnisift.world.scene import Scene
from omnisift.world.scenery import scenery
from omnisift.world.speech import ambience, speak
from omnisift.world.splits import generator
from omnisift.world.synth import add_rumbles, synthesise
from omnisift.world.words import COLORS, PLACES, WORDS

_BANK_MARGIN = 28
_DULL, _GREY = 0.5, 120
"""Share of a dull shape's own colour, and the grey of the rest."""
_PIXELS_AT_ONCE = 8_000_000
"""Pixels of the frames that are drawn at once, since they are drawn in float32."""
_EVENT_RMS, _LOUDER = 0.07, (1.0, 1.8)
"""RMS of the quietest event of a wide clip, and how much louder others are."""


def render_images(scene: Scene, numbers: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
    """Return the images that a model reads: uint8 [seconds * fps, size, size, 3], image k at ``k / fps`` seconds.

    Args:
        scene: The scene.
        numbers: Which of these images to render; None renders all.
    """
    config = scene.config
    numbers = np.arange(config.seconds * config.fps) if numbers is None else numbers
    return _seen(scene, numbers * (config.file_fps // config.fps))


def render_frames(scene: Scene) -> NDArray[np.uint8]:
    """Return every frame of the file: uint8 [seconds * file_fps, size, size, 3], ``j`` at ``j / file_fps`` seconds."""
    return _seen(scene, np.arange(scene.config.seconds * scene.config.file_fps))


def render_audio(scene: Scene) -> NDArray[np.float32]:
    """Return the waveform: noise, low rumbles, and the sounds of the scene.

    Returns:
        float32 [seconds * sample_rate], about -0.5..0.5; clipped to -1..1 where distractors have a gain. A silent scene
        gives an empty array.
    """
    config, rng = scene.config, generator(scene.number, stream=2)
    if not config.sound:
        return np.zeros(0, np.float32)
    wave = _wide_sound(scene, rng) if config.wide else _sound(scene, rng)
    return degrade_sound(config.degraded, wave, config.sample_rate, generator(scene.number, stream=8))


def _sound(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    config = scene.config
    # Background: noise and rumbles.
    wave = rng.standard_normal(config.seconds * config.sample_rate, dtype=np.float32)
    wave *= 0.006 * rng.uniform(0.6, 1.6)
    add_rumbles(wave, int(rng.integers(config.rumbles[0], config.rumbles[1] + 1)), config.sample_rate, rng)
    # Sound events, at random amplitude.
    for sound in scene.sounds:
        tone = synthesise(sound.name, sound.seconds, config.sample_rate, rng) * rng.uniform(0.08, 0.2)
        if sound.shape < 0:
            tone *= config.distractor_gain
        first = int(sound.start * config.sample_rate)
        room = wave[first : first + len(tone)]
        room += tone[: len(room)].astype(np.float32)
    return wave if config.distractor_gain == 1 else np.clip(wave, -1, 1, out=wave)


def _wide_sound(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    config = scene.config
    rate, wide = config.sample_rate, config.wide or WideConfig()
    wave = ambience(config.seconds * rate, rate, rng) * _EVENT_RMS * 10 ** (-rng.uniform(*wide.snr) / 20)
    for sound in scene.sounds:
        make = speak if sound.name in WORDS else synthesise
        tone = make(sound.name, sound.seconds, rate, rng)
        tone *= _EVENT_RMS * rng.uniform(*_LOUDER) / tone.std()
        first = int(sound.start * rate)
        wave[first : first + len(tone)] += tone[: len(wave) - first]
    return np.clip(wave, -1, 1).astype(np.float32)


def centre(shape: Shape, time: float | NDArray[np.float64], config: SceneConfig) -> tuple[NDArray[np.float64], ...]:
    """Return the centre (x, y) of a shape in pixels at ``time`` seconds; it drifts inside its quarter of the frame."""
    images = (np.asarray(time, dtype=np.float64) - shape.start) * config.fps - (shape.seconds * config.fps - 1) / 2
    quarter, half = PLACES.index(shape.place), config.size / 2
    left, top = (quarter % 2) * half, (quarter // 2) * half
    x = np.clip(shape.x + shape.vx * images, left + half / 4, left + half * 3 / 4)
    y = np.clip(shape.y + shape.vy * images, top + half / 4, top + half * 3 / 4)
    return x, y


def _seen(scene: Scene, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 [F, size, size, 3]: the frames of the file with these numbers, after the degradation."""
    config, rng = scene.config, generator(scene.number, stream=9)
    clean = shown_frames(config.degraded, frames, config.seconds * config.file_fps, config.file_fps, rng)
    parts = np.array_split(clean, max(1, len(frames) * config.size**2 // _PIXELS_AT_ONCE))
    images = np.concatenate([_draw(scene, part) for part in parts]) if len(parts) > 1 else _draw(scene, clean)
    return degrade_images(config.degraded, images, frames, rng)


def _draw(scene: Scene, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 [F, size, size, 3]: the frames of the file with these numbers."""
    config, rng = scene.config, generator(scene.number, stream=1)
    size, total = config.size, config.seconds * config.file_fps
    canvas = scenery(scene, frames) if config.wide else backdrop(scene, frames, rng)
    # Fill the pixels that each shape covers while it is visible.
    for shape in scene.shapes:
        mean = np.array(COLORS[shape.color])
        mean = _DULL * mean + (1 - _DULL) * _GREY if shape.dull else mean
        color = (mean + rng.normal(0, 12, 3)).astype(np.float32)
        shown = np.nonzero((frames >= shape.start * config.file_fps) & (frames < shape.end * config.file_fps))[0]
        inside = _mask(shape, frames[shown] / config.file_fps, config)
        part = canvas[shown]
        part[inside] = color
        canvas[shown] = part
    for title in scene.titles:
        left, top, right, bottom = title_box(title, size)
        written = (frames >= title.start * config.file_fps) & (frames < title.end * config.file_fps)
        canvas[written, top:bottom, left:right] = title_picture(title.word)
    # Draw the noise of every frame of the file, so that an image has the same noise at both frame rates.
    bank = _noise_bank(size)
    which, shift = rng.integers(0, len(bank), total), rng.integers(0, _BANK_MARGIN, (total, 2))
    for row, frame in enumerate(frames):
        dy, dx = shift[frame]
        canvas[row] += config.noise * bank[which[frame], dy : dy + size, dx : dx + size]
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def _mask(shape: Shape, times: NDArray[np.float64], config: SceneConfig) -> NDArray[np.bool_]:
    """[times, size, size] bool: the pixels that the shape covers."""
    x, y = centre(shape, times, config)
    axis = np.arange(config.size, dtype=np.float32)
    dx = axis[None, None, :] - x.astype(np.float32)[:, None, None]
    dy = axis[None, :, None] - y.astype(np.float32)[:, None, None]
    r = np.float32(shape.radius)
    inside: NDArray[np.bool_]
    if shape.form == "circle":
        inside = dx * dx + dy * dy < r * r
    elif shape.form == "square":
        inside = (np.abs(dx) < r * 0.88) & (np.abs(dy) < r * 0.88)
    elif shape.form == "triangle":
        inside = (dy < r * 0.8) & (dy > 1.8 * np.abs(dx) - r)
    else:  # cross
        bar = r * np.float32(0.33)
        inside = ((np.abs(dx) < bar) & (np.abs(dy) < r)) | ((np.abs(dy) < bar) & (np.abs(dx) < r))
    return inside


@lru_cache(maxsize=4)
def _noise_bank(size: int) -> NDArray[np.float32]:
    """[24, size + margin, size + margin, 3] unit noise, from which frames take windows."""
    rng = np.random.default_rng(0)
    side = size + _BANK_MARGIN
    return rng.standard_normal((24, side, side, 3), dtype=np.float32)
