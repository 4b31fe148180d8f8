"""How much `import omnisift` costs on top of `import torch`: one JSON line.

    python benchmarks/import_time.py [--runs 9]

Each run is a fresh interpreter that times its own imports, so interpreter start-up is not counted. Runs with and
without OmniSIFT alternate, so that a slow moment of the machine hits both; the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys

TIMED = "import time; t = time.perf_counter(); import torch{more}; print(time.perf_counter() - t)"
PROMISE = 0.3  # seconds more than torch


def seconds(more: str) -> float:
    """Seconds that a fresh interpreter spends importing torch and `more`."""
    run = subprocess.run(
        [sys.executable, "-c", TIMED.format(more=more)], capture_output=True, text=True, check=True, timeout=300
    )
    return float(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9, help="runs of each kind (default 9)")
    runs = parser.parse_args().runs

    seconds(", omnisift")  # fills the disk cache and writes byte code
    pairs = [(seconds(""), seconds(", omnisift")) for _ in range(runs)]
    torch_alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))

    import torch

    import omnisift

    line = {
        "benchmark": "import_time",
        "torch_s": round(torch_alone, 4),
        "torch_and_omnisift_s": round(both, 4),
        "extra_s": round(both - torch_alone, 4),
        "promised_extra_s": PROMISE,
        "runs": runs,
        "omnisift": omnisift.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
