"""Subtitles of a clip: a line for each spoken word, and for each other sound its name, as captions for the deaf have.

Times and names depend on split, seed and setting alone, by random numbers of their own: no clip changes. Every
degradation of a clip has the same lines in the same places but for what the degradation changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from omnisift.errors import UsageError
from omnisift.media.lines import Line
from omnisift.utils.suggest import check_choice
from omnisift.world.degradations import LATE_SECONDS
from omnisift.world.scene import Scene
from omnisift.world.splits import generator
from omnisift.world.words import SOUNDS, WORDS

SUBTITLE_DEGRADATIONS: Mapping[str, str] = MappingProxyType(
    {
        "wrong": "each line names another word, or another sound",
        "late": "all lines 2 s late; those behind the end of the clip are gone",
    }
)
"""Name -> what it does to the lines; the clip stays as it is."""
LATE_LINES = 2.0
"""Seconds."""
_STREAM = 10
_EARLY, _AFTER = 0.1, 0.25
"""A line begins at most so many seconds before, or after, its sound."""
_HELD = (0.2, 0.6)
"""Seconds for which a line stays after its sound."""
_SHORTEST = 0.8
"""Seconds for which a line is shown at least."""


def subtitles(scene: Scene, degradation: str | None = None) -> tuple[Line, ...]:
    """Return the lines of a scene, in order of their start; none without sound.

    A line names one sound and begins within 0.1 s before and 0.25 s after it. Times are whole milliseconds, as .srt
    files have them. A line that would begin after the end of the clip is left out, as the reader of files does.

    Args:
        scene: The scene.
        degradation: One of `SUBTITLE_DEGRADATIONS`; None has the right lines in time.

    Raises:
        UsageError: The degradation is unknown.
    """
    if degradation is not None:
        check_choice("the degradation of subtitles", degradation, SUBTITLE_DEGRADATIONS)
    rng, lines = generator(scene.number, stream=_STREAM), []
    # Sound that is late takes its lines with it.
    delay = LATE_SECONDS if scene.config.degraded == "late" else 0.0
    delay += LATE_LINES if degradation == "late" else 0.0
    for sound in scene.sounds:
        # The same draws for every degradation, so that only what it changes differs.
        start = min(max(0.0, sound.start + rng.uniform(-_EARLY, _AFTER)), scene.config.seconds - _EARLY)
        end = max(start + _SHORTEST, sound.end + rng.uniform(*_HELD))
        other = _other(sound.name, rng)
        text = other if degradation == "wrong" else sound.name
        lines.append(Line(round(start + delay, 3), round(end + delay, 3), text))
    shown = [line for line in lines if line.start < scene.config.seconds]
    return tuple(sorted(shown, key=lambda line: (line.start, line.text)))


def _other(name: str, rng: np.random.Generator) -> str:
    """Another word for a word, another sound for a sound."""
    kind = next((kind for kind in (WORDS, SOUNDS) if name in kind), None)
    if kind is None:
        raise UsageError(f"no word and no sound of the world is called {name!r}")
    others = [other for other in kind if other != name]
    return others[int(rng.integers(len(others)))]
