"""Finished runs of lmms-eval (answers, their cost, and the settings) and their scores.

The folder of a run holds ``run.json`` (settings), ``requests-*.jsonl`` (tokens, seconds, memory), the files of
lmms-eval below ``harness``, and for captions ``verdicts.jsonl`` once a judge has counted.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omnisift.compressors import reads_all_tokens
from omnisift.errors import UsageError
from omnisift.evaluation.public.extractors import EXTRACTORS
from omnisift.evaluation.public.llm_judge import CaptionJudge, EventCounts
from omnisift.evaluation.public.lmms_hooks import MISSED, SCORE, task_name
from omnisift.evaluation.statistics import ClusterBootstrap, Interval, clustered_error, clustered_p
from omnisift.utils.jsonl import JsonLines, parse_jsonl
from omnisift.utils.suggest import meant


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


def paired(first: Sequence[Graded], second: Sequence[Graded]) -> tuple[Interval, float]:
    """Compare two runs question by question; interval and p assume only that videos are independent.

    Returns:
        The proportion correct of the first minus that of the second, and its two-sided p.

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
    for name, grade in by_id.items():
        gains[grade.video] += grade.right - other_by_id[name].right
        total[grade.video] += 1
    differences = [gains[video] for video in total]
    return ClusterBootstrap(len(total)).share(differences, list(total.values())), clustered_p(differences)


SETTINGS = "run.json"
"""File of the settings in the folder of a run."""
COUNTS = "verdicts.jsonl"
"""File of a judge's counts in the folder of a run."""


@dataclass(frozen=True)
class EvalRun:
    """One benchmark, answered by one model with one method."""

    folder: Path
    settings: Mapping[str, Any]
    """``benchmark``, ``model``, ``compressor``, ``retain`` (as text), ``wording``, ``rule``, ``reading``, ``rows``."""
    answers: Sequence[Mapping[str, Any]]
    """One per question: ``id``, ``video``, ``prediction``, and ``answer``, ``chosen``, ``groups`` or ``events``."""
    requests: Sequence[Mapping[str, Any]]
    """One per question: ``tokens``, ``seconds``, ``peak_memory_bytes``, ``problem``."""
    counts: Mapping[str, EventCounts]
    """Id of a caption -> its counts; empty without a judge."""
    judge: str | None = None
    """Name of the judge."""

    @property
    def is_full(self) -> bool:
        """Whether all tokens were kept."""
        return reads_all_tokens(self.settings["compressor"])

    @property
    def is_choice(self) -> bool:
        """Whether the questions are multiple choice."""
        return "chosen" in self.answers[0]

    @property
    def counted(self) -> Mapping[str, EventCounts] | None:
        """The counts if a judge has counted every caption, else None."""
        return self.counts if self.counts and len(self.counts) == len(self.answers) else None

    def graded(self, rule: str | None = None) -> list[Graded]:
        """Grade all answers.

        Args:
            rule: Answer rule; None takes that of the run.

        Raises:
            UsageError: The rule is unknown.
        """
        name = rule or str(self.settings["rule"])
        if name not in EXTRACTORS:
            raise UsageError(f"no answer rule named {name!r}; known: {', '.join(EXTRACTORS)}{meant(name, EXTRACTORS)}")
        return [Graded(a["id"], a["video"], a["chosen"][name] == a["answer"], a["groups"]) for a in self.answers]

    def comparable(self, other: EvalRun) -> bool:
        """Return whether both runs have the same benchmark, model, prompts and sampling."""
        names = ("benchmark", "model", "wording", "reading", "max_new_tokens")
        return all(self.settings.get(name) == other.settings.get(name) for name in names)

    def kept(self, kind: str) -> float | None:
        """Return the fraction of ``video`` or ``audio`` tokens kept over all questions; None where there are none."""
        counts = [line["tokens"] for line in self.requests if "tokens" in line]
        total = sum(count[kind] for count in counts)
        return sum(count[f"{kind}_kept"] for count in counts) / total if total else None

    @property
    def kept_together(self) -> float | None:
        """Fraction of video and audio tokens kept."""
        counts = [line["tokens"] for line in self.requests if "tokens" in line]
        total = sum(count["video"] + count["audio"] for count in counts)
        return sum(count["video_kept"] + count["audio_kept"] for count in counts) / total if total else None

    def seconds(self, last: str) -> float | None:
        """Return the mean seconds per question from the encoders up to ``prefill`` or ``decode``.

        Questions that reuse the encoding of an earlier one don't count: a question on its own would cost more.
        """
        stages = [line["seconds"] for line in self.requests if "seconds" in line]
        stages = [stage for stage in stages if any(stage[name] > 0 for name in stage if name.startswith("encode"))]
        left_out = {"read", "process"} | ({"decode"} if last == "prefill" else set())
        return _mean([sum(value for name, value in stage.items() if name not in left_out) for stage in stages])

    @property
    def flops(self) -> float | None:
        """Mean floating-point operations per question; None where the requests have none."""
        return _mean([float(line["flops"]) for line in self.requests if line.get("flops")])

    @property
    def peak_memory_bytes(self) -> int | None:
        """The largest peak of any call."""
        peaks = [line["peak_memory_bytes"] for line in self.requests if line.get("peak_memory_bytes")]
        return max(peaks) if peaks else None

    @property
    def unread(self) -> int:
        """Questions whose clip could not be read; they count as wrong."""
        return sum(1 for line in self.requests if line.get("problem"))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def read_run(folder: Path) -> EvalRun:
    """Read a run.

    Raises:
        UsageError: The folder holds no finished run.
    """
    if not (folder / SETTINGS).is_file():
        raise UsageError(f"{folder} holds no finished run (no {SETTINGS}); give a folder that `omnisift eval` wrote")
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    answers = read_answers(folder / "harness", str(settings["benchmark"]))
    if len(answers) != settings["rows"]:
        raise UsageError(
            f"{folder} has {len(answers)} answers to {settings['rows']} questions; run omnisift eval again"
        )
    logs = [JsonLines(path) for path in sorted(folder.glob("requests-*.jsonl"))]
    requests = {line["document"]: line for log in logs for _, line in log.records()}
    judged = [line for _, line in JsonLines(folder / COUNTS).records()]
    counts = {line["id"]: EventCounts(**line["verdict"]) for line in judged}
    judge = judged[-1]["judge"] if judged else None
    return EvalRun(folder, settings, answers, [requests[key] for key in sorted(requests)], counts, judge)


