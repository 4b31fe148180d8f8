"""A finished run of lmms-eval, read back from its folder: answers, what they cost, and how they were asked for.

The folder holds ``run.json`` (what was asked), ``requests-*.jsonl`` (tokens, seconds, memory), the harness' own files
below ``harness``, and for captions ``verdicts.jsonl`` once a judge has counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisift.compressors import reads_all_tokens
from omnisift.errors import UsageError
from omnisift.evaluation.public.extractors import EXTRACTORS
from omnisift.evaluation.public.llm_judge import Verdict
from omnisift.evaluation.public.lmms_hooks import MISSED, SCORE
from omnisift.evaluation.public.lmms_tasks import task_name
from omnisift.evaluation.public.scores import Graded

SETTINGS, VERDICTS = "run.json", "verdicts.jsonl"


@dataclass(frozen=True)
class Outcome:
    """One benchmark answered by one model under one method."""

    folder: Path
    settings: Mapping[str, Any]
    """``benchmark``, ``model``, ``compressor``, ``retain`` (in words), ``wording``, ``rule``, ``reading``, ``rows``."""
    answers: Sequence[Mapping[str, Any]]
    """One a question: ``id``, ``video``, ``prediction``, and ``answer``, ``chosen``, ``groups`` or ``events``."""
    requests: Sequence[Mapping[str, Any]]
    """One a question: ``tokens``, ``seconds``, ``peak_memory_bytes``, ``problem``."""
    verdicts: Mapping[str, Verdict]
    """Caption's id -> counts; empty without a judge."""
    judge: str | None = None
    """Who counted."""

    @property
    def is_full(self) -> bool:
        """Whether every token was read."""
        return reads_all_tokens(self.settings["compressor"])

    @property
    def is_choice(self) -> bool:
        """Whether it is scored by letters."""
        return "chosen" in self.answers[0]

    @property
    def counted(self) -> Mapping[str, Verdict] | None:
        """The verdicts if a judge has counted every caption, else None."""
        return self.verdicts if self.verdicts and len(self.verdicts) == len(self.answers) else None

    def graded(self, rule: str | None = None) -> list[Graded]:
        """Right or wrong by ``rule``, by default that of the run. Raises `UsageError` for an unknown one."""
        by = rule or str(self.settings["rule"])
        if by not in EXTRACTORS:
            raise UsageError(f"no answer rule named {by!r}; known: {', '.join(EXTRACTORS)}")
        return [Graded(a["id"], a["video"], a["chosen"][by] == a["answer"], a["groups"]) for a in self.answers]

    def comparable(self, other: Outcome) -> bool:
        """Whether the two differ in their method alone: same benchmark, model, prompts and sampling."""
        names = ("benchmark", "model", "wording", "reading", "max_new_tokens")
        return all(self.settings.get(name) == other.settings.get(name) for name in names)

    def kept(self, kind: str) -> float | None:
        """Share of the ``video`` or ``audio`` tokens kept, summed over all questions; None where there are none."""
        counts = [line["tokens"] for line in self.requests if "tokens" in line]
        total = sum(count[kind] for count in counts)
        return sum(count[f"{kind}_kept"] for count in counts) / total if total else None

    @property
    def kept_together(self) -> float | None:
        """Share of video and audio tokens kept."""
        counts = [line["tokens"] for line in self.requests if "tokens" in line]
        total = sum(count["video"] + count["audio"] for count in counts)
        return sum(count["video_kept"] + count["audio_kept"] for count in counts) / total if total else None

    def seconds(self, last: str) -> float | None:
        """Mean seconds of a question, after reading and preparing the clip, up to ``prefill`` or ``decode``."""
        stages = [line["seconds"] for line in self.requests if "seconds" in line]
        left_out = {"read", "process"} | ({"decode"} if last == "prefill" else set())
        return _mean([sum(value for name, value in stage.items() if name not in left_out) for stage in stages])

    @property
    def flops(self) -> float | None:
        """Mean floating-point operations of a question, where the requests say so."""
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


def read_outcome(folder: Path) -> Outcome:
    """Raises `UsageError` if the folder holds no finished run."""
    if not (folder / SETTINGS).is_file():
        raise UsageError(f"{folder} holds no finished run (no {SETTINGS}); give a folder that `omnisift eval` wrote")
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    answers = read_answers(folder / "harness", str(settings["benchmark"]))
    if len(answers) != settings["rows"]:
        raise UsageError(f"{folder}: {len(answers)} answers to {settings['rows']} questions; run it again")
    requests = {line["document"]: line for path in sorted(folder.glob("requests-*.jsonl")) for line in _lines(path)}
    counted = list(_lines(folder / VERDICTS)) if (folder / VERDICTS).is_file() else []
    verdicts = {line["id"]: Verdict(**line["verdict"]) for line in counted}
    judge = counted[-1]["judge"] if counted else None
    return Outcome(folder, settings, answers, [requests[key] for key in sorted(requests)], verdicts, judge)


def read_answers(harness: Path, benchmark: str) -> list[dict[str, Any]]:
    """From the newest samples that lmms-eval wrote below ``harness``; empty if there are none."""
    found = sorted(harness.rglob(f"*_samples_{task_name(benchmark)}.jsonl"))
    if not found:
        return []
    lines = {line["doc_id"]: line for line in _lines(found[-1])}
    return [lines[number].get(SCORE) or lines[number][MISSED] for number in sorted(lines)]


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)
