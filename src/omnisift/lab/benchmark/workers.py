"""Process pool for benchmark jobs; an interruption loses only the jobs in work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import active_children, get_context, parent_process
from typing import Any

import torch

from omnisift.lab.benchmark.plan import Job, Plan
from omnisift.lab.benchmark.quality import BenchWorker

_worker: list[BenchWorker] = []
"""The worker of this process, once it is initialised."""


def run(
    plan: Plan,
    clips: int,
    done: Mapping[tuple[str, int], int],
    finished: Callable[[dict[str, Any]], None],
    workers: int = 2,
) -> None:
    """Run all jobs of a plan that are not done.

    Args:
        plan: The recipe and what it needs.
        clips: Test clips per setting.
        done: Key of a finished job -> its number of clips.
        finished: Called with each line of the result file as a job ends.
        workers: Processes of one thread each; 0 works in this process.
    """
    jobs = plan.missing(clips, done)
    if workers == 0:
        _initialise(plan)
        for job in jobs:
            finished(_do(job))
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_initialise_worker, initargs=(plan,)
    )
    try:
        for line in _completed(pool, dealt(jobs, workers)):
            finished(line)
    except BaseException:
        stop(pool)
        raise
    pool.shutdown()


def stop(pool: ProcessPoolExecutor) -> None:
    """End the processes of ``pool`` at once, without which an interrupted command waits for their jobs."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in active_children():
        process.terminate()


def end_with_parent() -> None:
    """End this worker when the process that started it is gone: after a SIGKILL nobody else ends it."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def dealt(jobs: list[Job], workers: int) -> list[list[Job]]:
    """Split jobs into one list per worker, by complete batches: no two workers load the same clips."""
    batches: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        batches.setdefault((job.row.setting, job.first), []).append(job)
    # Give the largest remaining batch to the worker with the fewest jobs.
    lists: list[list[Job]] = [[] for _ in range(workers)]
    for batch in sorted(batches.values(), key=len, reverse=True):
        min(lists, key=len).extend(batch)
    return lists


def _initialise_worker(plan: Plan) -> None:
    end_with_parent()
    _initialise(plan)


def _initialise(plan: Plan) -> None:
    torch.set_num_threads(1)
    _worker[:] = [BenchWorker(plan)]


def _do(job: Job) -> dict[str, Any]:
    return _worker[0].do(job)


def _completed(pool: ProcessPoolExecutor, lists: list[list[Job]]) -> Iterator[dict[str, Any]]:
    """Yield result lines; one job of each list is in work at a time, so a free worker takes the next of its list."""
    pending: dict[Future[dict[str, Any]], Iterator[Job]] = {}

    def submit_next(queue: Iterator[Job]) -> None:
        job = next(queue, None)
        if job is not None:
            pending[pool.submit(_do, job)] = queue

    for jobs in lists:
        submit_next(iter(jobs))
    while pending:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            submit_next(pending.pop(future))
            yield future.result()
