"""What quantised language models answer, with all tokens and with few. (20 minutes; resumes.)

    python benchmarks/accuracy/quantized.py --out benchmarks/results/quantized.json       # needs the extra [quant]
    python benchmarks/accuracy/quantized.py --table        # the tables of docs/small-machines.md

Nano's world and ``wide``, each read by its own backbone: the first test clips as files, one question of each type; the
first word of an answer counts. All ways and shares get the same questions, so that differences are paired, with
intervals over clips. A quantised language model reads the output of the float32 model's encoders, which no way
quantises; the bfloat16 model has its own. What was answered about fifty clips is kept in ``--work``, from which an
interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisift import Budget, load, make_compressor
from omnisift.evaluation.statistics import ClusterBootstrap, Interval
from omnisift.evaluation.tables import ALL_TOKENS, pct_with_interval, points
from omnisift.evaluation.tables import table as markdown
from omnisift.lab.benchmark.encoded import Encoded, encode_scenes
from omnisift.lab.benchmark.packed_eval import PackedEvaluator, PackedQuestions
from omnisift.lab.benchmark.plan import QUESTION_STREAM, tensors_digest
from omnisift.lab.benchmark.quality import pack, unpack
from omnisift.utils.assets import bundled_path
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.jsonl import JsonLines
from omnisift.utils.provenance import provenance
from omnisift.utils.quiet import silence_libraries
from omnisift.world import make_scene, questions, world_setting

WORLDS = {"nano": "base", "wide": "wide"}
"""Backbone -> setting of its world."""
METHOD = "resift"
SHARES = (1.0, 0.25, 0.1)
WAYS: Mapping[str, dict[str, str]] = {
    "fp32": {},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"quantization": "torchao-int8"},
    "int4": {"quantization": "quanto-int4"},
    "nf4": {"quantization": "bitsandbytes-nf4"},
    "int2": {"quantization": "quanto-int2"},
}
"""Way -> arguments of `load`."""
NAMES = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "int8": "8 bits, `torchao-int8`",
    "int4": "4 bits, `quanto-int4`",
    "nf4": "4 bits, `bitsandbytes-nf4`",
    "int2": "2 bits, `quanto-int2`",
}
PACKAGES = ("torchao", "optimum-quanto", "bitsandbytes")
AT_ONCE = 50


class World:
    """A backbone, loaded in each way, and its answers about the clips of its world.

    Args:
        backbone: name of a bundled checkpoint.
    """

    def __init__(self, backbone: str) -> None:
        self.setting, folder = world_setting(WORLDS[backbone]), bundled_path(backbone)
        self.models = {
            way: PackedEvaluator(load(folder, compressor=None, device="cpu", **arguments).host)
            for way, arguments in WAYS.items()
        }
        self.digest = tensors_digest(folder)

    def sizes(self) -> dict[str, int]:
        """Bytes of the language model's weights by way, scales and embeddings included."""
        return {way: weight_bytes(model.parts.language_model) for way, model in self.models.items()}

    def answers(self, first: int, count: int) -> dict[str, str]:
        """Ask one question of each type about ``count`` clips, from clip ``first`` on.

        Returns:
            Key (`key_of`) -> the right answers, as `pack` has them.
        """
        scenes = [make_scene(seed, "test", self.setting.config) for seed in range(first, first + count)]
        asked = [questions(s, np.random.default_rng((QUESTION_STREAM, s.number)), self.setting.types) for s in scenes]
        processor = self.models["fp32"].host.processor
        packed = PackedQuestions.of(processor, [[q.text for q in row] for row in asked])
        due = torch.tensor([[processor.tokenizer(q.answer).input_ids[0] for q in row] for row in asked])
        # Encoders are the same in all ways but bfloat16, which reads the same files.
        with tempfile.TemporaryDirectory() as files:
            clips = {way: encode_scenes(self.models[way].host, scenes, files=Path(files)) for way in ("fp32", "bf16")}
        return {
            key_of(way, share): pack((self._words(way, share, clips, packed) == due).numpy())
            for way in WAYS
            for share in SHARES
        }

    def _words(self, way: str, share: float, clips: Mapping[str, Encoded], packed: PackedQuestions) -> torch.Tensor:
        method = None if share == 1 else make_compressor(METHOD, Budget(retain=share)).eval()
        return self.models[way](clips[way if way in clips else "fp32"], packed, method).words


def key_of(way: str, share: float) -> str:
    """The key of a result: ``int4 | 0.25``."""
    return f"{way} | {share:g}"


def weight_bytes(module: torch.nn.Module) -> int:
    """Bytes of all tensors that a module would store, those within quantised tensors included."""
    return sum(part.nbytes for tensor in module.state_dict().values() for part in _stored(tensor))


