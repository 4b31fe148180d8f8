"""A result file of `omnisift bench-quality`, read back: rows with accuracies, intervals, tests and evidence kept."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.errors import UsageError
from omnisift.evaluation.quality import unpack
from omnisift.evaluation.recipe import FULL
from omnisift.evaluation.statistics import ClusterBootstrap, Interval, clustered_p
from omnisift.world import world_setting


@dataclass(frozen=True)
class ResultRow:
    """One method at one budget in one setting, all its seeds together."""

    setting: str
    label: str
    percent: str
    """Share kept, as ``25`` or ``25/100`` (picture, sound); empty for all tokens."""
    right: NDArray[np.float64] | None
    """[clips, questions]: share of the seeds that were right; None where the budget can't be reached."""
    kept: dict[str, list[int]] = field(default_factory=dict)
    """Name -> [kept, all], summed over clips and seeds."""
    ms: float = 0.0
    """Compression time a clip, milliseconds."""
    seeds: int = 1
    unreachable: str = ""
    """Why there is no result, in the method's own words."""

    @property
    def key(self) -> str:
        """As in the file, without the seed."""
        return f"{self.setting}/{self.label}" + (f"@{self.percent}" if self.percent else "")

    @property
    def types(self) -> tuple[str, ...]:
        """Of the questions, in the order of the columns of ``right``."""
        return world_setting(self.setting).types

    @property
    def accuracy(self) -> float | None:
        """Mean over question types, 0 to 1."""
        return None if self.right is None else float(self.right.mean())

    @property
    def by_type(self) -> list[float]:
        """Accuracy of each question type."""
        return [] if self.right is None else [float(value) for value in self.right.mean(axis=0)]

    def share(self, name: str) -> float:
        """Share kept of ``name``; NaN where there was none of it."""
        kept, total = self.kept.get(name, [0, 0])
        return kept / total if total else math.nan

    @property
    def recall(self) -> float:
        """Share of the evidence tokens that survived, shapes and sounds averaged (each by its own share)."""
        return _mean_of_known([self.share("shape_tokens"), self.share("sound_tokens")])

    @property
    def coverage(self) -> float:
        """Share of the evidence events with a surviving token, shapes and sounds averaged."""
        return _mean_of_known([self.share("shape_events"), self.share("sound_events")])

    @property
    def ratio(self) -> float:
        """Measured share of video and audio tokens that stayed."""
        pairs = [self.kept[name] for name in ("video", "audio") if name in self.kept]
        return sum(kept for kept, _ in pairs) / max(1, sum(total for _, total in pairs))


@dataclass(frozen=True)
class Result:
    """All rows of one recipe, and where they came from."""

    recipe: dict[str, Any]
    settings: dict[str, Any]
    sessions: list[dict[str, Any]]
    rows: list[ResultRow]
    clips: dict[str, int]
    """Setting -> clips that all its rows have."""

    def row(self, setting: str, label: str, percent: str = "") -> ResultRow | None:
        """The row, or None."""
        return self._by_key.get(f"{setting}/{label}" + (f"@{percent}" if percent else ""))

    @cached_property
    def _by_key(self) -> dict[str, ResultRow]:
        return {row.key: row for row in self.rows}

    def full(self, setting: str) -> ResultRow:
        """The row of all tokens. `UsageError` where it is not finished."""
        found = self.row(setting, FULL)
        if found is None or found.right is None:
            raise UsageError(
                f"the result of {self.recipe['name']!r} has no finished row of all tokens: run it to its end"
            )
        return found

    @cached_property
    def bootstraps(self) -> dict[int, ClusterBootstrap]:
        """Number of clips -> the draws that all intervals share."""
        return {count: ClusterBootstrap(count) for count in set(self.clips.values())}

    def interval(self, row: ResultRow) -> Interval:
        """95 % interval of a row's accuracy, over clips."""
        right = _known(row)
        return self._over_clips(right.sum(axis=1), right.shape[1])

    def difference(self, row: ResultRow, other: ResultRow) -> tuple[Interval, float]:
        """(accuracy of ``row`` minus that of ``other`` on the same questions, p by clips)."""
        right = _known(row)
        sums = (right - _known(other)).sum(axis=1)
        return self._over_clips(sums, right.shape[1]), clustered_p(sums)

    def _over_clips(self, sums: NDArray[np.float64], each: int) -> Interval:
        return self.bootstraps[len(sums)].share(sums, np.full(len(sums), each))


def read_result(path: Path) -> Result:
    """Read a result file; batches that not all rows of a setting have are left out. `UsageError` if it is none."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        settings = lines[0]["settings"]
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UsageError(f"{path} is no result of bench-quality: run `omnisift bench-quality` first") from error
    sessions = [line["session"] for line in lines if "session" in line]
    by_row: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines[1:]:
        if "row" in line:
            by_row.setdefault(line["row"], {})[int(line["first"])] = line
    rows, clips = _rows(by_row)
    return Result(settings["recipe"], settings, sessions, rows, clips)


def _rows(by_row: dict[str, dict[int, dict[str, Any]]]) -> tuple[list[ResultRow], dict[str, int]]:
    groups: dict[str, list[str]] = {}
    for key in by_row:
        groups.setdefault(key.partition("#")[0], []).append(key)
    # A batch counts where all rows have it, with the same number of clips.
    batches: dict[str, set[tuple[int, int]]] = {}
    for key, found in by_row.items():
        setting = key.partition("/")[0]
        mine = {(first, int(line["clips"])) for first, line in found.items()}
        batches[setting] = batches.get(setting, mine) & mine
    rows = [_row(key, [by_row[name] for name in names], [first for first, _ in sorted(batches[key.partition("/")[0]])])
            for key, names in groups.items()]  # fmt: skip
    clips = {row.setting: len(row.right) for row in rows if row.right is not None}
    return rows, clips


def _row(key: str, seeds: Sequence[dict[int, dict[str, Any]]], batches: Sequence[int]) -> ResultRow:
    setting, _, name = key.partition("/")
    label, _, percent = name.rpartition("@") if "@" in name else (name, "", "")
    lines = [[found[first] for first in batches] for found in seeds]
    flat = [line for some in lines for line in some]
    reasons = [line["unreachable"] for line in flat if "unreachable" in line]
    if reasons or not flat:
        return ResultRow(setting, label, percent, None, unreachable=reasons[0] if reasons else "not finished")
    each = len(world_setting(setting).types)
    right = np.mean([np.concatenate([unpack(line["right"], each) for line in some]) for some in lines], axis=0)
    kept = {what: [sum(line["kept"][what][i] for line in flat) for i in (0, 1)] for what in flat[0]["kept"]}
    clips = sum(line["clips"] for line in flat)
    ms = sum(line["ms"] * line["clips"] for line in flat) / clips
    return ResultRow(setting, label, percent, right, kept, ms, len(seeds))


def _known(row: ResultRow) -> NDArray[np.float64]:
    if row.right is None:
        raise UsageError(f"row {row.key!r} has no result: {row.unreachable}")
    return row.right


def _mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's coefficient; ties get their mean rank. NaN for fewer than three pairs or without spread."""
    if len(first) < 3:
        return math.nan
    a, b = (_ranks(np.asarray(values, float)) for values in (first, second))
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else math.nan


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    below = (values[:, None] > values[None]).sum(axis=1)
    equal = (values[:, None] == values[None]).sum(axis=1)
    return np.asarray(below + (equal - 1) / 2, dtype=np.float64)
