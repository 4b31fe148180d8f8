"""Clips to try without one of your own: a few of the invented world, written when the page starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnisift.world import make_scene, questions, world_setting, write_clip

_CHOSEN = (
    ("Shapes and sounds, 6 s", "base", 3),
    ("A camera that moves, 6 s", "camera", 5),
    ("A long clip in which little happens, 24 s", "long", 2),
    ("Without sound, 6 s", "silent", 4),
)
"""Title, setting and seed."""


@dataclass(frozen=True)
class Sample:
    """A clip with questions that it answers."""

    title: str
    path: Path
    questions: tuple[str, ...]


def write_samples(folder: Path) -> list[Sample]:
    """Write the clips into ``folder``, which is there."""
    return [_write(folder / f"{setting}-{seed}.mp4", title, setting, seed) for title, setting, seed in _CHOSEN]


def _write(path: Path, title: str, setting: str, seed: int) -> Sample:
    known = world_setting(setting)
    scene = make_scene(seed, "test", known.config)
    write_clip(scene, path)
    # What binds sound to picture comes first: it is what the method is about.
    types = sorted(known.types, key=lambda name: (name != "sound_with", name != "order"))
    rng = np.random.default_rng(seed)
    asked = tuple(questions(scene, rng, types=[kind])[0].text for kind in types[:3])
    return Sample(title, path, asked)
