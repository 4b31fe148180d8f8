"""Timeline captions: ``at 1 red circle with beep, at 3 blue cross with hum.``

A caption has one clause per shape, in order of time: the second at which it appears, its colour, its form, its sound.
The grammar is fixed, so that a caption can be scored event by event. In a clip without an audio track the clauses end
before ``with``; a clip without shapes has only the full stop.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from omnisift.world.scene import Scene
from omnisift.world.words import COLOR_NAMES, SHAPES, SOUNDS

CAPTION_REQUESTS: tuple[str, ...] = (
    "Describe the clip.",
    "What happens in the clip?",
    "Write a caption.",
    "Tell what happens when.",
)
"""Requests for a caption."""

SILENCE = "silence"
"""Stands for the sound of a silent shape, in the wide family."""
_SEEN = rf"at\s+(\d+)\s+({'|'.join(COLOR_NAMES)})\s+({'|'.join(SHAPES)})"
_CLAUSE = re.compile(rf"{_SEEN}\s+with\s+({'|'.join((*SOUNDS, SILENCE))})\b", re.IGNORECASE)
_SILENT_CLAUSE = re.compile(rf"{_SEEN}\b()", re.IGNORECASE)


@dataclass(frozen=True)
class CaptionEvent:
    """One clause of a caption."""

    second: int
    color: str
    form: str
    sound: str
    """Empty in a clip without an audio track."""


@dataclass(frozen=True)
class CaptionScore:
    """Events that a caption states, events of the clip, and matches. Sum the counts over clips."""

    stated: int
    actual: int
    matched: int
    """Events with correct colour, form and sound."""
    matched_second: int
    """Events with a correct second as well."""

    @property
    def precision(self) -> float:
        """Fraction of stated events that are correct; 0 where none is stated."""
        return self.matched / self.stated if self.stated else 0.0

    @property
    def recall(self) -> float:
        """Fraction of the clip's events that are stated."""
        return self.matched / self.actual if self.actual else 1.0


def caption_events(scene: Scene) -> list[CaptionEvent]:
    """Return the events of a scene in order of time."""
    events = []
    for i, shape in enumerate(scene.shapes):
        sound = scene.sound_of(i)
        name = SILENCE if sound is None else scene.sounds[sound].name
        events.append(CaptionEvent(shape.start, shape.color, shape.form, name if scene.config.sound else ""))
    return events


def caption(scene: Scene) -> str:
    """Return the correct caption of a scene."""
    clauses = [
        f"at {e.second} {e.color} {e.form}" + (f" with {e.sound}" if e.sound else "") for e in caption_events(scene)
    ]
    return ", ".join(clauses) + "."


def parse_caption(text: str, *, sound: bool = True) -> list[CaptionEvent]:
    """Return the events that a text states; incomplete clauses are ignored.

    Args:
        text: The caption.
        sound: Whether the clip has an audio track; if not, a clause needs no sound, and a sound is ignored.
    """
    clause = _CLAUSE if sound else _SILENT_CLAUSE
    return [CaptionEvent(int(s), c.lower(), f.lower(), n.lower()) for s, c, f, n in clause.findall(text)]


def score_caption(text: str, scene: Scene) -> CaptionScore:
    """Compare a caption with the scene; an event that is stated twice counts once."""
    stated, actual = parse_caption(text, sound=scene.config.sound), caption_events(scene)
    timed = Counter(stated) & Counter(actual)
    bare = Counter((e.color, e.form, e.sound) for e in stated) & Counter((e.color, e.form, e.sound) for e in actual)
    return CaptionScore(len(stated), len(actual), sum(bare.values()), sum(timed.values()))
