"""What a question costs on a small machine: time to the first token, and memory by what holds it.

    python benchmarks/speed/small_machine.py time       # needs the extra [quant]; ten minutes
    python benchmarks/speed/small_machine.py memory     # a minute
    python benchmarks/speed/small_machine.py table      # the tables of docs/small-machines.md

``time`` asks the deep tiny model of `stages.py` (7B's depths at an eighth of its widths, random weights) about a file
of six seconds, each time for one token. All ways, shares and numbers of threads take turns, so that other load affects
all. ``memory`` is of an interpreter that does what ``omnisift ask`` does with nano, step by step; libraries that
Transformers would import are imported before it, one by one, so that each has its own line. ``--python`` names another
interpreter, such as that of an environment with the CPU build of PyTorch, and ``--until`` the last step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from omnisift.evaluation.tables import ALL_TOKENS
from omnisift.evaluation.tables import table as markdown
from omnisift.pipeline import Pipeline, load
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.provenance import machine_info
from omnisift.utils.quiet import silence_libraries
from omnisift.world import make_scene, world_setting, write_clip

sys.path.insert(0, str(Path(__file__).parent))

from long_clips import write_long_clip
from stages import deep_host

RESULTS = Path(__file__).parents[1] / "results"
WAYS: Mapping[str, str | None] = {
    "float32": None,
    "8 bits, `torchao-int8`": "torchao-int8",
    "8 bits, `torchao-int8-dynamic`": "torchao-int8-dynamic",
    "4 bits, `bitsandbytes-nf4`": "bitsandbytes-nf4",
}
"""Name in tables -> `load(quantization=)`."""
BASE = "float32"
SHARES = (1.0, 0.25)
THREADS = (1, 2)
SECONDS, TOKENS_OF_A_FRAME = 6, 60
SLOW = "8 bits, `torchao-int8-dynamic`"
"""Measured once, with few tokens and one thread: with all tokens a question takes a minute."""
TITLES = {"prefill": "prefill", "total": "file to first token"}
QUESTION = "What colour is the circle?"

BUILDS = ("CUDA build", "CPU build")
STEPS = (
    ("interpreter", "", ""),
    ("PyTorch", "torch", "import torch"),
    ("SymPy, for torch.distributed", "sympy", "import torch.distributed.tensor"),
    ("Triton", "triton", "import triton"),
    ("torch._dynamo", "", "import torch._dynamo"),
    ("SciPy", "scipy", "import scipy.optimize"),
    ("torchvision", "", "import torchvision"),
    ("Transformers", "", "import transformers.modeling_utils"),
    ("OmniSIFT", "", "from omnisift.pipeline import load"),
    ("model", "", "pipe = load('nano')"),
    ("decoded clip", "", "clip = pipe.read({clip!r})"),
    ("question", "", "pipe.ask(clip, {question!r}, max_new_tokens=1)"),
    ("second question", "", "pipe.ask(clip, {question!r}, max_new_tokens=8)"),
)
"""Name, package without which there is no such step, and what is run."""
CHILD = """
import json, os
sizes = dict()
def measure(name):
    with open("/proc/self/smaps_rollup") as file:
        found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in file if line.endswith("kB\\n")}
    sizes[name] = dict(resident=round(found["Rss"], 1), anonymous=round(found["Anonymous"], 1))
"""


def measure_time(repeats: int, depth: int | None = None) -> dict[str, Any]:
    """Seconds to the first token of each way, share and number of threads.

    Args:
        repeats: rounds, of which each asks everything once.
        depth: layers of the model, for tests; None as in 7B.
    """
    silence_libraries()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_long_clip(clip, SECONDS)
        host = deep_host(depth)
        host.thinker.save_pretrained(Path(folder) / "deep")
        host.processor.save_pretrained(Path(folder) / "deep")
        pipes: dict[tuple[str, float], Pipeline] = {}
        for way, quantization in WAYS.items():
            full = load(Path(folder) / "deep", compressor=None, device="cpu", quantization=quantization)
            pipes[way, 1.0] = full
            pipes[way, 0.25] = full.with_compressor("resift", retain=0.25)
            if way != SLOW:
                first_token(full, clip)  # not counted: it loads kernels
        runs: dict[tuple[str, float, int], list[dict[str, float]]] = {}
        for number in range(repeats):
            for threads in THREADS[:: 1 - 2 * (number % 2)]:
                torch.set_num_threads(threads)
                for way, share in sorted(pipes, reverse=number % 2 == 1):
                    if way != SLOW or (number == 0 and threads == 1 and share < 1):
                        runs.setdefault((way, share, threads), []).append(first_token(pipes[way, share], clip))
        torch.set_num_threads(1)
    rows = [
        {"way": way, "share": share, "threads": threads, **_summary(made)}
        for (way, share, threads), made in runs.items()
    ]
    return {"repeats": repeats, "depth": depth, "tokens_of_a_frame": TOKENS_OF_A_FRAME, "rows": rows}


def first_token(pipe: Pipeline, clip: Path) -> dict[str, float]:
    """Seconds from the file to the first token, and of its prefill, by the clock and by the processor; the prompt."""
    marks: dict[str, tuple[float, float]] = {}
    begin = _now()
    options: dict[str, Any] = {"max_new_tokens": 1, "max_pixels": 784 * TOKENS_OF_A_FRAME}
    answer = pipe.ask(clip, QUESTION, **options, on_stage=lambda stage: marks.update({stage: _now()}))
    # Prefill is the last part of the prompt's computation, and ends where decoding begins.
    spent = {"total": begin, "prefill": marks["prefill"]}
    clock = {f"{name}_s": marks["decode"][0] - start[0] for name, start in spent.items()}
    cpu = {f"{name}_cpu_s": marks["decode"][1] - start[1] for name, start in spent.items()}
    return {**clock, **cpu, "prompt": answer.report.tokens.prompt_kept}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _summary(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians of processor seconds, and the least seconds by the clock, which other load only lengthens."""
    return {
        name: (min if name.endswith("_s") and "cpu" not in name else statistics.median)(run[name] for run in runs)
        for name in runs[0]
    }