def _stored(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _stored(getattr(tensor, name))


def results(right: Mapping[str, np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    """Accuracies and paired differences of one world, with intervals over clips.

    Args:
        right: key -> [clips, questions] bool.

    Returns:
        One row for each way and share. ``difference`` is to float32 with all tokens; ``quantised`` to float32 with the
        same tokens; ``compressed`` to the same way with all tokens; ``interaction`` is ``compressed`` less that of
        float32: below 0 where compression costs a quantised model more.
    """
    clips, each = next(iter(right.values())).shape
    bootstrap, hits = ClusterBootstrap(clips), {key: found.sum(axis=1) for key, found in right.items()}

    def share_of(values: np.ndarray[Any, Any]) -> list[float]:
        found = bootstrap.share(values, np.full(clips, each))
        return [round(value, 4) for value in (found.value, found.low, found.high)]

    rows = []
    for way in WAYS:
        for share in SHARES:
            here, same = hits[key_of(way, share)], hits[key_of("fp32", share)]
            everything, base = hits[key_of(way, 1.0)], hits[key_of("fp32", 1.0)]
            rows.append(
                {
                    "way": way,
                    "share": share,
                    "accuracy": share_of(here),
                    "difference": share_of(here - base),
                    "quantised": share_of(here - same),
                    "compressed": share_of(here - everything),
                    "interaction": share_of((here - everything) - (same - base)),
                    "types": right[key_of(way, share)].mean(axis=0).round(4).tolist(),
                }
            )
    return rows


class Tables:
    """The tables of a result.

    Args:
        result: the contents of the result file.
    """

    def __init__(self, result: dict[str, Any]) -> None:
        self.worlds = result["worlds"]

    def accuracy(self, world: str) -> str:
        """Markdown: bytes, and accuracy by share."""
        rows, sizes = self._rows(world), self.worlds[world]["bytes"]
        lines = [
            [
                NAMES[way],
                f"{sizes[way] / 2**20:.2f}",
                *(pct_with_interval(Interval(*rows[way, share]["accuracy"])) for share in SHARES),
            ]
            for way in WAYS
        ]
        return markdown(["language model", "MiB", *_shares(SHARES)], lines)

    def differences(self, world: str, name: str, ways: Sequence[str], shares: Sequence[float]) -> str:
        """Markdown: one of the differences of `results`, in points."""
        rows = self._rows(world)
        lines = [[NAMES[way], *(points(Interval(*rows[way, share][name])) for share in shares)] for way in ways]
        return markdown(["language model", *_shares(shares)], lines)

    def parts(self) -> dict[str, str]:
        """Name of each table of the page -> the table."""
        ways = [way for way in WAYS if way != "fp32"]
        parts = {}
        for world in WORLDS:
            parts[f"quantized_{world}"] = self.accuracy(world)
            parts[f"quantized_{world}_differences"] = self.differences(world, "difference", list(WAYS), SHARES)
            parts[f"quantized_{world}_interaction"] = self.differences(world, "interaction", ways, SHARES[1:])
        return parts

    def _rows(self, world: str) -> dict[tuple[str, float], dict[str, Any]]:
        return {(row["way"], row["share"]): row for row in self.worlds[world]["rows"]}


def _shares(shares: Sequence[float]) -> list[str]:
    return [ALL_TOKENS if share == 1 else f"{100 * share:g} %" for share in shares]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write one JSON file, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200, help="clips of each world, from the first of the test split")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quantized.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/quantized.jsonl"), help="what was answered, by clips")
    parser.add_argument("--table", action="store_true", help="print the tables of the result file")
    options = parser.parse_args(arguments)
    if not options.table:
        measure(options)
    for name, table in Tables(json.loads(options.out.read_text(encoding="utf-8"))).parts().items():
        print(f"{name}\n\n{table}\n")


def measure(options: argparse.Namespace) -> None:
    """Answer about the clips that are missing in the working file, and write the result."""
    torch.set_num_threads(1)
    silence_libraries()
    made = provenance() | {name: version(name) for name in PACKAGES}
    options.work.parent.mkdir(parents=True, exist_ok=True)
    file, worlds = JsonLines(options.work), {}
    for name in WORLDS:
        world = World(name)
        about = {"world": name, "digest": world.digest, "commit": made["commit"]}
        done = {(row["first"], row["count"]): row["right"] for _, row in file.records() if row["about"] == about}
        parts = [(first, min(AT_ONCE, options.clips - first)) for first in range(0, options.clips, AT_ONCE)]
        for first, count in parts:
            if (first, count) not in done:
                done[first, count] = world.answers(first, count)
                file.append({"about": about, "first": first, "count": count, "right": done[first, count]})
                print(f"{name}: {first + count} of {options.clips} clips", flush=True)
        types = world.setting.types
        right = {
            key_of(way, share): np.concatenate([unpack(done[part][key_of(way, share)], len(types)) for part in parts])
            for way in WAYS
            for share in SHARES
        }
        worlds[name] = {
            "setting": world.setting.name,
            "digest": world.digest,
            "clips": options.clips,
            "questions": options.clips * len(types),
            "types": types,
            "bytes": world.sizes(),
            "rows": results(right),
        }
    command = f"python benchmarks/accuracy/quantized.py --clips {options.clips}"
    result = {"command": command, "method": METHOD, "worlds": worlds, **made}
    write_atomic(options.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
