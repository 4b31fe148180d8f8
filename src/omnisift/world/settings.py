"""Settings: named configurations of the generated world, each hard in one respect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.suggest import check_choice, meant
from omnisift.world.config import SceneConfig, WideConfig
from omnisift.world.degradations import DEGRADATIONS
from omnisift.world.questions import FOLLOWED, possible_types


@dataclass(frozen=True)
class Setting:
    """A named configuration and its question types."""

    name: str
    """One lower-case word, for `world_setting`."""
    idea: str
    """What makes it hard, in a few words."""
    config: SceneConfig
    types: tuple[str, ...]
    """Question types of its clips, in the order of `QUESTION_TYPES`."""
    note: str
    """What holds in every clip, and what that means for methods."""

    def __post_init__(self) -> None:
        wrong = [name for name in self.types if name not in possible_types(self.config)]
        if wrong or not self.types:
            known = ", ".join(possible_types(self.config))
            raise UsageError(f"setting {self.name!r} needs types among: {known}; got {self.types}")


def _setting(name: str, idea: str, config: SceneConfig, note: str, types: tuple[str, ...] | None = None) -> Setting:
    return Setting(name, idea, config, possible_types(config) if types is None else types, note)


_ALL = (
    _setting(
        "base",
        "the world of the nano model",
        SceneConfig(),
        "One shape at a time over a still background; distractors occur while no shape is visible.",
    ),
    _setting(
        "long",
        "few events in a long clip",
        SceneConfig(seconds=24),
        "No more shapes than in base, so most of the clip is empty: an even budget over time leaves few per event.",
    ),
    _setting(
        "crowd",
        "two shapes at once",
        SceneConfig(seconds=8, shape_seconds=(2, 3), empty_seconds=1, together=2),
        "Two shapes overlap in time at least once, in different quarters; each sound is in a second with one shape.",
    ),
    _setting(
        "camera",
        "the background moves",
        SceneConfig(drift=(4.0, 10.0)),
        "The background pans steadily, so change between frames does not indicate shapes.",
    ),
    _setting(
        "cuts",
        "the background changes abruptly",
        SceneConfig(cuts=(2, 3)),
        "Colour and texture change two or three times: complete frames differ without any relevant event.",
    ),
    _setting(
        "loud",
        "distractors are louder",
        SceneConfig(distractors=(4, 5), distractor_gain=2.5),
        "No distractor is quieter than a sound of a shape, and there are more of them: loudness is misleading.",
    ),
    _setting(
        "unseen",
        "relevant sounds without a visible shape",
        SceneConfig(shapes=(2, 3), empty_seconds=3, distractors=(1, 1), heard="unseen"),
        "A yes is about a sound that occurs once, in an empty second: guidance by video is misleading.",
        ("heard",),
    ),
    _setting(
        "silent",
        "video only",
        SceneConfig(sound=False),
        "The file has no audio track; the video is that of base for the same seed.",
    ),
    _setting(
        "blank",
        "audio only",
        SceneConfig(shapes=(0, 0), distractors=(1, 2)),
        "No shape is ever visible and every second has a sound: guidance by video has no information.",
    ),
)


def _wide(
    name: str, idea: str, note: str, changes: tuple[int, int], decoys: tuple[int, int] = (0, 1), **options: Any
) -> Setting:
    """A setting of the wide family."""
    wide = WideConfig(changes=changes, decoys=decoys)
    return _setting(name, idea, SceneConfig(size=280, noise=5.0, together=2, wide=wide, **options), note)


_WIDE = (
    _wide(
        "wide",
        "small shapes among clutter, speech, titles",
        "600 video and 150 audio tokens: two shapes at once, a spoken and a written word, clutter, a moving camera.",
        (0, 2),
        shapes=(2, 3),
        shape_seconds=(2, 3),
        empty_seconds=1,
        distractors=(1, 2),
    ),
    _wide(
        "decoys",
        "wide with two or three decoys in every clip",
        "Large white shapes that flicker stand out in the video and are never asked about: guidance by them misleads.",
        (0, 2),
        (2, 3),
        shapes=(2, 3),
        shape_seconds=(2, 3),
        empty_seconds=1,
        distractors=(1, 2),
    ),
    _wide(
        "wide20",
        "wide in 20 s",
        "The events of wide in a clip of 2,000 video and 500 audio tokens.",
        (1, 4),
        seconds=20,
        shapes=(3, 4),
        shape_seconds=(2, 5),
        empty_seconds=4,
        distractors=(1, 2),
    ),
    _wide(
        "wide60",
        "wide in a minute",
        "The events of wide in a clip of 6,000 video and 1,500 audio tokens: order within a minute.",
        (2, 8),
        seconds=60,
        shapes=(3, 4),
        shape_seconds=(2, 8),
        empty_seconds=20,
        distractors=(0, 1),
    ),
)
WIDE_SETTINGS: Mapping[str, Setting] = MappingProxyType({setting.name: setting for setting in _WIDE})
"""Name -> setting of the wide family, by length."""

CONFLICT = _setting(
    "conflict",
    "the voice contradicts the title",
    replace(_WIDE[0].config, conflict=True),
    "The picture of wide for the same seed; the voice says another word than the title, at the same time.",
    ("written", "said", *FOLLOWED),
)
"""Setting of the wide family that tells which sense a model follows; for tests, not for training."""

SETTINGS: Mapping[str, Setting] = MappingProxyType({setting.name: setting for setting in _ALL})
"""Name -> setting of the first family, ``base`` first."""


def world_setting(name: str) -> Setting:
    """Return the setting of this name, of any kind; ``wide+blur`` is ``wide`` with the degradation ``blur``.

    Raises:
        UsageError: The setting or the degradation is unknown.
    """
    plain, plus, degraded = name.partition("+")
    known = {**SETTINGS, **WIDE_SETTINGS, CONFLICT.name: CONFLICT}
    if plain not in known:
        raise UsageError(f"unknown setting {plain!r}; choose one of: {', '.join(known)}{meant(plain, known)}")
    setting = known[plain]
    if not plus:
        return setting
    check_choice("the degradation", degraded, DEGRADATIONS)
    idea = f"{setting.idea}; {DEGRADATIONS[degraded]}"
    return replace(setting, name=name, idea=idea, config=replace(setting.config, degraded=degraded))
