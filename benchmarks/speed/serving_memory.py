"""Memory of `omnisift serve` over thousands of requests: valid videos, bad files and clients that disconnect.

The requests are those of `tests/serving/test_vllm_many.py`. After every hundred, when the server is idle, each of its
processes is measured: resident memory by kind (/proc/PID/status), its proportional share (PSS), glibc's heap in use and
free, and Python's objects (`probe/sitecustomize.py`, which runs in the server's processes). ``--trim`` collects garbage and asks glibc
to give free memory back each time, so that what is left is in use; ``--trace`` keeps traces of Python's allocations.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from omnisift.utils.provenance import machine_info

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.serving.flat import usage_of  # noqa: E402
from tests.serving.over_http import Server, serving  # noqa: E402
from tests.serving.traffic import ROUND, Traffic  # noqa: E402

EVERY = 100
"""Requests between two samples."""
ENGINE = ["--num-gpu-blocks-override", "256"]
"""As in the test: a cache of 8,192 tokens, which is full soon."""
MIB = 1 << 20


def role(process: psutil.Process) -> str:
    """What a process of the server does."""
    line = " ".join(process.cmdline())
    for name in ("EngineCore", "Worker", "decoder_child", "resource_tracker"):
        if name in line:
            return name
    return "server"


def resident(pid: int) -> dict[str, float]:
    """Resident memory of a process in MiB: all, its own data, files (code), shared memory, and the share (PSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines() + Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}
    kinds = {"rss": "VmRSS", "anon": "RssAnon", "file": "RssFile", "shared": "RssShmem", "pss": "Pss"}
    return {name: round(sizes[kind] / 1024, 2) for name, kind in kinds.items()}


class Probe:
    """Asks the processes of a server what they hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = 0
        folder.mkdir()

    def states(self, pids: list[int]) -> dict[int, dict[str, Any]]:
        """The state of those processes that answer; decoder children do not."""
        self.asked += 1
        (self.folder / str(self.asked)).touch()
        deadline = time.monotonic() + 20
        found: dict[int, dict[str, Any]] = {}
        while time.monotonic() < deadline and len(found) < len(pids):
            time.sleep(0.1)
            for pid in pids:
                path = self.folder / f"state-{self.asked}-{pid}"
                if path.exists():
                    found[pid] = json.loads(path.read_text())
        return found


def sample(server: Server, probe: Probe | None) -> dict[str, Any]:
    """Measure all processes of a server."""
    root = psutil.Process(server.process.pid)
    processes = [root, *root.children(recursive=True)]
    roles = {process.pid: role(process) for process in processes}
    before = {pid: resident(pid) for pid in roles}
    asked = [pid for pid, name in roles.items() if name not in ("decoder_child", "resource_tracker")]
    states = probe.states(asked) if probe else {}
    usage = usage_of(root.pid)
    rows: dict[str, dict[str, Any]] = {}
    for pid, name in roles.items():
        row = {**before[pid], **states.get(pid, {})}
        for kind in ("heap", "mapped", "in_use", "free", "garbage"):
            if kind in row:
                row[kind] = round(row[kind] / MIB, 2)
        rows[f"{name} {pid}"] = row
    total = {kind: round(sum(row[kind] for row in before.values()), 2) for kind in ("rss", "pss", "anon", "file")}
    return {**total, "files": usage.files, "threads": usage.threads, "processes": rows}


def brief(named: tuple[str, dict[str, Any]]) -> str:
    """A process in one line."""
    name, row = named
    kinds = ("rss", "anon", "shared", "heap", "mapped", "in_use", "free", "garbage")
    return f"{name.partition(' ')[0]}: " + " ".join(f"{kind} {row[kind]:.1f}" for kind in kinds if kind in row) + ";"


def growth(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """What grew between two samples, by process; Python's objects by type."""
    result: dict[str, Any] = {}
    for name, row in last["processes"].items():
        old = first["processes"].get(name)
        if old is None:
            continue
        kinds = Counter(row.get("kinds", {}))
        kinds.subtract(old.get("kinds", {}))
        grown = {kind: round(row[kind] - old[kind], 2) for kind in row if kind != "kinds" and kind in old}
        result[name] = {**grown, "kinds": {kind: count for kind, count in kinds.most_common(12) if count > 0}}
    return result


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Send the requests; a sample after every `EVERY`."""
    probe_folder = folder / "probe"
    probe = Probe(probe_folder) if options.probe else None
    if options.trim:
        (probe_folder / "collect").touch()
    where = [str(Path(__file__).parent / "probe"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"TMPDIR": str(folder)}
    if options.probe:
        environment |= {"PYTHONPATH": os.pathsep.join(where), "MEMORY_PROBE": str(probe_folder)}
    if options.trace:
        environment["PYTHONTRACEMALLOC"] = str(options.trace)
    samples = []
    with serving([], [*ENGINE, *options.engine], folder / "log.txt", **environment) as server:
        traffic = Traffic.of(server, folder)
        traffic.learn()
        begin = time.monotonic()
        for number in range(options.requests // ROUND):
            traffic.round(options.first + number)
            done = ROUND * (number + 1)
            if done % EVERY:
                continue
            row = {"requests": done, "seconds": round(time.monotonic() - begin, 1), **sample(server, probe)}
            samples.append(row)
            with options.samples.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(done, row["seconds"], row["rss"], *map(brief, row["processes"].items()), file=sys.stderr, flush=True)
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    parser.add_argument("--probe", action="store_true", help="ask the processes what they hold")
    parser.add_argument("--trim", action="store_true", help="collect garbage and let glibc give free memory back at each sample")
    parser.add_argument("--trace", type=int, default=0, metavar="FRAMES", help="keep traces of Python's allocations")
    parser.add_argument("--samples", type=Path, default=ROOT / "runs" / "serving-memory.jsonl")
    parser.add_argument("engine", nargs="*", help="further flags for vLLM")
    options = parser.parse_args()
    options.samples.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        samples = measure(options, Path(folder))
    print(json.dumps(growth(samples[0], samples[-1]), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
