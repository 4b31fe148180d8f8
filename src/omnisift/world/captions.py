"""Timeline captions: ``at 1 red circle with beep, at 3 blue cross with hum.``

One clause for each shape, in order of time: the second at which it appears, its colour, its form, its sound. The
grammar is fixed, so that a caption can be judged event by event instead of by guessing at words. In a clip without a
sound track the clauses end before ``with``; a clip that shows nothing has no clauses, only the full stop.
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
"""Ways to ask for a caption."""

_SEEN = rf"at\s+(\d+)\s+({'|'.join(COLOR_NAMES)})\s+({'|'.join(SHAPES)})"
_CLAUSE = re.compile(rf"{_SEEN}\s+with\s+({'|'.join(SOUNDS)})\b", re.IGNORECASE)
_SILENT_CLAUSE = re.compile(rf"{_SEEN}\b()", re.IGNORECASE)


@dataclass(frozen=True)
class CaptionEvent:
    """One clause of a caption."""

    second: int
    color: str
    form: str
    sound: str
    """Empty in a clip without a sound track."""


@dataclass(frozen=True)
class CaptionScore:
    """How many events a caption states, how many there are, and how many agree. Pool the counts over clips."""

    stated: int
    actual: int
    matched: int
    """Colour, form and sound all right."""
    matched_second: int
    """The second is right as well."""

    @property
    def precision(self) -> float:
        """Share of stated events that happened; 0 where nothing was stated."""
        return self.matched / self.stated if self.stated else 0.0

    @property
    def recall(self) -> float:
        """Share of events that were stated."""
        return self.matched / self.actual if self.actual else 1.0


def caption_events(scene: Scene) -> list[CaptionEvent]:
    """The true events in order of time."""
    sounds = [sound.name for sound in scene.sounds] if scene.config.sound else [""] * len(scene.shapes)
    return [CaptionEvent(shape.start, shape.color, shape.form, sounds[i]) for i, shape in enumerate(scene.shapes)]


def caption(scene: Scene) -> str:
    """The true caption."""
    clauses = [
        f"at {e.second} {e.color} {e.form}" + (f" with {e.sound}" if e.sound else "") for e in caption_events(scene)
    ]
    return ", ".join(clauses) + "."


def parse_caption(text: str, *, sound: bool = True) -> list[CaptionEvent]:
    """The events that a text states; whatever is not a whole clause is left out.

    With ``sound=False``, for a clip without a sound track, a clause is whole without its sound, and a sound is ignored.
    """
    clause = _CLAUSE if sound else _SILENT_CLAUSE
    return [CaptionEvent(int(s), c.lower(), f.lower(), n.lower()) for s, c, f, n in clause.findall(text)]


def score_caption(text: str, scene: Scene) -> CaptionScore:
    """Compare a caption with the scene; an event stated twice counts as right only once."""
    stated, actual = parse_caption(text, sound=scene.config.sound), caption_events(scene)
    timed = Counter(stated) & Counter(actual)
    bare = Counter((e.color, e.form, e.sound) for e in stated) & Counter((e.color, e.form, e.sound) for e in actual)
    return CaptionScore(len(stated), len(actual), sum(bare.values()), sum(timed.values()))
