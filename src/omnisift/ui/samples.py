"""Generated sample clips with example questions, written when the page starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnisift.world import Question, Scene, make_scene, possible_types, questions, world_setting, write_clip

SAMPLES = (
    ("Shapes and sounds, 6 s", "base", 0),
    ("Moving camera, 6 s", "camera", 4),
    ("Long clip with few events, 24 s", "long", 33),
    ("No audio, 6 s", "silent", 3),
)
"""Title, setting and seed. Each seed is the first of its setting's test split for which the bundled model answers all
example questions correctly with all tokens and with omnisift at 25 %, and at least one wrongly with random at 25 %."""


@dataclass(frozen=True)
class SampleClip:
    """A clip on disk with questions it can answer."""

    title: str
    path: Path
    questions: tuple[str, ...]


def write_samples(folder: Path) -> list[SampleClip]:
    """Write the sample clips into the existing ``folder``."""
    samples = []
    for title, setting, seed in SAMPLES:
        scene = make_scene(seed, "test", world_setting(setting).config)
        path = folder / f"{setting}-{seed}.mp4"
        write_clip(scene, path)
        samples.append(SampleClip(title, path, tuple(question.text for question in example_questions(scene))))
    return samples


def example_questions(scene: Scene) -> list[Question]:
    """Three questions about a scene, first those that relate audio to video or need the order of events."""
    types = sorted(possible_types(scene.config), key=lambda name: (name != "sound_with", name != "order"))
    rng = np.random.default_rng(scene.seed)
    return [questions(scene, rng, types=[name])[0] for name in types[:3]]
