"""Task folders for lmms-eval: for each benchmark its rows, and a task file that includes one of the package.

The folder is given to lmms-eval as ``--include_path``. Rows are not bundled: the licences do not permit it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.evaluation.public.extractors import EXTRACTORS
from omnisift.evaluation.public.lmms_hooks import MISSED, SCORE, group_metric
from omnisift.evaluation.public.prompts import prompt
from omnisift.evaluation.public.rows import Row
from omnisift.utils.atomic_io import write_atomic

_TEMPLATES = Path(__file__).parents[1] / "tasks"
_MEAN = "!function omnisift.evaluation.public.lmms_hooks.mean"


def default_folder() -> Path:
    """Return the default folder of tasks: ``$OMNISIFT_TASKS``, or one in the user's cache."""
    named = os.environ.get("OMNISIFT_TASKS")
    return Path(named) if named else Path.home() / ".cache" / "omnisift" / "tasks"


def task_name(benchmark: str) -> str:
    """Return the name of a benchmark's task in lmms-eval."""
    return f"omnisift_{benchmark}"


def write_task(folder: Path, rows: Sequence[Row], wording: str = "paper", rule: str = "videomme") -> Path:
    """Write the task of one benchmark.

    Args:
        folder: Folder of tasks; it is created where it does not exist, and other tasks in it are kept.
        rows: At least one row, all of one benchmark.
        wording: Name of the prompts, a key of `PROMPTS`.
        rule: Answer rule of the score, a key of `EXTRACTORS`; answers by the other rules are recorded too.

    Returns:
        The path of the task file.

    Raises:
        UsageError: ``wording`` or ``rule`` is unknown, or the folder cannot be created.
    """
    if rule not in EXTRACTORS:
        raise UsageError(f"no answer rule named {rule!r}; known: {', '.join(EXTRACTORS)}")
    name = rows[0].benchmark
    documents = [{**row.to_dict(), "prompt": prompt(row, wording), "wording": wording, "rule": rule} for row in rows]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create the folder {folder} ({error.strerror}); give another one") from error
    write_atomic(
        folder / f"{name}.jsonl", "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    )
    path = folder / f"{task_name(name)}.yaml"
    write_atomic(path, _task(rows))
    return path


def _task(rows: Sequence[Row]) -> str:
    name = rows[0].benchmark
    choice = rows[0].is_choice
    groups = sorted({group_metric(kind, value) for row in rows for kind, value in row.groups.items()})
    metrics = [SCORE, *groups] if choice else [MISSED]
    lines = [
        f"include: {_quoted(str(_TEMPLATES / ('choice.yaml' if choice else 'description.yaml')))}",
        f"task: {task_name(name)}",
        "dataset_kwargs:",
        "  data_files:",
        f"    test: {_quoted(f'{name}.jsonl')}",
        "metric_list:",
    ]
    for metric in metrics:
        lines += [f"  - metric: {_quoted(metric)}", f"    aggregation: {_MEAN}"]
        lines += [f"    higher_is_better: {'true' if choice else 'false'}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> Any:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a YAML string


def prepared(folder: Path) -> list[str]:
    """Return the names of the benchmarks with a task in ``folder``."""
    prefix = task_name("")
    return sorted(path.stem.removeprefix(prefix) for path in folder.glob(f"{prefix}*.yaml"))
