"""Accuracy where the keys and values of a clip are quantised before the question is read. (A quarter of an hour.)

    python benchmarks/accuracy/quantized_cache.py --out benchmarks/results/quantized_cache.json

It needs optimum-quanto and hqq. Within one call of ``generate`` a prompt attends to exact keys and values, and its
first new token does not depend on the cache at all. So the prompt up to the question is read first, its cache is
quantised, and the question is read as a second turn: all tokens of the clip that it attends to are quantised ones.

Nano's world and ``wide``, each read by its own backbone: the first test clips as files, one question of each type; the
first word of an answer counts. All caches get the same questions, so that differences are paired, with intervals over
clips. The result file is written after every clip.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import QuantizedCache

from omnisift import attach, load
from omnisift.evaluation.statistics import ClusterBootstrap, Interval
from omnisift.evaluation.tables import pct, points, table
from omnisift.lab.benchmark.plan import QUESTION_STREAM
from omnisift.pipeline.clip_format import frame_seconds
from omnisift.pipeline.encoded_clip import prepare_call
from omnisift.utils.assets import bundled_path
from omnisift.utils.atomic_io import atomic_file
from omnisift.utils.provenance import provenance
from omnisift.utils.quiet import silence_libraries
from omnisift.world import make_scene, questions, world_setting, write_clip

WORLDS = {"nano": "base", "wide": "wide"}
"""Backbone -> setting of its world."""
RETAINS = (1.0, 0.25, 0.1)
EXACT = "32 bits"
_GROUPS = {"q_group_size": 16}
"""The heads, which are 32 wide here, are two groups each, as those of 128 in released models are two groups of 64."""
_HQQ = {"backend": "hqq", "axis_key": 1, "axis_value": 1, **_GROUPS}
CACHES: dict[str, dict[str, Any] | None] = {
    EXACT: None,
    "8 bits, fp8": {"backend": "fp8"},
    "8 bits, hqq": {**_HQQ, "nbits": 8},
    "4 bits, hqq": {**_HQQ, "nbits": 4},
    "4 bits, quanto": {"backend": "quanto", "nbits": 4, **_GROUPS},
    "2 bits, hqq": {**_HQQ, "nbits": 2},
    "2 bits, quanto": {"backend": "quanto", "nbits": 2, **_GROUPS},
}
"""Name -> ``cache_config`` of Transformers; None is its default cache."""
Key = tuple[float, str]
"""Ratio, cache."""


class World:
    """A backbone, and the right answers with each cache on the clips of its world.

    Args:
        backbone: name of a bundled checkpoint.
    """

    def __init__(self, backbone: str) -> None:
        self.backbone, self.setting = backbone, world_setting(WORLDS[backbone])
        self.full = load(bundled_path(backbone), compressor=None, device="cpu")
        self.host = self.full.host
        self.compressors = {retain: self.full.with_compressor("resift", retain=retain).compressor for retain in RETAINS}
        self.right: dict[Key, list[int]] = {(retain, name): [] for retain in RETAINS for name in CACHES}
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
            clip = self.full.encode(self.full.read(file), hold_bytes=0)
        rows = [clip.prompt(question.text) for question in asked]
        with torch.inference_mode():
            for retain, compressor in self.compressors.items():
                for name, options in CACHES.items():
                    words = self.answers(rows, compressor, options)
                    right = sum(word == question.answer for word, question in zip(words, asked, strict=True))
                    self.right[retain, name].append(right)

    def answers(self, rows: list[Any], compressor: Any, options: dict[str, Any] | None) -> list[str]:
        """The first word of each answer, read from one cache of the clip."""
        thinker, shared = self.host.thinker, common([row.inputs["input_ids"][0] for row in rows])
        text = thinker.config.get_text_config()
        cache = None if options is None else QuantizedCache(config=text, **options)
        words = []
        with prepare_call(self.host, rows[:1], compressor) as inputs, attach(thinker, compressor) as attachment:
            attachment.frame_seconds = frame_seconds(self.host.processor, [rows[0].media])
            begin = {
                name: value[:, :shared] for name, value in inputs.items() if name in ("input_ids", "attention_mask")
            }
            cache = thinker(**{**inputs, **begin}, past_key_values=cache, use_cache=True).past_key_values
            for row in rows:
                rest = row.inputs["input_ids"][:, shared:].long()
                logits = thinker(input_ids=rest, past_key_values=copied(cache), use_cache=True).logits
                words.append(self.host.processor.tokenizer.decode([int(logits[0, -1].argmax())]).strip())
        return words

    def rows(self) -> list[dict[str, Any]]:
        """For each ratio and cache the accuracy, and its difference from the exact cache."""
        bootstrap, rows = ClusterBootstrap(len(self.asked)), []
        for retain, name in self.right:
            right, reference = (np.array(self.right[retain, cache]) for cache in (name, EXACT))
            rows.append(
                {
                    "world": self.backbone,
                    "retain": retain,
                    "cache": name,
                    "questions": sum(self.asked),
                    "accuracy": _rounded(bootstrap.share(right, self.asked)),
                    "difference": _rounded(bootstrap.share(right - reference, self.asked)),
                }
            )
        return rows


def common(rows: list[torch.Tensor]) -> int:
    """Tokens with which all prompts begin: the clip, and the texts around it."""
    width = min(map(len, rows))
    return int((torch.stack([row[:width] for row in rows]) == rows[0][:width]).all(dim=0).long().cumprod(dim=0).sum())


def copied(cache: Any) -> Any:
    """A cache with the same tokens; what is appended to it is not in the other."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    return made


def _rounded(interval: Interval) -> list[float]:
    """Value and interval, in 0..1."""
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def accuracy_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each world and cache, with all ratios; differences in points."""
    head = ["world", "cache"]
    head += [f"{100 * retain:g} %, {column}" for retain in RETAINS for column in ("accuracy", "difference")]
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        line = lines.setdefault((row["world"], row["cache"]), [row["world"], row["cache"]])
        line += [pct(row["accuracy"][0]), "-" if row["cache"] == EXACT else points(Interval(*row["difference"]))]
    return table(head, list(lines.values()))


def main(arguments: list[str] | None = None) -> None:
    """Measure, write one JSON file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=125, help="test clips of each world")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quantized_cache.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    silence_libraries()
    made, worlds = provenance(), [World(name) for name in WORLDS]
    made |= {name: version(name) for name in ("optimum-quanto", "hqq")}
    for seed in range(options.clips):
        for world in worlds:
            world.add(seed)
        result = {"clips": seed + 1, "rows": [row for world in worlds for row in world.rows()], **made}
        with atomic_file(options.out) as path:
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{seed + 1} of {options.clips} clips", flush=True)
    print(accuracy_table(result["rows"]))


if __name__ == "__main__":
    main()
