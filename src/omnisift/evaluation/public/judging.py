"""Let a judge count the events in the captions of a finished run. Each caption is on the disk before the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from omnisift.errors import UsageError
from omnisift.evaluation.public.llm_judge import Judge
from omnisift.evaluation.public.eval_run import VERDICTS, EvalRun
from omnisift.utils.atomic_io import write_atomic


def judge_captions(run: EvalRun, judge: Judge, progress: Callable[[int], None] = lambda _done: None) -> None:
    """Count what is not counted yet.

    Raises:
        UsageError: the run has no captions, another judge has begun, or the judge gives no counts.
    """
    if run.is_choice:
        raise UsageError(f"{run.folder} is answered by letters; only captions need a judge")
    if run.verdicts and run.judge != judge.name:
        raise UsageError(
            f"{run.folder} was begun by the judge {run.judge!r}, got {judge.name!r}; delete {VERDICTS} there"
        )
    path = run.folder / VERDICTS
    verdicts = dict(run.verdicts)
    for answer in run.answers:
        if answer["id"] not in verdicts:
            verdicts[answer["id"]] = judge.count(answer["events"], answer["prediction"])
            lines = ({"id": name, "judge": judge.name, "verdict": asdict(one)} for name, one in verdicts.items())
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))
        progress(len(verdicts))
