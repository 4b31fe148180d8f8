"""Run one benchmark with lmms-eval in a separate process, with all its output in one folder.

lmms-eval catches its errors and exits with success, so a run counts as finished only if its files have an answer to
every question.
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

from omnisift.config import WORK_LIMITS, CompressionConfig, ReadOptions
from omnisift.errors import UsageError, environment_hint
from omnisift.evaluation.public.eval_run import SETTINGS, read_answers
from omnisift.evaluation.public.extractors import extract
from omnisift.evaluation.public.lmms_hooks import task_name, write_task
from omnisift.evaluation.public.rows import Row, prompt
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.provenance import provenance

ENDS = {True: 256, False: 1024}
"""Maximum number of new tokens for multiple choice (as in the released script) and for captions."""


@dataclass(frozen=True)
class EvalSettings(CompressionConfig, ReadOptions):
    """Model, method and protocol of a run; the fields are the options of `omnisift eval`."""

    model: str = "nano"
    device: str = "cpu"
    dtype: str | None = None
    attn_implementation: str | None = None
    max_length: int | None = None
    quantization: str | None = None
    wording: str = "paper"
    rule: str = "videomme"
    max_new_tokens: int | None = None
    bad_clip: str = "stop"
    batch_size: int = 1
    processes: int = 1

    def check(self) -> None:
        """Check the values.

        Raises:
            UsageError: A value is out of range, or the method takes no selector.
            BudgetError: A fraction is out of range.
        """
        CompressionConfig.check(self)
        ReadOptions.check(self)

    def arguments(self, folder: Path) -> str:
        """Return ``--model_args`` of lmms-eval.

        Raises:
            UsageError: A value contains a comma, at which lmms-eval splits the arguments.
        """
        values = {"pretrained": self.model, "records": str(folder), **self.compression, **self.reading}
        own = ("dtype", "attn_implementation", "max_length", "quantization", "bad_clip")
        values |= {name: getattr(self, name) for name in own}
        for name, value in values.items():
            if "," in str(value):
                raise UsageError(
                    f"{name} {value!r} contains a comma, at which lmms-eval splits arguments; use a value without one"
                )
        return ",".join(f"{name}={value}" for name, value in values.items() if value is not None and value is not False)


def run(
    folder: Path,
    rows: Sequence[Row],
    settings: EvalSettings,
    progress: Callable[[int], None] = lambda _done: None,
) -> None:
    """Answer the rows of one benchmark; ``folder`` then holds a finished run (see `eval_run`).

    Args:
        folder: Empty or new folder.
        rows: At least one row, all of one benchmark. Their videos must exist unless ``bad_clip`` is ``wrong``.
        settings: Model, method and protocol.
        progress: Called from time to time with the number of answered questions.

    Raises:
        UsageError: lmms-eval is not installed, a video is missing, or the run did not finish.
    """
    check(folder, rows, settings)
    write_task(folder / "tasks", rows, settings.wording, settings.rule)
    max_new_tokens = settings.max_new_tokens or ENDS[rows[0].is_choice]
    record = _record(rows, settings, max_new_tokens)
    log = folder / "harness.log"
    with tempfile.TemporaryDirectory() as cache:
        command = _command(folder, rows, settings, max_new_tokens)
        _call(command, _environment(settings, cache), log, lambda: progress(_answered(folder)))
    got = len(read_answers(folder / "harness", rows[0].benchmark))
    if got != len(rows):
        raise UsageError(f"lmms-eval answered {got} of {len(rows)} questions: {_reason(log)} (full log: {log})")
    worked = len(list(folder.glob("requests-*.jsonl")))
    if worked != settings.processes:
        raise UsageError(f"{worked} of {settings.processes} processes answered questions; see {log}")
    write_atomic(folder / SETTINGS, json.dumps(record, indent=1) + "\n")


def check(folder: Path, rows: Sequence[Row], settings: EvalSettings) -> None:
    """Check a run before anything is written.

    Raises:
        UsageError: lmms-eval is not installed, a name is unknown, or a video is missing.
        BudgetError: A fraction is out of range.
    """
    if find_spec("lmms_eval") is None:
        raise UsageError("lmms-eval is not installed here: " + environment_hint("eval"))
    prompt(rows[0], settings.wording)
    if rows[0].is_choice:
        extract("", rows[0], settings.rule)
    settings.check()
    settings.arguments(folder)
    if settings.bad_clip == "stop":
        _check_videos(rows)


def _check_videos(rows: Sequence[Row]) -> None:
    missing = [path for path in dict.fromkeys(row.path for row in rows) if not Path(path).is_file()]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len({row.path for row in rows})} videos are missing, first {missing[0]}; add them, "
            "or count their questions as wrong: --bad-clip wrong"
        )


def _record(rows: Sequence[Row], settings: EvalSettings, max_new_tokens: int) -> dict[str, Any]:
    """The content of ``run.json``."""
    budget = settings.budget
    options = {name: value for name, value in asdict(settings).items() if name not in settings.reading}
    return {
        **options,
        "benchmark": rows[0].benchmark,
        "rows": len(rows),
        "retain": "all" if settings.keeps_all else budget.words,
        "percent": None if budget.retain is None else 100 * budget.retain,
        "reading": {name: value for name, value in settings.reading.items() if name not in WORK_LIMITS},
        "max_new_tokens": max_new_tokens,
        "environment": {name: value for name, value in provenance().items() if name != "machine"},
    }


def _command(folder: Path, rows: Sequence[Row], settings: EvalSettings, max_new_tokens: int) -> list[str]:
    launcher = []
    if settings.processes > 1:
        launcher = ["-m", "accelerate.commands.launch"]
        launcher += ["--num_processes", str(settings.processes), "--num_machines", "1"]
        launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
        launcher += ["--multi_gpu"]  # on CPUs too: with --cpu accelerate silently starts a single process
    return [
        *(sys.executable, *launcher, "-m", "lmms_eval", "--model", "omnisift"),
        *("--model_args", settings.arguments(folder)),
        *("--tasks", task_name(rows[0].benchmark), "--include_path", str(folder / "tasks")),
        *("--batch_size", str(settings.batch_size), "--device", settings.device),
        *("--gen_kwargs", f"max_new_tokens={max_new_tokens}"),
        *("--log_samples", "--output_path", str(folder / "harness")),
    ]


def _environment(settings: EvalSettings, cache: str) -> dict[str, str]:
    """Environment of the process: a temporary dataset cache, and no access to the hub for a local model."""
    changes = {"HF_DATASETS_CACHE": cache, "TOKENIZERS_PARALLELISM": "false"}
    if settings.device == "cpu":
        changes["ACCELERATE_USE_CPU"] = "true"
    if settings.model == "nano" or Path(settings.model).exists():
        changes["HF_HUB_OFFLINE"] = "1"
    return {**os.environ, **changes}


def _call(command: list[str], environment: dict[str, str], log: Path, poll: Callable[[], None]) -> None:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            while process.poll() is None:
                time.sleep(0.5)
                poll()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _answered(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("requests-*.jsonl"))


def _reason(log: Path) -> str:
    """The last line of a traceback in the log, or its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line for line in lines if line.partition(":")[0].rpartition(".")[2].isidentifier() and ": " in line]
    raised = [line for line in errors if line.split(":")[0].endswith(("Error", "Exception")) or "omnisift." in line]
    return raised[-1] if raised else lines[-1] if lines else "the log is empty"
