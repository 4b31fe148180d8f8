"""Task folders for lmms-eval and the functions that it calls.

A task is a file of rows with ``prompt`` and ``rule``, and a task file that includes one of the package; the folder is
given to lmms-eval as ``--include_path``. Rows are not bundled: the licences do not permit it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.evaluation.public.extractors import EXTRACTORS, extract
from omnisift.evaluation.public.llm_judge import WordJudge
from omnisift.evaluation.public.rows import Row, prompt
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.suggest import meant

Document = Mapping[str, Any]
SCORE = "omnisift_score"
"""Name of the metric. lmms-eval's paired comparison (``--baseline``) looks for its ending."""
MISSED = "omnisift_words_missed"


def messages(document: Document) -> list[dict[str, Any]]:
    """Return the message of a document: the clip, then the text."""
    clip, text = {"type": "video", "url": document["path"]}, {"type": "text", "text": document["prompt"]}
    return [{"role": "user", "content": [clip, text]}]


def visual(document: Document) -> list[str]:
    """Return the clip, for the older model interface of lmms-eval."""
    return [str(document["path"])]


def text(document: Document) -> str:
    """Return the prompt."""
    return str(document["prompt"])


def target(document: Document) -> str:
    """Return the correct letter, or the reference caption."""
    return str(document["answer"])


def grade_choice(document: Document, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the answer by every rule, the score by the task's rule (1 or 0), and the same score for each group."""
    row, prediction = Row.from_dict(document), results[0]
    chosen = {rule: extract(prediction, row, rule) for rule in EXTRACTORS}
    right = int(chosen[document["rule"]] == row.answer)
    graded = {
        **_identity(row, prediction),
        "score": right,
        "answer": row.answer,
        "pred_answer": chosen[document["rule"]] or "-",  # lmms-eval reads a baseline's scores from this and "answer"
        "rule": document["rule"],
        "chosen": chosen,
        "groups": dict(row.groups),
    }
    part = {"score": right, "video": row.video}
    return {SCORE: graded, **{group_metric(kind, name): part for kind, name in row.groups.items()}}


def grade_description(document: Document, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the caption for `omnisift eval judge`, and the fraction of events that a comparison of words misses."""
    row, prediction = Row.from_dict(document), results[0]
    counts = WordJudge().count(row.events, prediction)
    missed = counts.missed / max(1, counts.events)
    return {MISSED: {**_identity(row, prediction), "score": missed, "events": list(row.events)}}


def _identity(row: Row, prediction: str) -> dict[str, Any]:
    return {"id": row.id, "video": row.video, "prediction": prediction}


def group_metric(kind: str, name: str) -> str:
    """Return the metric of one group, without commas, at which lmms-eval splits names."""
    return f"{kind}: {name}".replace(",", ";")


def mean(items: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean score of the items."""
    return sum(float(item["score"]) for item in items) / len(items)


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
        raise UsageError(f"no answer rule named {rule!r}; known: {', '.join(EXTRACTORS)}{meant(rule, EXTRACTORS)}")
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
