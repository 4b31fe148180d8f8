"""Result files of `omnisift bench-quality`: rows with accuracies, intervals, paired tests and kept evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.compressors import FULL, reads_all_tokens
from omnisift.errors import UsageError
from omnisift.evaluation.statistics import ClusterBootstrap, Interval, clustered_p
from omnisift.evaluation.tables import ALL_TOKENS
from omnisift.lab.benchmark.condition import Condition
from omnisift.lab.benchmark.quality import unpack
from omnisift.utils.jsonl import JsonLines

_RENAMED = {
    "random picture": "random video",
    "random sound": "random audio",
    "salient sound": "salient audio",
    "pooled sound": "pooled audio",
}
"""Labels of methods in result files, and their present names."""
_RENAMED_WORDS = {"picture": "video", "sound": "audio", "whole": "complete"}
"""Words of groups, likewise."""


@dataclass(frozen=True)
class ResultRow:
    """One method at one budget in one setting, averaged over its seeds."""

    setting: str
    label: str
    """Name of the method; `FULL` for all tokens."""
    percent: str
    """Percentage kept, such as ``25`` or ``25/100`` (video, audio); empty for all tokens."""
    right: NDArray[np.float64] | None
    """[clips, questions]: fraction of the seeds with a correct answer; None where the method cannot keep so few."""
    kept: dict[str, list[int]] = field(default_factory=dict)
    """Name -> [kept, all], summed over clips and seeds."""
    ms: float = 0.0
    """Compression time per clip in milliseconds."""
    seeds: int = 1
    unreachable: str = ""
    """The method's error message where there is no result."""

    @property
    def key(self) -> str:
        """As in the file without the seed, such as ``base/evs@25``."""
        return f"{self.setting}/{self.title}" + (f"@{self.percent}" if self.percent else "")

    @property
    def title(self) -> str:
        """Name of the method in tables."""
        return ALL_TOKENS if self.label == FULL else self.label

    @property
    def types(self) -> tuple[str, ...]:
        """Question types, in the order of the columns of ``right``."""
        return Condition.parse(self.setting).world.types

    @property
    def accuracy(self) -> float | None:
        """Mean over question types, 0 to 1."""
        return None if self.right is None else float(self.right.mean())

    @property
    def by_type(self) -> list[float]:
        """Accuracy of each question type."""
        return [] if self.right is None else [float(value) for value in self.right.mean(axis=0)]

    def share(self, name: str) -> float:
        """Fraction kept of ``name``, a key of ``kept``; NaN where there is none of it."""
        kept, total = self.kept.get(name, [0, 0])
        return kept / total if total else math.nan

    @property
    def recall(self) -> float:
        """Fraction of evidence tokens kept, averaged over shapes and sounds."""
        return _mean_of_known([self.share("shape_tokens"), self.share("sound_tokens")])

    @property
    def coverage(self) -> float:
        """Fraction of evidence events with a kept token, averaged over shapes and sounds."""
        return _mean_of_known([self.share("shape_events"), self.share("sound_events")])

    @property
    def ratio(self) -> float:
        """Measured fraction of video and audio tokens kept."""
        pairs = [self.kept[name] for name in ("video", "audio") if name in self.kept]
        return sum(kept for kept, _ in pairs) / max(1, sum(total for _, total in pairs))


@dataclass(frozen=True)
class Result:
    """All rows of one recipe with their provenance."""

    recipe: dict[str, Any]
    """The recipe as stored in the file."""
    settings: dict[str, Any]
    """Head of the file."""
    sessions: list[dict[str, Any]]
    """Commit, versions and machine of each run that added rows."""
    rows: list[ResultRow]
    clips: dict[str, int]
    """Setting -> number of clips that all its rows have."""

    @cached_property
    def methods(self) -> dict[str, str]:
        """Label -> group of every method, in the order of the recipe."""
        return {renamed(spec["label"]): _renamed_group(spec["group"]) for spec in self.recipe["ways"]}

    def row(self, setting: str, label: str, percent: str = "") -> ResultRow | None:
        """Return the row, or None where there is none."""
        return self._by_key.get((setting, label, percent))

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, str], ResultRow]:
        return {(row.setting, row.label, row.percent): row for row in self.rows}

    def full(self, setting: str) -> ResultRow:
        """Return the row of all tokens.

        Raises:
            UsageError: The row is not finished.
        """
        row = self.row(setting, FULL)
        if row is None or row.right is None:
            raise UsageError(
                f"the result of {self.recipe['name']!r} has no finished row of all tokens: "
                f"run omnisift bench-quality recipes/{self.recipe['name']}.yaml again"
            )
        return row

    @cached_property
    def bootstraps(self) -> dict[int, ClusterBootstrap]:
        """Number of clips -> the draws that all intervals share."""
        return {count: ClusterBootstrap(count) for count in set(self.clips.values())}

    def interval(self, row: ResultRow) -> Interval:
        """Return the 95 % interval of a row's accuracy, bootstrapped over clips."""
        right = _known(row)
        return self._over_clips(right.sum(axis=1), right.shape[1])

    def outcomes(self, row: ResultRow, type: str) -> NDArray[np.float64]:
        """Return [clips]: the fraction of the seeds with a correct answer to a row's question of one type."""
        outcomes: NDArray[np.float64] = _known(row)[:, row.types.index(type)]
        return outcomes

    def mean(self, values: NDArray[np.float64]) -> Interval:
        """Return the mean of ``values`` [clips] with its 95 % interval, bootstrapped over clips."""
        return self._over_clips(values, 1)

    def difference(self, row: ResultRow, other: ResultRow) -> tuple[Interval, float]:
        """Return the accuracy of ``row`` minus that of ``other`` on the same questions, and p clustered by clip."""
        right = _known(row)
        sums = (right - _known(other)).sum(axis=1)
        return self._over_clips(sums, right.shape[1]), clustered_p(sums)

    def _over_clips(self, sums: NDArray[np.float64], each: int) -> Interval:
        return self.bootstraps[len(sums)].share(sums, np.full(len(sums), each))