def measure_memory(python: str, until: str | None) -> dict[str, Any]:
    """MiB of a process after each step of a question: resident, and of it anonymous, which is not backed by a file.

    Args:
        python: the interpreter.
        until: name of the last step; None for all.
    """
    names = [name for name, *_ in STEPS]
    steps = STEPS if until is None else STEPS[: names.index(until) + 1]
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(make_scene(0, "test", world_setting("base").config), clip)
        lines = [CHILD]
        for name, package, run in steps:
            code = run.format(clip=str(clip), question=QUESTION)
            test = f"__import__('importlib.util').util.find_spec({package!r})" if package else "True"
            lines += [f"if {test}:", *(f"    {line}" for line in (code, f"measure({name!r})") if line)]
        lines += ["import torch", "print(json.dumps(dict(torch=torch.__version__, sizes=sizes)))"]
        run = subprocess.run([python, "-c", "\n".join(lines)], capture_output=True, text=True, check=True, timeout=600)
    return {"threads": os.environ.get("OMP_NUM_THREADS"), **json.loads(run.stdout.splitlines()[-1])}


def time_table(result: dict[str, Any]) -> str:
    """Markdown: times to the first token, as shares of those of float32 with all tokens and as many threads."""
    rows = {(row["way"], row["share"], row["threads"]): row for row in result["rows"]}
    # One thread's processor seconds hold no other load; those of two include waiting for each other.
    columns = [(threads, name, "_cpu_s" if threads == 1 else "_s") for threads in THREADS for name in TITLES]
    lines = []
    for way in WAYS:
        for share in (share for share in SHARES if (way, share, 1) in rows):
            cells = []
            for threads, name, kind in columns:
                row, base = rows.get((way, share, threads)), rows[BASE, 1.0, threads]
                cells.append("-" if row is None else f"{row[name + kind] / base[name + kind]:.2f}")
            shown = ALL_TOKENS if share == 1 else f"{100 * share:g} %"
            lines.append([way, shown, f"{rows[way, share, 1]['prompt']:.0f}", *cells])
    titles = [f"{TITLES[name]}, {n} thread{'s' if n > 1 else ''}" for n, name, _ in columns]
    return markdown(["language model", "kept", "prompt", *titles], lines)


def memory_table(builds: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: MiB that each step adds, resident and of it anonymous, by build of PyTorch."""
    kinds, names = ("resident", "anonymous"), [name for name, *_ in STEPS]
    lines = [[name] for name in (*names, "all")]
    for result in builds.values():
        before = dict.fromkeys(kinds, 0.0)
        for name, line in zip(names, lines, strict=False):
            sizes = result["sizes"].get(name)  # None without the step's package
            line += ["-" if sizes is None else f"{sizes[kind] - before[kind]:.0f}" for kind in kinds]
            before = sizes or before
        lines[-1] += [f"{before[kind]:.0f}" for kind in kinds]
    return markdown(["step", *(title for build in builds for title in (f"{build}, MiB", "of it anonymous"))], lines)


def parts() -> dict[str, str]:
    """Name of each table of the page -> the table."""
    times, *memory = (
        json.loads((RESULTS / f"small_machine_{name}.json").read_text(encoding="utf-8"))
        for name in ("time", "memory", "memory_cpu")
    )
    return {
        "small_machine_time": time_table(times),
        "small_machine_memory": memory_table(dict(zip(BUILDS, memory, strict=True))),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write one JSON file, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "memory", "table"))
    parser.add_argument("--repeats", type=int, default=5, help="rounds of time")
    parser.add_argument("--python", default=sys.executable, help="interpreter of memory")
    parser.add_argument("--until", choices=[name for name, *_ in STEPS], help="last step of memory")
    parser.add_argument("--out", type=Path, help="the JSON file; default: that of the page")
    options = parser.parse_args(arguments)
    if options.what == "table":
        for name, table in parts().items():
            print(f"{name}\n\n{table}\n")
        return
    packages = ["torch", "transformers"]
    if options.what == "time":
        result = measure_time(options.repeats)
        packages += ["torchao", "optimum-quanto", "bitsandbytes"]
    else:
        result = measure_memory(options.python, options.until)
    command = f"python benchmarks/speed/small_machine.py {options.what}"
    command += f" --repeats {options.repeats}" if options.what == "time" else ""
    # Of another interpreter the versions are its own, in ``result``.
    made = machine_info(*packages) | {"command": command} | result
    out = options.out or RESULTS / f"small_machine_{options.what}.json"
    write_atomic(out, json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
