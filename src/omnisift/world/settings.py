"""Named kinds of clip, each hard in one way, so that a comparison shows where a method wins and where it must lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from omnisift.errors import UsageError
from omnisift.world.config import SceneConfig
from omnisift.world.questions import possible_types


@dataclass(frozen=True)
class Setting:
    """One kind of clip and what it may be asked."""

    name: str
    """One lower-case word, by which `world_setting` finds it."""
    idea: str
    """What makes it hard, in a few words."""
    config: SceneConfig
    types: tuple[str, ...]
    """Types of question that its clips can be asked, in the order of `QUESTION_TYPES`."""
    note: str
    """What holds in every clip of it, and what it may show about a method."""

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
        "One shape at a time over a still background; distractors sound while nothing is visible.",
    ),
    _setting(
        "long",
        "a needle in a haystack",
        SceneConfig(seconds=24),
        "No more shapes than in base, so most of the clip shows nothing: a budget spread evenly over time is thin.",
    ),
    _setting(
        "crowd",
        "two shapes at once",
        SceneConfig(seconds=8, shape_seconds=(2, 3), empty_seconds=1, together=2),
        "Two shapes meet at least once, in different quarters; each has a second of its own, which holds its sound.",
    ),
    _setting(
        "camera",
        "the background moves",
        SceneConfig(drift=(4.0, 10.0)),
        "The background pans steadily, so change between frames no longer marks the shapes.",
    ),
    _setting(
        "cuts",
        "the background jumps",
        SceneConfig(cuts=(2, 3)),
        "At two or three whole seconds colour and texture change: whole frames look new, with nothing to ask about.",
    ),
    _setting(
        "loud",
        "what doesn't matter is louder",
        SceneConfig(distractors=(4, 5), distractor_gain=2.5),
        "No distractor is drawn softer than a tied sound, and there are more of them: loudness points the wrong way.",
    ),
    _setting(
        "unseen",
        "sound that matters while nothing is visible",
        SceneConfig(shapes=(2, 3), empty_seconds=3, distractors=(1, 1), heard="unseen"),
        "A yes is about a kind heard exactly once, in an empty second: guidance by what is visible points elsewhere.",
        ("heard",),
    ),
    _setting(
        "silent",
        "picture only",
        SceneConfig(sound=False),
        "The file has no sound track; scenes have no sounds, and show what base shows for the same seed.",
    ),
    _setting(
        "blank",
        "sound only",
        SceneConfig(shapes=(0, 0), distractors=(1, 2)),
        "Nothing is ever visible and every second holds a sound: guidance by what is visible has nothing to go by.",
    ),
)

SETTINGS: Mapping[str, Setting] = MappingProxyType({setting.name: setting for setting in _ALL})
"""Name -> setting, ``base`` first."""


def world_setting(name: str) -> Setting:
    """The setting of this name. `UsageError` for an unknown one."""
    if name not in SETTINGS:
        raise UsageError(f"unknown setting {name!r}; choose one of: {', '.join(SETTINGS)}")
    return SETTINGS[name]
