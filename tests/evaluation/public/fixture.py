"""Five benchmarks of a few invented clips, in their official formats: what the end-to-end tests run on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.evaluation.public import metadata_samples as samples

from omnisift.evaluation.public.metadata import convert
from omnisift.world import caption, make_scene, questions, write_clip

KINDS = {
    "dailyomni": ("Inference", "Comparative"),
    "worldsense": ("Music", "Games"),
    "videomme": ("short", "long"),
    "omnivideobench": ("counting", "summarization"),
}
"""Groups that the questions fall into by turns."""


@dataclass(frozen=True)
class Fixture:
    """Where one benchmark's metadata and videos lie."""

    name: str
    metadata: Path
    videos: Path


def write_benchmarks(folder: Path, clips: int = 3, asked: int = 2) -> dict[str, Fixture]:
    """All five, about the same clips; each has ``clips * asked`` questions, or one description a clip."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = {f"clip{seed}": make_scene(seed, split="test") for seed in range(clips)}
    for name, scene in scenes.items():
        write_clip(scene, folder / f"{name}.mp4")
    result = {}
    for benchmark in (*samples.CHOICE, "video_salmonn2"):
        items = list(_items(benchmark, scenes, asked))
        metadata = folder / f"{benchmark}.jsonl"
        metadata.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
        videos = folder / benchmark
        for row in convert(benchmark, metadata, videos):
            path = Path(row.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.symlink_to(folder / f"{Path(row.video).name}.mp4")
        result[benchmark] = Fixture(benchmark, metadata, videos)
    return result


def _items(benchmark: str, scenes: dict[str, Any], asked: int) -> Iterator[Any]:
    number = 0
    for name, scene in scenes.items():
        if benchmark == "video_salmonn2":
            events = [part.strip() for part in caption(scene).split(".") if part.strip()]
            yield samples.video_salmonn2(name, "Describe the clip.", caption(scene), events)
            continue
        for question in questions(scene, np.random.default_rng(7))[:asked]:
            options, letter = _options(question.answer, number)
            kind = KINDS[benchmark][number % 2]
            yield samples.CHOICE[benchmark](name, question.text, letter, options, kind)
            number += 1


def _options(answer: str, number: int) -> tuple[list[str], str]:
    """Four options, the right one at another letter each time."""
    others = [word for word in ("red", "green", "blue", "yellow", "bell") if word != answer][:3]
    place = number % 4
    words = [*others[:place], answer, *others[place:]]
    return [f"{letter}. {word}" for letter, word in zip("ABCD", words, strict=True)], "ABCD"[place]
