"""Labels of every token of a clip, for the evaluation of selections and encoders.

Tokens are those of Qwen2.5-Omni: a video token covers 28 x 28 pixels of two images, an audio token 1/25 s. Hosts with
fewer audio tokens join neighbours of each second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.world.degradations import LATE_SECONDS
from omnisift.world.letters import title_box
from omnisift.world.questions import Question
from omnisift.world.render import centre
from omnisift.world.scene import Scene
from omnisift.world.words import COLOR_NAMES, SHAPES, SOUNDS, WORDS

TOKEN_PIXELS = 28
AUDIO_TOKENS_PER_SECOND = 25
IMAGES_PER_FRAME = 2
FIRST_TITLE_CLASS = 1 + len(COLOR_NAMES) * len(SHAPES)
"""Class of a token that shows the first of the written words."""
_TITLE_OVERLAP = 0.35
"""A token shows a title that covers more than this fraction of it."""
_CORE = 0.45
"""A token shows a shape if it overlaps the inner 45 % of its radius."""
_OVERLAP = 0.4
"""An audio token has a sound if the sound covers more than this fraction of it."""


@dataclass(frozen=True)
class EvidenceEvent:
    """A shape on screen or a sound that proves an answer."""

    kind: str
    """``shape`` or ``sound``."""
    index: int
    """Index of the shape or sound in the scene."""
    tokens: NDArray[np.int64]
    """[k]: indices in the clip's video tokens for a shape, in its audio tokens for a sound."""


