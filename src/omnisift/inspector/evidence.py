"""The ground truth of a clip of the invented world: which tokens prove the answer, and how many of them stayed.

A clip names its split and seed but not its setting, and anyone can write such a comment. So the scene is drawn again
in every setting, and only one that looks and sounds like the clip is believed.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from omnisift.inspector.trace import Event, Evidence, Recall, Tokens
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

_ALIKE = 2.5
"""Largest difference (`_unlike`) of a scene and its clip. Written as by `write_clip` a clip is 1.0 to 1.3 from its own
scene, and was at least 3.9 from the same seed in another setting."""
_DRAWS = 1500
"""Questions drawn of each type to find one by its text; each of at most 80 phrasings of a type is missed by less than
one clip in a hundred million."""


def find_scene(media: Media) -> Scene | None:
    """The scene that ``media`` shows, or None: not of this world, or not read at its own rate and size."""
    found = re.fullmatch(rf"{COMMENT} ({'|'.join(SPLITS)}) (\d{{1,18}})", media.tags.get("comment", ""))
    if found is None or media.images is None:
        return None
    scenes = [make_scene(int(found[2]), found[1], setting.config) for setting in SETTINGS.values()]
    near = [(difference, place) for place, scene in enumerate(scenes) if (difference := _unlike(scene, media)) < _ALIKE]
    return scenes[min(near)[1]] if near else None


def setting_of(scene: Scene) -> str:
    """The name of the scene's setting."""
    return next(name for name, setting in SETTINGS.items() if setting.config == scene.config)


def evidence_of(scene: Scene, question: str, tokens: Tokens) -> Evidence | None:
    """The events that prove the answer to ``question``, as numbers of ``tokens``; None if it isn't one of the world's
    questions about the scene."""
    asked = find_question(scene, question)
    if asked is None:
        return None
    label = truth(scene)
    video, audio = (tokens.places(int(modality)) for modality in (Modality.VIDEO, Modality.AUDIO))
    shapes = [scene.shapes[i] for i in asked.shapes]
    events = [
        Event("shape", f"{shape.color} {shape.form}", video[label.flat_video(i)])
        for i, shape in zip(asked.shapes, shapes, strict=True)
    ]
    heard = [(scene.sounds[i].name, audio[label.sound_tokens[i]]) for i in asked.sounds]
    if asked.type == "heard" and heard:  # any one of them proves a yes: one event
        heard = [(heard[0][0], np.concatenate([places for _, places in heard]))]
    events += [Event("sound", name, places) for name, places in heard]
    return Evidence(setting_of(scene), asked.type, asked.answer, tuple(event for event in events if len(event.tokens)))


def find_question(scene: Scene, text: str) -> Question | None:
    """The world's question about this scene that reads ``text``, upper or lower case."""
    wanted = " ".join(text.split()).lower()
    for kind in possible_types(scene.config):
        rng = np.random.default_rng(0)
        for _ in range(_DRAWS):
            question = make_question(scene, kind, rng)
            if question.text.lower() == wanted:
                return question
    return None


def recall(evidence: Evidence, kept: NDArray[np.bool_]) -> Recall:
    """``kept`` [N] bool over the tokens of the trace."""
    stays = [int(kept[event.tokens].sum()) for event in evidence.events]
    return Recall(
        tokens=sum(stays),
        tokens_all=sum(len(event.tokens) for event in evidence.events),
        events=sum(count > 0 for count in stays),
        events_all=len(stays),
    )


def _unlike(scene: Scene, media: Media) -> float:
    """How far the clip is from the scene: mean difference of pictures, plus that of sound (0 to 1) below it."""
    pictures = render_images(scene)
    if media.images is None or pictures.shape != media.images.shape or bool(scene.config.sound) != media.has_audio:
        return float("inf")
    seen = float(np.abs(_blocks(pictures) - _blocks(media.images)).mean())
    if media.waveform is None:
        return seen
    wave = render_audio(scene)
    length = min(len(wave), len(media.waveform))
    heard = float(np.abs(wave[:length] - media.waveform[:length]).mean())
    return seen + 100 * heard


def _blocks(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Means of squares of 14 pixels: the noise, which a file's compression changes, averages out."""
    count, height, width, _ = pictures.shape
    return np.asarray(pictures.reshape(count, height // 14, 14, width // 14, 14, 3).mean(axis=(2, 4)))
