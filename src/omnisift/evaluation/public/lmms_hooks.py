"""What the task files tell lmms-eval to call. A document is a row's dictionary with ``prompt`` and ``rule`` added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omnisift.evaluation.public.extractors import EXTRACTORS, extract
from omnisift.evaluation.public.llm_judge import WordJudge
from omnisift.evaluation.public.rows import Row

Document = Mapping[str, Any]
SCORE = "omnisift_score"
"""Name of the metric. Its end is what lmms-eval's paired comparison (``--baseline``) looks for."""
MISSED = "omnisift_words_missed"


def messages(document: Document) -> list[dict[str, Any]]:
    """The clip, then the text."""
    clip, told = {"type": "video", "url": document["path"]}, {"type": "text", "text": document["prompt"]}
    return [{"role": "user", "content": [clip, told]}]


def visual(document: Document) -> list[str]:
    """The clip, for models in the harness' older form."""
    return [str(document["path"])]


def text(document: Document) -> str:
    """The prompt."""
    return str(document["prompt"])


def target(document: Document) -> str:
    """The right letter, or the reference caption."""
    return str(document["answer"])


def grade_choice(document: Document, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The answer by every rule, and right or wrong (1 or 0) by the task's; its groups count it again."""
    row, said = Row.from_dict(document), results[0]
    chosen = {rule: extract(said, row, rule) for rule in EXTRACTORS}
    right = int(chosen[document["rule"]] == row.answer)
    whole = {
        **_known(row, said),
        "score": right,
        "answer": row.answer,
        "pred_answer": chosen[document["rule"]] or "-",  # lmms-eval reads a baseline's scores from this and "answer"
        "rule": document["rule"],
        "chosen": chosen,
        "groups": dict(row.groups),
    }
    part = {"score": right, "video": row.video}
    return {SCORE: whole, **{group_metric(kind, name): part for kind, name in row.groups.items()}}


def grade_description(document: Document, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The caption, kept for `omnisift eval judge`, and as a first look the share of events missed by words."""
    row, said = Row.from_dict(document), results[0]
    verdict = WordJudge().count(row.events, said)
    missed = verdict.missed / max(1, verdict.events)
    return {MISSED: {**_known(row, said), "score": missed, "events": list(row.events)}}


def _known(row: Row, said: str) -> dict[str, Any]:
    return {"id": row.id, "video": row.video, "prediction": said}


def group_metric(kind: str, name: str) -> str:
    """How the score of one group is called. lmms-eval cuts names at commas."""
    return f"{kind}: {name}".replace(",", ";")


def mean(items: Sequence[Mapping[str, Any]]) -> float:
    """The mean of the items' scores."""
    return sum(float(item["score"]) for item in items) / len(items)
