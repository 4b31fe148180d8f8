"""The processes that do a plan's jobs: interrupted at any time, they lose only what they have in hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any

import torch

from omnisift.evaluation.plan import Job, Plan
from omnisift.evaluation.quality import BenchWorker

_workplace: list[BenchWorker] = []
"""This process's own, once it has begun."""


def run(
    plan: Plan,
    clips: int,
    done: Mapping[tuple[str, int], int],
    finished: Callable[[dict[str, Any]], None],
    workers: int = 2,
) -> None:
    """Do all jobs that are not ``done`` (key -> clips), and hand each line to ``finished`` as it comes.

    ``workers`` processes of one thread each; 0 works in this process.
    """
    jobs = plan.missing(clips, done)
    if workers == 0:
        _begin(plan)
        for job in jobs:
            finished(_do(job))
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(plan,))
    try:
        for line in _as_they_come(pool, dealt(jobs, workers)):
            finished(line)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def dealt(jobs: list[Job], workers: int) -> list[list[Job]]:
    """One list a worker: whole batches, so that no two workers load the same clips; about equally many jobs each."""
    batches: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        batches.setdefault((job.row.setting, job.first), []).append(job)
    lists: list[list[Job]] = [[] for _ in range(workers)]
    for batch in sorted(batches.values(), key=len, reverse=True):
        min(lists, key=len).extend(batch)
    return lists


def _begin(plan: Plan) -> None:
    """In each worker: one thread, one workplace."""
    torch.set_num_threads(1)
    _workplace[:] = [BenchWorker(plan)]


def _do(job: Job) -> dict[str, Any]:
    return _workplace[0].do(job)


def _as_they_come(pool: ProcessPoolExecutor, lists: list[list[Job]]) -> Iterator[dict[str, Any]]:
    """Lines. One job of each list is in work at a time, so the worker that has just finished one takes its next."""
    pending: dict[Future[dict[str, Any]], Iterator[Job]] = {}

    def go_on(queue: Iterator[Job]) -> None:
        job = next(queue, None)
        if job is not None:
            pending[pool.submit(_do, job)] = queue

    for jobs in lists:
        go_on(iter(jobs))
    while pending:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            go_on(pending.pop(future))
            yield future.result()
