"""Scores of a benchmark by group, with errors clustered by video, and paired comparisons of runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnisift.errors import UsageError
from omnisift.evaluation.statistics import ClusterBootstrap, Comparison, clustered_error, clustered_p, mcnemar_exact


@dataclass(frozen=True)
class Graded:
    """One graded answer."""

    id: str
    video: str
    right: bool
    groups: Mapping[str, str]


@dataclass(frozen=True)
class Score:
    """A proportion correct, 0 to 1."""

    value: float
    error: float
    """Standard error, clustered by video; NaN where there is one video."""
    questions: int
    videos: int


def score(graded: Sequence[Graded]) -> Score:
    """Return the proportion correct of at least one answer."""
    total = Counter(grade.video for grade in graded)
    right = Counter(grade.video for grade in graded if grade.right)
    error = clustered_error([right[video] for video in total], list(total.values()))
    return Score(right.total() / len(graded), error, len(graded), len(total))


def by_group(graded: Sequence[Graded]) -> dict[str, dict[str, Score]]:
    """Return kind of group -> name -> score, with names in alphabetical order."""
    members: dict[str, dict[str, list[Graded]]] = defaultdict(lambda: defaultdict(list))
    for grade in graded:
        for kind, name in grade.groups.items():
            members[kind][name].append(grade)
    return {kind: {name: score(parts[name]) for name in sorted(parts)} for kind, parts in members.items()}


def paired(first: Sequence[Graded], second: Sequence[Graded]) -> Comparison:
    """Compare two runs question by question; intervals and p assume only that videos are independent.

    Raises:
        UsageError: The runs did not answer the same questions.
    """
    by_id, other_by_id = ({grade.id: grade for grade in run} for run in (first, second))
    if by_id.keys() != other_by_id.keys() or not by_id:
        missing = len(by_id.keys() ^ other_by_id.keys())
        raise UsageError(f"cannot pair two runs: {missing} questions are in only one; run both on the same rows")
    # Sum the differences of each video.
    gains: Counter[str] = Counter()
    total: Counter[str] = Counter()
    only_first = only_second = 0
    for name, grade in by_id.items():
        other = other_by_id[name]
        only_first += grade.right and not other.right
        only_second += other.right and not grade.right
        gains[grade.video] += grade.right - other.right
        total[grade.video] += 1
    differences = [gains[video] for video in total]
    interval = ClusterBootstrap(len(total)).share(differences, list(total.values()))
    return Comparison(interval, mcnemar_exact(only_first, only_second), clustered_p(differences))
