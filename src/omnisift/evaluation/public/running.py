"""Run one benchmark by lmms-eval in a process of its own, and keep what it says in one folder.

lmms-eval catches its own errors and ends well all the same, so a run counts as finished only if every question has an
answer in its files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omnisift.budget import Budget
from omnisift.compressors import reads_all_tokens
from omnisift.errors import UsageError
from omnisift.evaluation.public.extractors import extract
from omnisift.evaluation.public.lmms_tasks import task_name, write_task
from omnisift.evaluation.public.outcome import SETTINGS, read_answers
from omnisift.evaluation.public.prompts import prompt
from omnisift.evaluation.public.rows import Row
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.provenance import environment

ENDS = {True: 256, False: 1024}
"""Most tokens of an answer: 256 for letters, as in the released script; its captions would be cut off by that."""


@dataclass(frozen=True)
class Ask:
    """What a run is to do, apart from its rows."""

    model: str = "nano"
    compressor: str = "omnisift"
    retain: float | None = None
    retain_video: float | None = None
    retain_audio: float | None = None
    selector: str | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str | None = None
    attn: str | None = None
    fps: float = 2.0
    max_frames: int = 256
    max_pixels: int | None = None
    sampling: str = "time"
    wording: str = "paper"
    rule: str = "videomme"
    max_new_tokens: int | None = None
    bad_clip: str = "stop"
    batch_size: int = 1
    processes: int = 1

    def budget(self) -> Budget | None:
        """What is kept; None where every token is. Raises `BudgetError`."""
        if reads_all_tokens(self.compressor):
            return None
        return Budget.from_options(self.retain, self.retain_video, self.retain_audio)

    def arguments(self, folder: Path) -> str:
        """``--model_args`` of lmms-eval. Raises `UsageError` for a value that it would cut in two."""
        names = ("compressor", "retain", "retain_video", "retain_audio", "selector", "seed", "dtype", "attn", "fps")
        values = {"pretrained": self.model, "records": str(folder)}
        values |= {name: getattr(self, name) for name in (*names, "max_frames", "max_pixels", "sampling", "bad_clip")}
        for name, value in values.items():
            if "," in str(value):
                raise UsageError(f"{name} {value!r} holds a comma, at which lmms-eval cuts; do without it")
        return ",".join(f"{name}={value}" for name, value in values.items() if value is not None)


def run(folder: Path, rows: Sequence[Row], ask: Ask, progress: Callable[[int], None] = lambda _done: None) -> None:
    """Answer ``rows`` of one benchmark; ``folder`` then holds a finished run (see `outcome`).

    Args:
        folder: empty or not there.
        rows: at least one, of one benchmark; their videos must be there unless ``ask.bad_clip`` is ``wrong``.
        ask: model, method and protocol.
        progress: called now and then with the number of questions answered.

    Raises:
        UsageError: lmms-eval is not installed, a video is missing, or the run did not finish; the message says why.
    """
    check(folder, rows, ask)
    budget = ask.budget()
    write_task(folder / "tasks", rows, ask.wording, ask.rule)
    end = ask.max_new_tokens or ENDS[rows[0].is_choice]
    settings = _settings(rows, ask, budget, end)
    log = folder / "harness.log"
    with tempfile.TemporaryDirectory() as cache:
        _call(_command(folder, rows, ask, end), _environment(ask, cache), log, lambda: progress(_answered(folder)))
    got = len(read_answers(folder / "harness", rows[0].benchmark))
    if got != len(rows):
        raise UsageError(f"lmms-eval answered {got} of {len(rows)} questions: {_reason(log)} (all of it: {log})")
    worked = len(list(folder.glob("requests-*.jsonl")))
    if worked != ask.processes:
        raise UsageError(f"{ask.processes} processes were asked for and {worked} worked; see {log}")
    write_atomic(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")


def check(folder: Path, rows: Sequence[Row], ask: Ask) -> None:
    """What can be known before anything is written: raises as `run` does, and `BudgetError`."""
    if find_spec("lmms_eval") is None:
        raise UsageError("lmms-eval is not in this environment; run `make eval-env`, then use .venv-eval/bin/omnisift")
    prompt(rows[0], ask.wording)
    if rows[0].is_choice:
        extract("", rows[0], ask.rule)
    ask.budget()
    ask.arguments(folder)
    if ask.bad_clip == "stop":
        _check_videos(rows)


def _check_videos(rows: Sequence[Row]) -> None:
    missing = [path for path in dict.fromkeys(row.path for row in rows) if not Path(path).is_file()]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len({row.path for row in rows})} videos are missing, first {missing[0]}; get them, or "
            "count their questions as wrong: --bad-clip wrong"
        )


def _settings(rows: Sequence[Row], ask: Ask, budget: Budget | None, end: int) -> dict[str, Any]:
    how = asdict(ask)
    words: str
    percent: float | None
    reading = {name: how.pop(name) for name in ("fps", "max_frames", "max_pixels", "sampling")}
    if budget is None:
        words, percent = "all", 100.0
    elif budget.retain is not None:
        words, percent = f"{budget.retain:g}", 100 * budget.retain
    else:
        words, percent = f"video {budget.retain_video:g}, audio {budget.retain_audio:g}", None
    return {
        **how,
        "benchmark": rows[0].benchmark,
        "rows": len(rows),
        "retain": words,
        "percent": percent,
        "reading": reading,
        "max_new_tokens": end,
        "environment": {name: value for name, value in environment().items() if name != "machine"},
    }


def _command(folder: Path, rows: Sequence[Row], ask: Ask, end: int) -> list[str]:
    launcher = []
    if ask.processes > 1:
        launcher = ["-m", "accelerate.commands.launch", "--num_processes", str(ask.processes), "--num_machines", "1"]
        launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
        launcher += ["--multi_gpu"]  # on CPUs too: with --cpu accelerate starts a single process and says nothing
    return [
        *(sys.executable, *launcher, "-m", "lmms_eval", "--model", "omnisift"),
        *("--model_args", ask.arguments(folder)),
        *("--tasks", task_name(rows[0].benchmark), "--include_path", str(folder / "tasks")),
        *("--batch_size", str(ask.batch_size), "--device", ask.device, "--gen_kwargs", f"max_new_tokens={end}"),
        *("--log_samples", "--output_path", str(folder / "harness")),
    ]


def _environment(ask: Ask, cache: str) -> dict[str, str]:
    """Tables are cached only for the run. The hub is asked for nothing but a model that was named by its hub id."""
    own = {"HF_DATASETS_CACHE": cache, "TOKENIZERS_PARALLELISM": "false"}
    if ask.device == "cpu":
        own["ACCELERATE_USE_CPU"] = "true"
    if ask.model == "nano" or Path(ask.model).exists():
        own["HF_HUB_OFFLINE"] = "1"
    return {**os.environ, **own}


def _call(command: list[str], environment: dict[str, str], log: Path, look: Callable[[], None]) -> None:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            while process.poll() is None:
                time.sleep(0.5)
                look()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _answered(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("requests-*.jsonl"))


def _reason(log: Path) -> str:
    """The last line of a traceback in the log: what lmms-eval caught."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line for line in lines if line.partition(":")[0].rpartition(".")[2].isidentifier() and ": " in line]
    raised = [line for line in errors if line.split(":")[0].endswith(("Error", "Exception")) or "omnisift." in line]
    return raised[-1] if raised else lines[-1] if lines else "it said nothing"
