"""Functions that lmms-eval calls; a document is a row as a dictionary with ``prompt`` and ``rule``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omnisift.evaluation.public.extractors import EXTRACTORS, extract
from omnisift.evaluation.public.llm_judge import WordJudge
from omnisift.evaluation.public.rows import Row

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
