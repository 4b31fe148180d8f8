"""The same run over more than one machine: Ray Data holds a model in each worker, this process writes the ledger.

Clips are read where the worker is, so their paths must lead to the same files on every machine. Needs the extra `ray`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from omnisift.batch.engine import Engine
from omnisift.batch.items import Item
from omnisift.batch.ledger import Ledger
from omnisift.batch.runner import Row, do, failed
from omnisift.batch.tasks import Task
from omnisift.errors import EngineLost, UsageError

BLOCKS = 10_000
"""Most pieces that Ray's scheduler is given. Up to so many clips, each travels alone and is on the disk once done."""
RETRIES = 2
"""How often a clip is tried again when a worker dies over it."""


class Worker:
    """One process of the cluster, with the model in it."""

    def __init__(self, load: Callable[[], Engine], task: Task) -> None:
        self.engine, self.task = load(), task

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Items in, rows out, both as JSON: rows differ in their fields, and Ray's tables would make them alike."""
        return {"row": [json.dumps(self._do(_item(text))) for text in batch["item"]]}

    def _do(self, item: Item) -> Row:
        outcome = do(item, self.task, self.engine)
        if outcome.lost is not None:
            os._exit(1)  # a broken device: Ray starts a new process and tries the clip there
        return outcome.row


@contextmanager
def cluster(address: str, workers: int) -> Iterator[None]:
    """Connected to the Ray cluster at ``address``; ``local`` starts one on this machine, and ends it afterwards.

    Raises:
        UsageError: nothing answers at the address.
    """
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        # Ray would report usage to its makers. Two CPUs more than workers: reading the list needs one as well, and
        # without it all of them wait for ever.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(address="local", num_cpus=workers + 2, include_dashboard=False, **quiet)
    else:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"no Ray cluster at {address!r} ({reason}); start one, or give --ray local") from None
    try:
        yield
    finally:
        ray.shutdown()


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
        EngineLost: no worker could begin, or no clip came back.
    """
    missing = {item.id: item for item in ledger.missing(items)}
    if not missing:
        return
    came = False
    for row in _rows(list(missing.values()), task, load, workers, gpus):
        ledger.add(row)
        finished(row)
        del missing[row["id"]]
        came = True
        if stop():
            return
    if not came:
        raise EngineLost("no clip came back from any worker; look into Ray's logs, then run the same command again")
    for item in missing.values():
        message = f"every worker that tried this clip died, {1 + RETRIES} in all; it was left out"
        row = failed(item, {"type": "WorkerDied", "message": message})
        ledger.add(row)
        finished(row)


def _rows(
    items: list[Item], task: Task, load: Callable[[], Engine], workers: int, gpus: float
) -> Iterator[Row]:  # fmt: skip
    """Rows as they are done. Those of a clip that workers die over don't come."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    texts = [{"item": _text(item)} for item in items]
    data = ray.data.from_items(texts, override_num_blocks=min(len(texts), BLOCKS)).map_batches(
        Worker,
        fn_constructor_args=(load, task),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, len(texts))),
        num_cpus=1,
        num_gpus=gpus,
        max_task_retries=RETRIES,
    )
    try:
        for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
            yield from map(json.loads, batch["row"])
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EngineLost(f"the workers could not go on ({reason}); run the same command again") from error


def _text(item: Item) -> str:
    return json.dumps([item.id, item.clip, os.fspath(item.path), item.question])


def _item(text: str) -> Item:
    name, clip, path, question = json.loads(text)
    return Item(name, clip, Path(path), question)
