"""The same run over more than one machine: Ray Data holds a model in each worker, this process writes the ledger.

Clips are read where the worker is, so their paths must lead to the same files on every machine. Needs the extra `ray`.
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
from omnisift.batch.results_file import Ledger
from omnisift.batch.runner import Row, do, failed
from omnisift.batch.tasks import Task
from omnisift.errors import EngineLost, UsageError

BLOCKS = 10_000
"""Most pieces that Ray's scheduler is given. Up to so many clips, each travels alone and is on the disk once done."""
RETRIES = 1
"""How often Ray tries a clip again when its worker died."""
ROUNDS = 2
"""A clip that is missing after one round may be a bystander: another clip killed the worker. It gets a second one."""

PROBE = "well?"
"""Sent along as an item. Whoever returns it could load the model: then it is the clips that keep others away."""


class Worker:
    """One process of the cluster, with the model in it. An engine that can't be loaded is told instead of rows."""

    def __init__(self, load: Callable[[], Engine], task: Task) -> None:
        self.task, self.refused = task, None
        try:
            self.engine = load()
        except errors.OmniSiftError as error:
            self.refused = [type(error).__name__, str(error)]

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Items in, rows out, both as JSON: rows differ in their fields, and Ray's tables would make them alike."""
        return {"row": [json.dumps(self.refused or self._do(text)) for text in batch["item"]]}

    def _do(self, text: str) -> Row | None:
        if text == PROBE:
            return None
        outcome = do(_item(text), self.task, self.engine)
        if outcome.lost is not None:
            os._exit(1)  # a broken device: Ray starts a new process and tries the clip there
        return outcome.row


@contextmanager
def cluster(address: str, workers: int) -> Iterator[None]:
    """Connected to a Ray cluster: ``local`` starts one on this machine and ends it afterwards, ``auto`` finds the one
    that this machine is part of, ``HOST:PORT`` is the address of a head.

    Raises:
        UsageError: another address, or nothing there.
    """
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        # Ray would report usage to its makers. Two CPUs more than workers: tasks of Ray Data's own that find none have
        # been seen to wait for ever.
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
    # Ray prints to stdout what befell its workers; there the answer belongs.
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
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
    ledger: Ledger,
    finished: Callable[[Row], None] = lambda _row: None,
    stop: Callable[[], bool] = lambda: False,
    *,
    workers: int = 2,
    gpus: float = 0.0,
) -> None:
    """As `omnisift.batch.run`, on a cluster that is connected (see `cluster`); rows come in the order of their end.

    Args:
        load: makes the engine, in each worker; plain data with a method, as `ModelSettings.load`.
        workers: processes with a model, one CPU each.
        gpus: GPUs of each worker.

    Raises:
        EngineLost: nothing came back. UsageError: GPUs are asked for, and there is none.
        OmniSiftError: as ``load`` raised it in a worker.
    """
    missing = {item.id: item for item in ledger.missing(items)}
    if ray.cluster_resources().get("GPU", 0) < gpus:
        raise UsageError("no machine of this Ray cluster has a GPU; give --device cpu, or start Ray with --num-gpus")

    def add(row: Row) -> None:
        ledger.add(row)
        finished(row)
        missing.pop(row["id"])

    alive = False
    for _round in range(ROUNDS):
        for row in _rows(list(missing.values()), task, load, workers, gpus):
            alive = True
            if row is not None:
                add(row)
            if stop():
                return
    if missing and not alive:
        raise EngineLost("nothing came back from any worker; look into Ray's logs, then run the same command again")
    for item in list(missing.values()):
        message = f"each of the {ROUNDS * (1 + RETRIES)} workers that tried this clip died; it was left out"
        add(failed(item, {"type": "WorkerDied", "message": message}))


def _rows(items: list[Item], task: Task, load: Callable[[], Engine], workers: int, gpus: float) -> Iterator[Row | None]:
    """Rows as they are done; a None says that some worker is well. Rows of clips that workers die over don't come."""
    if not items:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    texts = [{"item": PROBE}, *({"item": _text(item)} for item in items)]
    with warnings.catch_warnings():
        # Without a limit a clip that kills its worker would be tried for ever. Ray 2.60 is told so by an argument that
        # it calls deprecated, and names no other.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        data = ray.data.from_items(texts, override_num_blocks=min(len(texts), BLOCKS)).map_batches(
            Worker,
            fn_constructor_args=(load, task),
            batch_size=1,
            # One clip at a time: those that wait behind a deadly one would die with it.
            compute=ActorPoolStrategy(size=min(workers, len(items)), max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=gpus,
            max_task_retries=RETRIES,
        )
    try:
        for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
            for text in batch["row"]:
                yield _row(text)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EngineLost(f"the workers could not go on ({reason}); run the same command again") from error


def _row(text: str) -> Row | None:
    """What a worker said; the error, if it could not load its engine."""
    said: Row | list[str] | None = json.loads(text)
    if isinstance(said, list):
        kind, message = said
        raise getattr(errors, kind)(message)
    return said


def _text(item: Item) -> str:
    return json.dumps([item.id, item.clip, os.fspath(item.path), item.question])


def _item(text: str) -> Item:
    name, clip, path, question = json.loads(text)
    return Item(name, clip, Path(path), question)