@dataclass(frozen=True)
class KeptEvidence:
    """How much of the evidence a selection keeps."""

    tokens: int
    """Kept evidence tokens."""
    tokens_all: int
    """All evidence tokens."""
    events: int
    """Events with at least one kept token."""
    events_all: int
    """All events that have tokens."""

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and both recalls for JSON; a recall is None where there is no evidence."""
        return asdict(self) | {
            "token_recall": round(self.tokens / self.tokens_all, 6) if self.tokens_all else None,
            "event_recall": round(self.events / self.events_all, 6) if self.events_all else None,
        }


@dataclass(frozen=True)
class Truth:
    """Labels of ``G`` frames (pairs of images) of ``R x R`` tokens, and of ``A`` audio tokens (0 if silent).

    Shapes that are visible at once never share a token: the core of each stays in its quarter of the frame.
    """

    video_class: NDArray[np.int64]
    """[G, R, R]: 0 for background, ``1 + color * 4 + form`` for a shape, 25 + number of the word for a title."""
    video_shape: NDArray[np.int64]
    """[G, R, R]: index of the shape shown, -1 for none."""
    audio_class: NDArray[np.int64]
    """[A]: 0 for no sound, 1 + number of the kind for a sound, 9 + number of the word for a spoken word."""
    audio_sound: NDArray[np.int64]
    """[A]: index of the sound event, -1 for none."""
    audio_owner: NDArray[np.int64]
    """[A]: 1 + index of the shape that the sound belongs to, -1 for a distractor, 0 for no sound and
    for a spoken word."""
    visible: NDArray[np.int64]
    """[A]: index of the shape visible during the audio token, the first to appear where two are; -1 for none."""
    shape_tokens: tuple[NDArray[np.int64], ...]
    """For each shape, then for each title [k, 3]: its tokens as (frame, row, column)."""
    sound_tokens: tuple[NDArray[np.int64], ...]
    """For each sound event [k]: its audio tokens."""

    def evidence(self, question: Question) -> list[EvidenceEvent]:
        """Return the events that prove the answer to a question. Any occurrence of a sound proves that it is heard, so
        all occurrences are one event.
        """
        sounds = [self.sound_tokens[i] for i in question.sounds]
        if question.type == "heard" and sounds:
            sounds = [np.concatenate(sounds)]
        shapes = [EvidenceEvent("shape", i, self.flat_video(i)) for i in question.shapes]
        return shapes + [EvidenceEvent("sound", i, tokens) for i, tokens in zip(question.sounds, sounds, strict=False)]

    def flat_video(self, shape: int) -> NDArray[np.int64]:
        """Return [k] int64: indices of the tokens of a shape or title in the flattened video tokens."""
        rows = self.video_shape.shape[1]
        return np.asarray(self.shape_tokens[shape] @ np.array([rows * rows, rows, 1]), dtype=np.int64)


def count_kept(events: Iterable[NDArray[np.int64]], kept: NDArray[np.bool_]) -> KeptEvidence:
    """Count the evidence in a selection.

    Args:
        events: Token indices of each event; events without tokens are not counted.
        kept: [N] bool, which tokens the selection keeps.
    """
    events = [tokens for tokens in events if len(tokens)]
    counts = [int(kept[tokens].sum()) for tokens in events]
    return KeptEvidence(sum(counts), sum(map(len, events)), sum(count > 0 for count in counts), len(counts))


def truth(scene: Scene, audio_rate: int = AUDIO_TOKENS_PER_SECOND) -> Truth:
    """Return the labels of all tokens of a scene.

    Args:
        scene: The scene.
        audio_rate: Audio tokens per second, of which each has an equal part of it but the last: 25 or 13, for
            Qwen3-Omni.
    """
    video_class, video_shape, shape_tokens = _video(scene)
    audio_class, audio_sound, audio_owner, sound_tokens = _audio(scene)
    visible = np.full(len(audio_class), -1, np.int64)
    for i, shape in enumerate(scene.shapes):
        while_shown = visible[shape.start * AUDIO_TOKENS_PER_SECOND : shape.end * AUDIO_TOKENS_PER_SECOND]
        while_shown[while_shown < 0] = i
    labels = Truth(
        video_class,
        video_shape,
        audio_class,
        audio_sound,
        audio_owner,
        visible,
        tuple(shape_tokens),
        tuple(sound_tokens),
    )
    joined = math.ceil(AUDIO_TOKENS_PER_SECOND / audio_rate)
    return labels if joined == 1 else _join_audio(labels, joined)


def _join_audio(labels: Truth, count: int) -> Truth:
    """Labels of audio tokens that last ``count`` times as long; the last of each second is shorter."""
    rate = math.ceil(AUDIO_TOKENS_PER_SECOND / count)
    index = np.arange(len(labels.audio_class))
    owner = index // AUDIO_TOKENS_PER_SECOND * rate + index % AUDIO_TOKENS_PER_SECOND // count
    # A token has the label of the first of its parts that has a sound, or that shows a shape.
    first = np.unique(owner, return_index=True)[1]

    def join(values: NDArray[np.int64], where: NDArray[np.bool_]) -> NDArray[np.int64]:
        result = values[first]
        result[owner[where][::-1]] = values[where][::-1]
        return result

    heard = labels.audio_sound >= 0
    return replace(
        labels,
        audio_class=join(labels.audio_class, heard),
        audio_sound=join(labels.audio_sound, heard),
        audio_owner=join(labels.audio_owner, heard),
        visible=join(labels.visible, labels.visible >= 0),
        sound_tokens=tuple(np.unique(owner[tokens]) for tokens in labels.sound_tokens),
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
    for title in scene.titles:
        left, top, right, bottom = title_box(title, config.size)
        inside = np.outer(_covered(edge, top, bottom), _covered(edge, left, right)) > _TITLE_OVERLAP * TOKEN_PIXELS**2
        shown = inside & ((middle > title.start) & (middle < title.end))[:, None, None]
        classes[shown] = FIRST_TITLE_CLASS + WORDS.index(title.word)
        tokens.append(np.argwhere(shown).astype(np.int64))
    return classes, owner, tokens


def _covered(edge: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
    """Pixels of each token that lie in ``first .. last``, along one axis."""
    return np.asarray(np.maximum(np.minimum(edge + TOKEN_PIXELS, last) - np.maximum(edge, first), 0))


def _audio(
    scene: Scene,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[NDArray[np.int64]]]:
    total = scene.config.seconds * AUDIO_TOKENS_PER_SECOND if scene.config.sound else 0
    late = LATE_SECONDS if scene.config.degraded == "late" else 0.0
    classes, event, owner = np.zeros(total, np.int64), np.full(total, -1, np.int64), np.zeros(total, np.int64)
    tokens = []
    for i, sound in enumerate(scene.sounds):
        first, last = (sound.start + late) * AUDIO_TOKENS_PER_SECOND, (sound.end + late) * AUDIO_TOKENS_PER_SECOND
        # Tokens that the sound covers by more than the threshold.
        index = np.arange(int(first), min(total, math.ceil(last)))
        index = index[np.minimum(index + 1, last) - np.maximum(index, first) > _OVERLAP]
        classes[index], event[index] = 1 + (*SOUNDS, *WORDS).index(sound.name), i
        owner[index] = sound.shape + 1 if sound.shape >= 0 else -int(sound.name in SOUNDS)
        tokens.append(index.astype(np.int64))
    return classes, event, owner, tokens
