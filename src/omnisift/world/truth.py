"""Labels of every token of a clip, for the evaluation of selections and encoders.

Tokens are those of Qwen2.5-Omni: a video token covers 28 x 28 pixels of two images, an audio token 1/25 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnisift.world.questions import Question
from omnisift.world.render import centre
from omnisift.world.scene import Scene
from omnisift.world.words import COLOR_NAMES, SHAPES, SOUNDS

TOKEN_PIXELS = 28
AUDIO_TOKENS_PER_SECOND = 25
IMAGES_PER_FRAME = 2
_CORE = 0.45
"""A token shows a shape if it overlaps the inner 45 % of its radius."""
_OVERLAP = 0.4
"""An audio token has a sound if the sound covers more than this fraction of it."""


@dataclass(frozen=True)
class Truth:
    """Labels of ``G`` frames (pairs of images) of ``R x R`` tokens, and of ``A`` audio tokens (0 if silent).

    Shapes that are visible at once never share a token: the core of each stays in its quarter of the frame.
    """

    video_class: NDArray[np.int64]
    """[G, R, R]: 0 for background, else ``1 + color * 4 + form``."""
    video_shape: NDArray[np.int64]
    """[G, R, R]: index of the shape shown, -1 for none."""
    audio_class: NDArray[np.int64]
    """[A]: 0 for no sound, else 1 + number of the kind."""
    audio_sound: NDArray[np.int64]
    """[A]: index of the sound event, -1 for none."""
    audio_owner: NDArray[np.int64]
    """[A]: 1 + index of the shape that the sound belongs to, -1 for a distractor, 0 for no sound."""
    visible: NDArray[np.int64]
    """[A]: index of the shape visible during the audio token, the first to appear where two are; -1 for none."""
    shape_tokens: tuple[NDArray[np.int64], ...]
    """For each shape [k, 3]: its tokens as (frame, row, column)."""
    sound_tokens: tuple[NDArray[np.int64], ...]
    """For each sound event [k]: its audio tokens."""

    def evidence(self, question: Question) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Return the tokens of a question's evidence: one [k, 3] per shape, one [k] per sound."""
        return [self.shape_tokens[i] for i in question.shapes], [self.sound_tokens[i] for i in question.sounds]

    def flat_video(self, shape: int) -> NDArray[np.int64]:
        """Return [k] int64: indices of a shape's tokens in the flattened video tokens."""
        rows = self.video_shape.shape[1]
        return np.asarray(self.shape_tokens[shape] @ np.array([rows * rows, rows, 1]), dtype=np.int64)


def truth(scene: Scene) -> Truth:
    """Return the labels of all tokens of a scene."""
    video_class, video_shape, shape_tokens = _video(scene)
    audio_class, audio_sound, audio_owner, sound_tokens = _audio(scene)
    visible = np.full(len(audio_class), -1, np.int64)
    for i, shape in enumerate(scene.shapes):
        while_shown = visible[shape.start * AUDIO_TOKENS_PER_SECOND : shape.end * AUDIO_TOKENS_PER_SECOND]
        while_shown[while_shown < 0] = i
    return Truth(
        video_class,
        video_shape,
        audio_class,
        audio_sound,
        audio_owner,
        visible,
        tuple(shape_tokens),
        tuple(sound_tokens),
    )


def _video(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.int64]]]:
    config = scene.config
    rows, frames = config.size // TOKEN_PIXELS, config.seconds * config.fps // IMAGES_PER_FRAME
    classes, owner = np.zeros((frames, rows, rows), np.int64), np.full((frames, rows, rows), -1, np.int64)
    edge = np.arange(rows) * TOKEN_PIXELS
    frame_seconds = IMAGES_PER_FRAME / config.fps
    # The label of a frame is that of the moment between its two images.
    middle = np.asarray(np.arange(frames) * frame_seconds + 0.5 / config.fps, dtype=np.float64)
    tokens = []
    for i, shape in enumerate(scene.shapes):
        # Distance from the centre of the shape to the nearest point of every token.
        x, y = centre(shape, middle, config)
        dx = np.clip(x[:, None], edge, edge + TOKEN_PIXELS) - x[:, None]
        dy = np.clip(y[:, None], edge, edge + TOKEN_PIXELS) - y[:, None]
        near = np.hypot(dy[:, :, None], dx[:, None, :]) < shape.radius * _CORE
        near &= ((middle > shape.start) & (middle < shape.end))[:, None, None]
        classes[near] = 1 + COLOR_NAMES.index(shape.color) * len(SHAPES) + SHAPES.index(shape.form)
        owner[near] = i
        tokens.append(np.argwhere(near).astype(np.int64))
    return classes, owner, tokens


def _audio(
    scene: Scene,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[NDArray[np.int64]]]:
    total = scene.config.seconds * AUDIO_TOKENS_PER_SECOND if scene.config.sound else 0
    classes, event, owner = np.zeros(total, np.int64), np.full(total, -1, np.int64), np.zeros(total, np.int64)
    tokens = []
    for i, sound in enumerate(scene.sounds):
        first, last = sound.start * AUDIO_TOKENS_PER_SECOND, sound.end * AUDIO_TOKENS_PER_SECOND
        # Tokens that the sound covers by more than the threshold.
        index = np.arange(int(first), min(total, math.ceil(last)))
        index = index[np.minimum(index + 1, last) - np.maximum(index, first) > _OVERLAP]
        classes[index], event[index] = 1 + SOUNDS.index(sound.name), i
        owner[index] = sound.shape + 1 if sound.shape >= 0 else -1
        tokens.append(index.astype(np.int64))
    return classes, event, owner, tokens
