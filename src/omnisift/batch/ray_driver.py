"""A batch run over a Ray cluster: Ray Data holds one engine per worker, and this process writes the results.

Workers read the clips themselves, so the paths must lead to the same files on every machine. Needs the extra `ray`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from omnisift import errors
from omnisift.batch.engine import Engine
from omnisift.batch.items import Item
from omnisift.batch.results_file import ResultsFile
from omnisift.batch.runner import Row, error_row, process_item
from omnisift.batch.tasks import Task
from omnisift.errors import EngineLost, UsageError

MAX_BLOCKS = 10_000
"""Limit on the blocks that Ray schedules. Up to this number each clip is a block, written as soon as it is done."""
RETRIES = 1
"""How often Ray retries a clip after its worker died."""
ROUNDS = 2
"""Clips that are missing after the first round get a second one: another clip may have killed their worker."""
PROBE = "is an engine loaded?"
"""An additional item. A worker that returns it has loaded its engine, so missing rows are due to their clips."""


class Worker:
    """One process of the cluster with an engine. If the engine can't be loaded, rows are replaced by the error."""

    def __init__(self, load: Callable[[], Engine], task: Task) -> None:
        self.task = task
        self.load_error: list[str] | None = None
        try:
            self.engine = load()
        except errors.OmniSiftError as error:
            self.load_error = [type(error).__name__, str(error)]

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Process a batch: items in, rows out, both as JSON, because Ray's tables would give all rows one schema."""
        return {"row": [json.dumps(self.load_error or self._process(text)) for text in batch["item"]]}

    def _process(self, text: str) -> Row | None:
        if text == PROBE:
            return None
        result = process_item(_decode_item(text), self.task, self.engine)
        if result.engine_lost is not None:
            os._exit(1)  # the device failed: Ray starts a new process and retries the clip there
        return result.row


@contextmanager
def cluster(address: str, workers: int) -> Iterator[None]:
    """Connect to a Ray cluster.

    Args:
        address: ``local`` starts a cluster on this machine and stops it afterwards, ``auto`` finds the cluster that
            this machine is part of, ``HOST:PORT`` is the address of a head node.
        workers: number of workers that a local cluster has room for.

    Raises:
        UsageError: no such address, or no cluster there.
    """
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        # No usage reports. Two CPUs more than workers: without them, tasks of Ray Data itself have waited forever.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(address="local", num_cpus=workers + 2, include_dashboard=False, **quiet)
    else:
        if address != "auto":
            _check_reachable(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"no Ray cluster at {address!r} ({reason}); start one, or give --ray local") from None
    # Ray prints messages about its workers to stdout, which is for the results.
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Fail within seconds; Ray itself retries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--ray takes local, auto or HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster at {address!r} ({error}); start one, or give --ray local") from None


def run_on_ray(
    items: Iterable[Item],
    task: Task,
    load: Callable[[], Engine],
    results: ResultsFile,
    on_row: Callable[[Row], None] = lambda _row: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    workers: int = 2,
    gpus: float = 0.0,
) -> None:
    """Do every item that has no row yet, as `omnisift.batch.run`, on the connected cluster (see `cluster`).

    Args:
        items: all items of the run.
        task: what to ask about each clip.
        load: makes the engine in each worker; must be picklable, for example `ModelSettings.load`.
        results: the open results file; rows are written in the order in which they are done.
        on_row: called with each row after it was written.
        should_stop: called after each row; True ends the run.
        workers: processes with an engine, one CPU each.
        gpus: GPUs per worker.

    Raises:
        EngineLost: no worker returned anything.
        UsageError: GPUs are requested and the cluster has none.
        OmniSiftError: as ``load`` raised it in a worker.
    """
    missing = {item.id: item for item in results.missing(items)}
    if ray.cluster_resources().get("GPU", 0) < gpus:
        raise UsageError("no machine of this Ray cluster has a GPU; give --device cpu, or start Ray with --num-gpus")

    def add(row: Row) -> None:
        results.add(row)
        on_row(row)
        missing.pop(row["id"])

    engine_loaded = False
    for _round in range(ROUNDS):
        for row in _rows(list(missing.values()), task, load, workers, gpus):
            engine_loaded = True
            if row is not None:
                add(row)
            if should_stop():
                return
    if missing and not engine_loaded:
        raise EngineLost("no worker returned anything; read Ray's logs, then rerun the same command")
    # What is missing now killed its worker each time.
    for item in list(missing.values()):
        message = f"Skipped: {ROUNDS * (1 + RETRIES)} workers died on this clip."
        add(error_row(item, {"type": "WorkerDied", "message": message}))


def _rows(items: list[Item], task: Task, load: Callable[[], Engine], workers: int, gpus: float) -> Iterator[Row | None]:
    """Yield rows as they are done, and None once a worker has loaded its engine; clips that kill workers get no row."""
    if not items:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    texts = [{"item": PROBE}, *({"item": _encode_item(item)} for item in items)]
    with warnings.catch_warnings():
        # A clip that kills its worker would be retried forever without a limit. Ray 2.60 calls the argument for the
        # limit deprecated and names no other.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        data = ray.data.from_items(texts, override_num_blocks=min(len(texts), MAX_BLOCKS)).map_batches(
            Worker,
            fn_constructor_args=(load, task),
            batch_size=1,
            # One clip at a time per worker: clips that wait in a worker die with it.
            compute=ActorPoolStrategy(size=min(workers, len(items)), max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=gpus,
            max_task_retries=RETRIES,
        )
    try:
        for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
            for text in batch["row"]:
                yield _decode_row(text)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EngineLost(f"Ray's workers failed ({reason}); rerun the same command to resume") from error


def _decode_row(text: str) -> Row | None:
    """Return a worker's row. Raises the worker's error if it could not load its engine."""
    value: Row | list[str] | None = json.loads(text)
    if isinstance(value, list):
        name, message = value
        raise getattr(errors, name)(message)
    return value


def _encode_item(item: Item) -> str:
    return json.dumps([item.id, item.clip, os.fspath(item.path), item.question])


def _decode_item(text: str) -> Item:
    name, clip, path, question = json.loads(text)
    return Item(name, clip, Path(path), question)