def renamed(label: str) -> str:
    """Return the present name of a label in a result file."""
    return FULL if reads_all_tokens(label) else _RENAMED.get(label, label)


def _renamed_group(group: str) -> str:
    for old, new in _RENAMED_WORDS.items():
        group = group.replace(old, new)
    return group


def read_result(path: Path) -> Result:
    """Read a result file; batches that some row of a setting lacks are left out.

    Raises:
        UsageError: The file is not a result.
    """
    try:
        lines = [line for _, line in JsonLines(path).records()]
        settings = lines[0]["settings"]
    except (OSError, UsageError, IndexError, KeyError) as error:
        raise UsageError(f"{path} is not a result of bench-quality: run `omnisift bench-quality` first") from error
    sessions = [line["session"] for line in lines if "session" in line]
    by_row: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines[1:]:
        if "row" in line:
            by_row.setdefault(line["row"], {})[int(line["first"])] = line
    rows, clips = _rows(by_row)
    return Result(settings["recipe"], settings, sessions, rows, clips)


def _rows(by_row: dict[str, dict[int, dict[str, Any]]]) -> tuple[list[ResultRow], dict[str, int]]:
    # Group the seeds of a row: the key without what follows "#".
    groups: dict[str, list[str]] = {}
    for key in by_row:
        groups.setdefault(key.partition("#")[0], []).append(key)
    # Use only batches that all rows of a setting have, with the same number of clips, so that rows stay paired.
    batches: dict[str, set[tuple[int, int]]] = {}
    for key, by_first in by_row.items():
        setting = key.partition("/")[0]
        present = {(first, int(line["clips"])) for first, line in by_first.items()}
        batches[setting] = batches.get(setting, present) & present
    rows = [_row(key, [by_row[name] for name in names], [first for first, _ in sorted(batches[key.partition("/")[0]])])
            for key, names in groups.items()]  # fmt: skip
    clips = {row.setting: len(row.right) for row in rows if row.right is not None}
    return rows, clips


def _row(key: str, seeds: Sequence[dict[int, dict[str, Any]]], batches: Sequence[int]) -> ResultRow:
    setting, _, name = key.partition("/")
    label, _, percent = name.rpartition("@") if "@" in name else (name, "", "")
    label = renamed(label)
    by_seed = [[by_first[first] for first in batches] for by_first in seeds]
    lines = [line for of_seed in by_seed for line in of_seed]
    reasons = [line["unreachable"] for line in lines if "unreachable" in line]
    if reasons or not lines:
        return ResultRow(setting, label, percent, None, unreachable=reasons[0] if reasons else "not finished")
    # Average correctness over seeds; sum kept tokens; weight times by the number of clips.
    each = len(Condition.parse(setting).world.types)
    right = np.mean([np.concatenate([unpack(line["right"], each) for line in of_seed]) for of_seed in by_seed], axis=0)
    kept = {name: [sum(line["kept"][name][i] for line in lines) for i in (0, 1)] for name in lines[0]["kept"]}
    clips = sum(line["clips"] for line in lines)
    ms = sum(line["ms"] * line["clips"] for line in lines) / clips
    return ResultRow(setting, label, percent, right, kept, ms, len(seeds))


def _known(row: ResultRow) -> NDArray[np.float64]:
    if row.right is None:
        raise UsageError(f"row {row.key!r} has no result: {row.unreachable}")
    return row.right


def _mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
