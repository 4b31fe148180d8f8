"""Accuracy where a part of the video tokens is never encoded, against everything encoded. (A quarter of an hour.)

    python benchmarks/accuracy/partial_encoding.py --out benchmarks/results/partial_encoding.json

Nano's world and ``wide``, each read by its own backbone: the first test clips as files, one question of each type; the
first word of an answer counts. All encodings of a method and a budget get the same questions, so that differences are
paired, with intervals over clips. The result file is written after every clip, so that an interrupted run leaves the
result of its clips.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisift import Pipeline, load
from omnisift.evaluation.statistics import ClusterBootstrap, Interval
from omnisift.evaluation.tables import pct, points
from omnisift.evaluation.tables import table as markdown
from omnisift.lab.benchmark.plan import QUESTION_STREAM
from omnisift.utils.assets import bundled_path
from omnisift.utils.atomic_io import atomic_file
from omnisift.utils.provenance import provenance
from omnisift.utils.quiet import silence_libraries
from omnisift.world import make_scene, questions, world_setting, write_clip

WORLDS = {"nano": "base", "wide": "wide"}
"""Backbone -> setting of its world."""
METHODS = ("resift", "omnisift")
BUDGETS = (0.25, 0.1)
ALL = "all encoded"
ENCODINGS: dict[str, dict[str, Any]] = {
    ALL: {},
    "`retain_encoded=0.5`": {"retain_encoded": 0.5},
    "`retain_encoded=0.38`": {"retain_encoded": 0.38},
    "`still_threshold=8`": {"still_threshold": 8},
}
"""Name -> arguments of `Pipeline.with_compressor`."""
Key = tuple[str, float, str]
"""Method, ratio, encoding."""


class World:
    """A backbone, the pipelines of all keys, and their outcomes on the clips of its world.

    Args:
        backbone: name of a bundled checkpoint.
    """

    def __init__(self, backbone: str) -> None:
        self.backbone, self.setting = backbone, world_setting(WORLDS[backbone])
        self.full = load(bundled_path(backbone), compressor=None, device="cpu")
        self.pipes: dict[Key, Pipeline] = {
            (method, retain, name): self.full.with_compressor(method, retain=retain, **encoding)
            for name, encoding in ENCODINGS.items()
            for method in METHODS
            for retain in BUDGETS
        }
        self.right: dict[Key, list[int]] = {key: [] for key in self.pipes}
        """Right answers on each clip."""
        self.encoded: dict[Key, list[float]] = {key: [] for key in self.pipes}
        """Share of the video tokens of each clip that was encoded."""
        self.asked: list[int] = []
        """Questions about each clip."""

    def add(self, seed: int) -> None:
        """Ask about one more test clip, which is read from a file: a question of each type."""
        scene = make_scene(seed, "test", self.setting.config)
        asked = questions(scene, np.random.default_rng((QUESTION_STREAM, scene.number)), self.setting.types)
        self.asked.append(len(asked))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "clip.mp4"
            write_clip(scene, file)
            media = self.full.read(file)
        clips = {name: self.pipes[METHODS[0], BUDGETS[0], name].encode(media) for name in ENCODINGS}
        for key, pipe in self.pipes.items():
            prompts = [(clips[key[2]], question.text) for question in asked]
            answers = pipe.ask_batch(prompts, max_new_tokens=1)
            self.right[key].append(sum(a.text == q.answer for a, q in zip(answers, asked, strict=True)))
            report = answers[0].report
            encoded = report.tokens.video if report.encoded_tokens is None else report.encoded_tokens
            self.encoded[key].append(encoded / report.tokens.video)

    def rows(self) -> list[dict[str, Any]]:
        """For each key the encoded share, the accuracy, and its difference from everything encoded."""
        bootstrap, rows = ClusterBootstrap(len(self.asked)), []
        for method, retain, name in self.pipes:
            right, reference = (np.array(self.right[method, retain, encoding]) for encoding in (name, ALL))
            rows.append(
                {
                    "world": self.backbone,
                    "method": method,
                    "retain": retain,
                    "encoding": name,
                    "encoded": round(float(np.mean(self.encoded[method, retain, name])), 4),
                    "questions": sum(self.asked),
                    "accuracy": _rounded(bootstrap.share(right, self.asked)),
                    "difference": _rounded(bootstrap.share(right - reference, self.asked)),
                }
            )
        return rows


def _rounded(interval: Interval) -> list[float]:
    """Value and interval, in 0..1."""
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each world, method and encoding, with both ratios; differences in points."""
    head = ["world", "method", "encoding", "encoded, %"]
    head += [f"{100 * retain:g} %, {column}" for retain in BUDGETS for column in ("accuracy", "difference")]
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        key = row["world"], row["method"], row["encoding"]
        line = lines.setdefault(key, [*key, f"{100 * row['encoded']:.0f}"])
        line += [pct(row["accuracy"][0]), "-" if row["encoding"] == ALL else points(Interval(*row["difference"]))]
    return markdown(head, [lines[key] for key in sorted(lines, key=_order)])


def _order(key: tuple[str, ...]) -> tuple[int, ...]:
    """Place of a line: worlds, methods and encodings as above."""
    return tuple(list(names).index(name) for names, name in zip((WORLDS, METHODS, ENCODINGS), key, strict=True))


def main(arguments: list[str] | None = None) -> None:
    """Measure, write one JSON file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=125, help="test clips of each world")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/partial_encoding.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    silence_libraries()
    made, worlds = provenance(), [World(backbone) for backbone in WORLDS]
    for seed in range(options.clips):
        for world in worlds:
            world.add(seed)
        result = {"clips": seed + 1, "rows": [row for world in worlds for row in world.rows()], **made}
        with atomic_file(options.out) as path:
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{seed + 1} of {options.clips} clips", flush=True)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
