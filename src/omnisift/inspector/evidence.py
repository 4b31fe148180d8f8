"""Find the tokens that prove an answer about a generated clip.

A clip's comment names its split and seed but not its setting, and anyone can write such a comment. The scene is
therefore rendered in every setting, and only one that matches the decoded clip is used.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from omnisift.inspector.trace import ClipTokens, Event, TraceEvidence
from omnisift.media import Media
from omnisift.tokens import Modality
from omnisift.world import (
    SETTINGS,
    SPLITS,
    Question,
    Scene,
    make_question,
    make_scene,
    possible_types,
    render_audio,
    render_images,
    truth,
)
from omnisift.world.files import COMMENT

_MAX_DIFFERENCE = 2.5
"""Largest difference (`_difference`) between a scene and its clip. A clip written by `write_clip` differs from its own
scene by 1.0 to 1.3, and by at least 3.9 from the same seed in another setting."""
_DRAWS = 1500
"""Questions drawn per type to find one by its text; with at most 80 phrasings per type, one is missed in less than one
of a hundred million clips."""


def find_scene(media: Media) -> Scene | None:
    """The scene that a clip shows; None for other clips, and for clips not read at their own frame rate and size."""
    match = re.fullmatch(rf"{COMMENT} ({'|'.join(SPLITS)}) (\d{{1,18}})", media.tags.get("comment", ""))
    if match is None or media.images is None:
        return None
    scenes = [make_scene(int(match[2]), match[1], setting.config) for setting in SETTINGS.values()]
    differences = [(_difference(scene, media), number) for number, scene in enumerate(scenes)]
    difference, number = min(differences)
    return scenes[number] if difference < _MAX_DIFFERENCE else None


def setting_of(scene: Scene) -> str:
    """The name of the scene's setting."""
    return next(name for name, setting in SETTINGS.items() if setting.config == scene.config)


def evidence_of(scene: Scene, question: str, tokens: ClipTokens) -> TraceEvidence | None:
    """The events that prove the answer to ``question``, as indices into ``tokens``.

    Returns:
        None if the question is not one of the generated questions about this scene.
    """
    match = find_question(scene, question)
    if match is None:
        return None
    video, audio = (tokens.indices(int(modality)) for modality in (Modality.VIDEO, Modality.AUDIO))
    events = []
    for event in truth(scene).evidence(match):
        if event.kind == "shape":
            shape = scene.shapes[event.index]
            name, indices = f"{shape.color} {shape.form}", video[event.tokens]
        else:
            name, indices = scene.sounds[event.index].name, audio[event.tokens]
        if len(indices):
            events.append(Event(event.kind, name, indices))
    return TraceEvidence(setting_of(scene), match.type, match.answer, tuple(events))


def has_labels(scene: Scene, tokens: ClipTokens) -> bool:
    """Whether the labels of ``scene`` are of these tokens: not if they have other pixels, as those of Gemma 4."""
    return len(tokens.indices(int(Modality.VIDEO))) == truth(scene).video_class.size


def find_question(scene: Scene, text: str) -> Question | None:
    """The generated question about ``scene`` with this text, in upper or lower case."""
    text = " ".join(text.split()).lower()
    for kind in possible_types(scene.config):
        rng = np.random.default_rng(0)
        for _ in range(_DRAWS):
            question = make_question(scene, kind, rng)
            if question.text.lower() == text:
                return question
    return None


def _difference(scene: Scene, media: Media) -> float:
    """Mean difference of the images (0 to 255) plus 100 times that of the audio; infinite if shapes do not match."""
    images = render_images(scene)
    if media.images is None or images.shape != media.images.shape or bool(scene.config.sound) != media.has_audio:
        return float("inf")
    video = float(np.abs(_block_means(images) - _block_means(media.images)).mean())
    if media.waveform is None:
        return video
    wave = render_audio(scene)
    length = min(len(wave), len(media.waveform))
    audio = float(np.abs(wave[:length] - media.waveform[:length]).mean())
    return video + 100 * audio


def _block_means(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Means over squares of 14 x 14 pixels, in which the noise of the file's compression averages out."""
    count, height, width, _ = images.shape
    return np.asarray(images.reshape(count, height // 14, 14, width // 14, 14, 3).mean(axis=(2, 4)))
