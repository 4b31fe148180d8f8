"""Peak memory of the stages of a question, measured and by the formula of `omnisift profile --device-memory`.

    python benchmarks/speed/question_memory.py --out benchmarks/results/question_memory.json

Random weights: `deep` of benchmarks/speed/stages.py with two layers of each part, and frames of noise.
Measured are allocations of tensors on the CPU, traced by torch.profiler, without the weights. (Ten minutes.)
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from omnisift.budget import Budget
from omnisift.evaluation.tables import table
from omnisift.pipeline import Pipeline
from omnisift.pipeline.windowed_clip import LONG_IMAGES
from omnisift.profiling.gauges import CpuMemoryGauge
from omnisift.profiling.memory import clip_memory
from omnisift.profiling.shape import PromptShape
from omnisift.utils.provenance import provenance
from omnisift.utils.quiet import silence_libraries, silence_profiler

LARGE, SMALL = (6, 10), (2, 4)
CASES = (
    (136, 0.25, SMALL), (180, 0.05, SMALL), (10, 1.0, LARGE), (20, 1.0, LARGE), (20, 0.25, LARGE), (30, 0.05, LARGE),
    (50, 0.25, LARGE), (70, 0.05, LARGE),
)  # fmt: skip
"""Seconds at one frame per second, what is kept, and tokens of a frame: encoded at once; in windows; and above 256
images, where each window is compressed alone."""
DTYPES = ("bfloat16", "float32")
NEW = 2


def row(pipe: Pipeline, seconds: int, retain: float, frame: tuple[int, int], dtype: torch.dtype) -> dict[str, Any]:
    """Megabytes of one question, measured and by formula."""
    from stages import make_clip

    causal = ":causal=true" if 2 * seconds > LONG_IMAGES else ""
    budget = None if retain == 1 else Budget(retain=retain)
    asked = pipe if budget is None else pipe.with_compressor(f"resift{causal}", retain=retain)
    clip, limit = make_clip(seconds, *frame), 2 * seconds
    with CpuMemoryGauge() as gauge:
        report = asked.ask(clip, "What happens?", max_new_tokens=NEW, max_frames=limit, on_stage=gauge.stage).report
    config, tokens = pipe.host.thinker.config, report.tokens
    text = tokens.prompt - tokens.video - tokens.audio
    shape = PromptShape(seconds, *frame, 100 * seconds, text, 1.0, config)
    counted = clip_memory(config, shape, budget, new=NEW, size=dtype.itemsize, device="cpu")
    if counted.prompt != tokens.prompt_kept:
        raise SystemExit(f"{seconds} s: the formula counts {counted.prompt} tokens, but {tokens.prompt_kept} were read")
    stages = {
        "encode": (max(gauge.peaks["encode_video"], gauge.peaks["encode_audio"]), counted.encode),
        "compress": (gauge.peaks["compress"], counted.compress),
        "prefill": (gauge.peaks["prefill"], counted.prefill),
        "peak": (max(gauge.peaks.values()), counted.peak),
    }
    size = {
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": seconds,
        "retain": retain,
        "frame": list(frame),
        "prompt": counted.prompt,
    }
    return {**size, **{name: {"measured": made, "formula": formula} for name, (made, formula) in stages.items()}}


def memory_table(rows: list[dict[str, Any]]) -> str:
    """One line for each clip: MB measured, and the formula divided by it."""
    stages = ("encode", "compress", "prefill", "peak")
    head = ["values", "clip", "frame", "kept", "tokens read", *(f"{stage}, MB (formula)" for stage in stages)]
    lines = []
    for made in rows:
        cells = []
        for stage in stages:
            measured, formula = made[stage]["measured"], made[stage]["formula"]
            cells.append(f"{measured / 1e6:.1f} ({formula / measured:.2f})" if formula else "-")
        name = [
            made["dtype"],
            f"{made['seconds']} s",
            "{} x {}".format(*made["frame"]),
            f"{100 * made['retain']:g} %",
            f"{made['prompt']:,}",
        ]
        lines.append([*name, *cells])
    return table(head, lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the JSON file after every clip, print the table."""
    from stages import answer_on, deep_host

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--cases", type=int, default=len(CASES), help="so many of the clips")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    silence_libraries()
    silence_profiler()
    host, made, rows = deep_host(2), provenance(), list[dict[str, Any]]()
    host = replace(host, max_length=10**6)
    answer_on(host.thinker, host.processor)
    for name in options.dtypes:
        dtype: torch.dtype = getattr(torch, name)
        host.thinker.to(dtype)
        pipe = Pipeline(host, None)
        for seconds, retain, frame in CASES[: options.cases]:
            rows.append(row(pipe, seconds, retain, frame, dtype))
            print(memory_table(rows[-1:]).splitlines()[-1], flush=True)
            if options.out is not None:
                result = {"bench": "question_memory", "rows": rows, **made}
                options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(memory_table(rows))


if __name__ == "__main__":
    main()
