"""Print the time of `import omnisift` after `import torch` as one JSON line.

    python benchmarks/speed/import_time.py [--runs 9]

Each run starts an interpreter that imports torch, then omnisift, and times both; runs with the reverse order alternate
with them and time OmniSIFT alone. Medians are reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from omnisift.utils.provenance import machine_info

TIMED = """
import time
a = time.perf_counter(); import {first}; b = time.perf_counter(); import {second}; c = time.perf_counter()
print(b - a, c - b)
"""
TARGET = 0.3
"""Maximum seconds in addition to torch."""


def seconds(first: str, second: str) -> tuple[float, float]:
    """Return the seconds of two successive imports in a new interpreter."""
    code = TIMED.format(first=first, second=second)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    spent = run.stdout.split()
    return float(spent[0]), float(spent[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9, help="runs of each kind (default 9)")
    runs = parser.parse_args().runs

    seconds("torch", "omnisift")  # fills the disk cache and writes byte code
    pairs = [(seconds("torch", "omnisift"), seconds("omnisift", "torch")) for _ in range(runs)]

    line = {
        "benchmark": "import_time",
        "torch_s": round(statistics.median(after[0] for after, _ in pairs), 4),
        "extra_s": round(statistics.median(after[1] for after, _ in pairs), 4),
        "omnisift_alone_s": round(statistics.median(alone[0] for _, alone in pairs), 4),
        "promised_extra_s": TARGET,
        "runs": runs,
        **machine_info("omnisift", "torch"),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
