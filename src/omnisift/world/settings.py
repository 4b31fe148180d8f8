"""Settings: named configurations of the generated world, each hard in one respect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from omnisift.errors import UsageError
from omnisift.utils.suggest import meant
from omnisift.world.config import SceneConfig
from omnisift.world.questions import possible_types


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

SETTINGS: Mapping[str, Setting] = MappingProxyType({setting.name: setting for setting in _ALL})
"""Name -> setting, ``base`` first."""


def world_setting(name: str) -> Setting:
    """Return the setting of this name.

    Raises:
        UsageError: The name is unknown.
    """
    if name not in SETTINGS:
        raise UsageError(f"unknown setting {name!r}; choose one of: {', '.join(SETTINGS)}{meant(name, SETTINGS)}")
    return SETTINGS[name]
