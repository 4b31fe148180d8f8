"""Tables of nano's own benchmark from one record per clip: accuracy, paired tests, kept evidence, captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.evaluation.statistics import ClusterBootstrap, Interval, compare
from omnisift.evaluation.tables import p_value, pct, pct_with_interval, points, table
from omnisift.world import QUESTION_TYPES, make_scene, score_caption

FULL = "full"
"""Key of the row of all tokens."""


def key(method: str, retain: float) -> str:
    """Return the key of a row, such as ``omnisift@25``."""
    return f"{method}@{round(100 * retain)}"


def summarise(records: Sequence[Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
    """Return one row per method and budget.

    Args:
        records: One per clip, with ``seed``, ``truth`` (the correct answers, in the order of `QUESTION_TYPES`),
            ``answers`` and ``kept`` by row, and for some clips ``captions`` by row.
        split: Split of the generated world that the clips come from.
    """
    bootstrap = ClusterBootstrap(len(records))
    right = {name: right_answers(records, name) for name in records[0]["answers"]}
    captioned = [record for record in records if record.get("captions")]
    caption_bootstrap = ClusterBootstrap(len(captioned)) if captioned else None
    rows = []
    for name, correct in right.items():
        row: dict[str, Any] = {"row": name, **_accuracy(correct, bootstrap)}
        if name != FULL:
            row["kept"] = _kept(records, name)
            row["against_full"] = asdict(compare(correct, right[FULL], bootstrap))
            rival = f"random@{name.rpartition('@')[2]}"
            if rival in right and rival != name:
                row["against_random"] = asdict(compare(correct, right[rival], bootstrap))
        if caption_bootstrap is not None and name in captioned[0]["captions"]:
            row["captions"] = _captions(captioned, name, split, caption_bootstrap)
        rows.append(row)
    return rows


def right_answers(records: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.bool_]:
    """Return [clips, types] bool: whether each answer of row ``name`` is correct."""
    return np.array([[a == b for a, b in zip(r["answers"][name], r["truth"], strict=True)] for r in records])


def _accuracy(correct: NDArray[np.bool_], bootstrap: ClusterBootstrap) -> dict[str, Any]:
    ones = np.ones(len(correct))
    types = {kind: asdict(bootstrap.share(correct[:, i], ones)) for i, kind in enumerate(QUESTION_TYPES)}
    return {"mean": asdict(bootstrap.share(correct.sum(1), ones * correct.shape[1])), "by_type": types}


def _kept(records: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Return the fractions kept, over all clips together."""
    counts = [record["kept"][name] for record in records]
    total = {field: sum(count[field] for count in counts) for field in counts[0]}
    kinds = [field for field in total if not field.endswith("_all")]
    shares = {kind: total[kind] / total[f"{kind}_all"] for kind in kinds}
    tokens = total["video"] + total["audio"]
    return {
        "tokens": tokens / (total["video_all"] + total["audio_all"]),
        **shares,
        "tokens_a_clip": tokens / len(counts),
    }


def _captions(
    records: Sequence[Mapping[str, Any]], name: str, split: str, bootstrap: ClusterBootstrap
) -> dict[str, Any]:
    scores = [score_caption(record["captions"][name], make_scene(record["seed"], split)) for record in records]
    stated, actual = [s.stated for s in scores], [s.actual for s in scores]
    matched, timed = [s.matched for s in scores], [s.matched_second for s in scores]
    nothing = Interval(0.0, 0.0, 0.0)
    precision = bootstrap.share(matched, stated) if sum(stated) else nothing
    return {
        "clips": len(records),
        "precision": asdict(precision),
        "recall": asdict(bootstrap.share(matched, actual)),
        "recall_with_second": asdict(bootstrap.share(timed, actual)),
    }


def accuracy_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of accuracy in percent: the mean with its interval, then each type."""
    head = ["row", "kept video / audio", "mean (95 % interval)", *(kind.replace("_", " ") for kind in QUESTION_TYPES)]
    lines = []
    for row in rows:
        kept = f"{pct(row['kept']['video'])} / {pct(row['kept']['audio'])}" if "kept" in row else "100 / 100"
        lines.append(
            [row["row"], kept, _with_interval(row["mean"]), *(pct(v["value"]) for v in row["by_type"].values())]
        )
    return table(head, lines)


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of paired differences in points with their p values."""
    head = ["row", "minus full", "p by clips", "p McNemar", "minus random", "p by clips", "p McNemar"]
    lines = []
    for row in rows:
        if "against_full" in row:
            pair = [row["against_full"], row.get("against_random")]
            lines.append([row["row"], *(cell for against in pair for cell in _difference(against))])
    return table(head, lines)


def evidence_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of the percentage of evidence events kept, and of audio tokens by kind."""
    head = ["row", "shapes in question", "sounds in question", "tokens of tied sounds", "tokens of distractors"]
    fields = ("shape_events", "sound_events", "tied_tokens", "distractor_tokens")
    return table(head, [[row["row"], *(pct(row["kept"][f]) for f in fields)] for row in rows if "kept" in row])


def caption_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of event precision and recall in percent; empty without captions."""
    head = ["row", "precision", "recall", "recall, second right too"]
    fields = ("precision", "recall", "recall_with_second")
    lines = [[row["row"], *(_with_interval(row["captions"][f]) for f in fields)] for row in rows if "captions" in row]
    return table(head, lines) if lines else ""


def _difference(against: Mapping[str, Any] | None) -> list[str]:
    if against is None:
        return ["", "", ""]
    return [points(Interval(**against["difference"])), p_value(against["clustered_p"]), p_value(against["mcnemar_p"])]


def _with_interval(interval: Mapping[str, float]) -> str:
    return pct_with_interval(Interval(**interval))
