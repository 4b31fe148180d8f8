"""Accuracy on audio without video: the sound of clips of the setting ``blank`` as plain audio, by method and budget.

    python benchmarks/accuracy/plain_audio.py --clips 200 --out benchmarks/results/plain_audio.json

Each clip is asked one question of the type ``heard`` (is a sound heard: yes or no). The waveform alone is given to the
model, so that it is audio outside a video; ``with its video`` is the same clip with its empty pictures, all tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisift import Media, Pipeline, load
from omnisift.evaluation.statistics import ClusterBootstrap
from omnisift.lab.benchmark.plan import QUESTION_STREAM
from omnisift.media import SAMPLE_RATE
from omnisift.pipeline.encoded_clip import EncodedClip
from omnisift.utils.assets import bundled_path
from omnisift.utils.atomic_io import atomic_file
from omnisift.utils.provenance import provenance
from omnisift.utils.quiet import silence_libraries
from omnisift.world import make_scene, questions, render_audio, render_frames, world_setting

BACKBONES = ("nano", "neutral")
METHODS = ("resift", "random", "uniform:mode=pool", "divprune")
BUDGETS = (0.5, 0.25, 0.1)
FULL, SEEN = "all tokens", "with its video, all tokens"


def pipelines(backbone: str) -> dict[tuple[str, float], Pipeline]:
    """(method, ratio) -> pipeline, of one loaded model."""
    full = load(bundled_path(backbone), compressor="none", device="cpu")
    made = {(FULL, 1.0): full}
    for method in METHODS:
        for retain in BUDGETS:
            made[method, retain] = full.with_compressor(method, retain=retain, compress_audio=True)
    return made


def clips(count: int) -> Iterator[tuple[Any, Any, Any]]:
    """(audio alone, the same with its pictures, question) of test clips."""
    setting = world_setting("blank")
    for seed in range(count):
        scene = make_scene(seed, "test", setting.config)
        question = questions(scene, np.random.default_rng((QUESTION_STREAM, scene.number)), ["heard"])[0]
        sound = {"waveform": render_audio(scene), "sample_rate": SAMPLE_RATE}
        frames = render_frames(scene)
        fps = len(frames) / scene.config.seconds
        size = scene.config.size**2
        yield (
            Media.from_arrays(**sound),
            Media.from_arrays(frames, fps, **sound, min_pixels=size, max_pixels=size),
            question,
        )


def measure(backbone: str, count: int) -> list[dict[str, Any]]:
    """Rows: method, ratio, measured share, accuracy with its interval over clips."""
    made = pipelines(backbone)
    right: dict[tuple[str, float], list[int]] = {}
    kept: dict[tuple[str, float], list[float]] = {}
    for sound, seen, question in clips(count):
        full = made[FULL, 1.0]
        encoded = EncodedClip(full.host, sound)
        asked: list[tuple[tuple[str, float], Any, Pipeline]] = [((SEEN, 1.0), seen, full)]
        asked += [(key, encoded, pipeline) for key, pipeline in made.items()]
        for key, media, pipeline in asked:
            answer = pipeline.ask(media, question.text, max_new_tokens=4)
            right.setdefault(key, []).append(int(answer.text == question.answer))
            kept.setdefault(key, []).append(answer.report.retained_ratio)
    bootstrap = ClusterBootstrap(count)
    rows = []
    for (method, retain), hits in right.items():
        share = bootstrap.share(hits, np.ones(count))
        rows.append(
            {
                "backbone": backbone,
                "method": method,
                "retain": retain,
                "kept": round(float(np.mean(kept[method, retain])), 4),
                "right": int(sum(hits)),
                "accuracy": round(100 * share.value, 1),
                "interval": [round(100 * share.low, 1), round(100 * share.high, 1)],
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per method, one column per backbone and ratio."""
    columns = [(backbone, retain) for backbone in BACKBONES for retain in BUDGETS]
    lines = ["| method | " + " | ".join(f"{name}, {100 * retain:g} %" for name, retain in columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    found = {(row["backbone"], row["method"], row["retain"]): row["accuracy"] for row in rows}
    for method in (FULL, SEEN, *METHODS):
        values = [found.get((name, method, retain), found.get((name, method, 1.0))) for name, retain in columns]
        lines.append(f"| {method} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write one JSON file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    silence_libraries()
    rows = [row for backbone in BACKBONES for row in measure(backbone, arguments.clips)]
    with atomic_file(arguments.out) as path:
        path.write_text(json.dumps({"clips": arguments.clips, "rows": rows, **provenance()}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
