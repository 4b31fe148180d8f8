"""Tables of which sense answers follow, for results on clips whose video and audio contradict each other."""

from __future__ import annotations

from omnisift.evaluation.statistics import Interval
from omnisift.evaluation.tables import pct, pct_with_interval, table
from omnisift.lab.benchmark.recipe import ONLY
from omnisift.lab.benchmark.results import Result, ResultRow
from omnisift.lab.benchmark.results_tables import percents, rows_at
from omnisift.world import FOLLOWED

BASELINES = frozenset(f"{only} only" for only in ONLY)
"""Labels of rows that ignore the percentage kept."""


def preference_tables(result: Result, setting: str) -> str:
    """Return a table of all tokens and the baselines, then one of every method for each percentage kept."""
    chosen = percents(result)
    baselines = [row for row in rows_at(result, setting, chosen[0]) if row.label in BASELINES]
    parts = [_table(result, "tokens", [result.full(setting), *baselines])]
    for percent in chosen:
        rows = [row for row in rows_at(result, setting, percent) if row.label not in BASELINES]
        video, _, audio = percent.partition("/")
        parts.append(f"{video} % of the video and {audio or video} % of the audio:\n")
        parts.append(_table(result, "method", rows))
    return "\n".join(parts)


def _table(result: Result, first: str, rows: list[ResultRow]) -> str:
    head = [first, "follow video", "follow audio", "neither", "written", "by audio", "said", "by video"]
    return table(head, [_cells(result, row) for row in rows])


def _cells(result: Result, row: ResultRow) -> list[str]:
    """Shares of a row: with intervals for the question that names no sense."""
    if row.right is None:
        return [row.title, "n/a", *[""] * 6]
    video, audio, neither = shares(result, row)
    of = dict(zip(row.types, row.by_type, strict=True))
    named = [of[name] for name in ("written", FOLLOWED[2], "said", FOLLOWED[3])]
    return [row.title, pct_with_interval(video), pct_with_interval(audio), pct(neither.value), *map(pct, named)]


def shares(result: Result, row: ResultRow) -> tuple[Interval, Interval, Interval]:
    """Return the shares of answers to the question that names no sense that follow video, audio and neither.

    Raises:
        UsageError: The row has no result.
    """
    video, audio = (result.outcomes(row, name) for name in FOLLOWED[:2])
    return result.mean(video), result.mean(audio), result.mean(1 - video - audio)
