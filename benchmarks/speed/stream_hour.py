"""An hour of stream with each policy: memory, time per second of stream, and the first token of a question.

Clips of nano's world are played one behind the other, as fast as they are taken. Twice a minute a question is asked.
Each policy runs in a process of its own. Seconds are CPU time of that process.

    python benchmarks/speed/stream_hour.py --out benchmarks/results/stream_hour.json
    python benchmarks/speed/stream_hour.py --table benchmarks/results/stream_hour.json  # as in docs/streaming.md
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import omnisift
from omnisift.streaming.policies import policy_from_text
from omnisift.utils.provenance import machine_info
from omnisift.world import make_scene, render_audio, render_images

POLICIES = {
    "window:60": "the last minute",
    "budgets:30,150=0.1": "30 s, then 10 % up to 150 s",
    "memory:60,200,60": "a minute, and 200 older tokens in a span of a minute",
    "memory:6,48,2": "6 s, and 48 older tokens in a span of 2 s",
}
QUESTION = "How many shapes appear?"
MINUTES = (1, 2, 3, 5, 10, 20, 30, 40, 50, 60)
SCENES = 16
RATE, STEP, PIECE = 16_000, 6, 4_000


def pieces(minutes: int) -> Iterator[omnisift.Piece]:
    """Scenes of six seconds, one behind the other."""
    scenes = [make_scene(seed, "test") for seed in range(SCENES)]
    media = [(render_images(scene), render_audio(scene)) for scene in scenes]
    for number in range(minutes * 60 // STEP):
        images, wave = media[number % SCENES]
        for begin in range(0, len(wave), PIECE):
            at = begin / RATE
            if at % 0.5 == 0:
                yield omnisift.Piece(number * STEP + at, image=images[int(at * 2)])
            yield omnisift.Piece(number * STEP + at, samples=wave[begin : begin + PIECE])


def memory_mib() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(policy: str, minutes: int) -> list[dict[str, Any]]:
    """Rows at `MINUTES`: averages since the row before."""
    torch.set_num_threads(1)
    pipe = omnisift.load("nano", retain=0.25)
    rows: list[dict[str, Any]] = []
    with pipe.stream(keep=policy_from_text(policy)) as stream:
        spent, first, asked, since = 0.0, list[float](), 0, 0.0
        for piece in pieces(minutes):
            begin = time.process_time()
            stream.feed(piece)
            spent += time.process_time() - begin
            if piece.samples is None:
                continue
            if piece.time >= 30 * (asked + 1):
                begin = time.process_time()
                answer = stream.ask(QUESTION, max_new_tokens=1)
                first.append(time.process_time() - begin)
                asked += 1
                assert answer.text
            minute = (piece.time + PIECE / RATE) / 60
            if minute in MINUTES:
                gc.collect()
                report = stream.report
                rows.append(
                    {
                        "policy": policy,
                        "minute": int(minute),
                        "held_tokens": report.held_tokens,
                        "cache_mib": report.cache_bytes / 2**20,
                        "memory_mib": memory_mib(),
                        "next_position": report.next_position,
                        "ms_per_second": 1000 * spent / (60 * minute - since),
                        "first_token_ms": 1000 * float(np.median(first)),
                    }
                )
                spent, first, since = 0.0, [], 60 * minute
    return rows


def table(results: dict[str, Any]) -> str:
    """Rows of the table in docs/streaming.md."""
    lines = [
        "| policy | minute | tokens | cache, MiB | process, MiB | next position | CPU ms per s | first token, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {POLICIES[row['policy']]} | {row['minute']} | {row['held_tokens']:,} | {row['cache_mib']:.2f} | "
        f"{row['memory_mib']:.0f} | {row['next_position']:,} | {row['ms_per_second']:.1f} | "
        f"{row['first_token_ms']:.1f} |"
        for row in results["rows"]
        if row["minute"] in (1, 3, 10, 30, 60)
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--policy", help="run one policy in this process and print its rows")
    options = parser.parse_args(arguments)
    if options.table is not None:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))))
        return
    if options.policy is not None:
        print(json.dumps(run(options.policy, options.minutes)))
        return
    rows: list[dict[str, Any]] = []
    for policy in POLICIES:
        command = [sys.executable, __file__, "--policy", policy, "--minutes", str(options.minutes)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows += json.loads(done.stdout)
        print(rows[-1], file=sys.stderr)
    text = json.dumps({**machine_info(), "minutes": options.minutes, "rows": rows}, indent=1)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