def read_answers(folder: Path, benchmark: str) -> list[dict[str, Any]]:
    """Return the answers in the newest sample file of lmms-eval below ``harness``; empty without one."""
    paths = sorted(folder.rglob(f"*_samples_{task_name(benchmark)}.jsonl"))
    if not paths:
        return []
    text = paths[-1].read_text(encoding="utf-8")
    lines = {line["doc_id"]: line for _, line in parse_jsonl(text, paths[-1])}
    return [lines[number].get(SCORE) or lines[number][MISSED] for number in sorted(lines)]


def judge_captions(run: EvalRun, judge: CaptionJudge, progress: Callable[[int], None] = lambda _done: None) -> None:
    """Count the captions of a run that have no counts yet; each is on the disk before the next is sent.

    Args:
        run: A finished run of a captioning benchmark.
        judge: What counts.
        progress: Called with the number of captions counted.

    Raises:
        UsageError: The run has no captions, another judge has counted some, or the judge returns no counts.
    """
    if run.is_choice:
        raise UsageError(f"{run.folder} has multiple-choice answers; only captions need a judge")
    if run.counts and run.judge != judge.name:
        raise UsageError(
            f"{run.folder} has counts by the judge {run.judge!r}, got {judge.name!r}; delete {COUNTS} there"
        )
    lines = JsonLines(run.folder / COUNTS)
    lines.prepare()
    counted = set(run.counts)
    for answer in run.answers:
        if answer["id"] not in counted:
            counts = judge.count(answer["events"], answer["prediction"])
            lines.append({"id": answer["id"], "judge": judge.name, "verdict": asdict(counts)})
            counted.add(answer["id"])
        progress(len(counted))
