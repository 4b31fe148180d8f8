"""The loop over the items of a run: each becomes a row with an answer or an error, and no clip stops the run."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omnisift.batch.engine import BatchEngine, Engine, EngineAnswer
from omnisift.batch.items import Item
from omnisift.batch.results_file import ResultsFile
from omnisift.batch.tasks import Task
from omnisift.errors import EngineLost, OmniSiftError, UsageError

logger = logging.getLogger(__name__)
Row = dict[str, Any]
MAX_MESSAGE = 500
"""Characters of an error's message in a row."""


@dataclass(frozen=True)
class ItemResult:
    """The row of one item."""

    row: Row
    engine_lost: EngineLost | None = None
    """Set if the engine died on this item."""


def run(
    items: Iterable[Item],
    task: Task,
    engine: Engine,
    results: ResultsFile,
    on_row: Callable[[Row], None] = lambda _row: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    batch_size: int = 1,
) -> None:
    """Do every item that has no row yet.

    Args:
        items: all items of the run.
        task: what to ask about each clip.
        engine: the model that answers; a `BatchEngine` if ``batch_size`` is above 1.
        results: the open results file.
        on_row: called with each row after it was written.
        should_stop: called after each batch; True ends the run.
        batch_size: clips in progress at once. A kill costs all of them; clips on which a process died are done alone.

    Raises:
        EngineLost: the engine died. If one clip was in progress, its row is written first; if there were several, none
            has a row, and the next run does each of them alone.
        UsageError: the results can't be written.
    """
    for batch in _batches(results.missing(items), results, batch_size):
        for result in _process_batch(batch, task, engine, results):
            results.add(result.row)
            on_row(result.row)
            if result.engine_lost is not None:
                raise result.engine_lost
        if should_stop():
            return


def process_item(item: Item, task: Task, engine: Engine) -> ItemResult:
    """Produce the row of one item. Any exception of the clip becomes its row, so that the other clips are done."""
    return _result(item, task, lambda: engine.ask(item.path, task.questions(item)))


def error_row(item: Item, error: dict[str, str], seconds: float = 0.0) -> Row:
    """Return the row of an item without an answer.

    Args:
        item: the item.
        error: ``type`` and ``message``.
        seconds: time spent on the item.
    """
    return _item_fields(item) | {"error": error, "seconds": {"total": round(seconds, 6)}}


def _batches(items: Sequence[Item], results: ResultsFile, size: int) -> Iterator[list[Item]]:
    """Batches of at most ``size`` in order; an item on which a process died is alone in its batch."""
    batch: list[Item] = []
    for item in items:
        suspect = results.lock.is_suspect(item.id)
        if batch and (suspect or len(batch) == size):
            yield batch
            batch = []
        if suspect:
            yield [item]
        else:
            batch.append(item)
    if batch:
        yield batch


def _process_batch(batch: list[Item], task: Task, engine: Engine, results: ResultsFile) -> list[ItemResult]:
    # An item on which the process died too often is never started again.
    if results.lock.is_deadly(batch[0].id):
        message = f"Skipped: {results.lock.crashes(batch[0].id)} processes in a row died on this clip."
        return [ItemResult(error_row(batch[0], {"type": "ProcessDied", "message": message}))]
    results.lock.set_in_progress([item.id for item in batch])
    return [process_item(batch[0], task, engine)] if len(batch) == 1 else _process_many(batch, task, engine)


def _process_many(batch: Sequence[Item], task: Task, engine: Engine) -> list[ItemResult]:
    """One row per item. `EngineLost` belongs to no single clip and is raised."""
    if not isinstance(engine, BatchEngine):
        raise UsageError("this engine takes one clip at a time; leave out batch_size")
    start = time.perf_counter()
    answers = engine.ask_batch([(item.path, task.questions(item)) for item in batch])
    share = (time.perf_counter() - start) / len(batch)
    return [
        _result(item, task, partial(_answers_or_raise, answer), share)
        for item, answer in zip(batch, answers, strict=True)
    ]


def _result(item: Item, task: Task, ask: Callable[[], Sequence[EngineAnswer]], spent: float = 0.0) -> ItemResult:
    """``spent`` are seconds before this call, which count in the row of an error."""
    start = time.perf_counter() - spent
    engine_lost = None
    try:
        return ItemResult(_answer_row(item, task, ask()))
    except EngineLost as error:
        engine_lost, fields = error, _error_fields(error)
    except OmniSiftError as error:
        fields = _error_fields(error)
    except Exception as error:
        logger.info("%s failed", item.id, exc_info=True)
        fields = _error_fields(error) | {"where": _raised_at(error)}
    return ItemResult(error_row(item, fields, time.perf_counter() - start), engine_lost)


def _answers_or_raise(answers: list[EngineAnswer] | Exception) -> list[EngineAnswer]:
    if isinstance(answers, Exception):
        raise answers
    return answers


def _answer_row(item: Item, task: Task, answers: Sequence[EngineAnswer]) -> Row:
    """Tokens and seconds are sums over the questions."""
    first = answers[0]
    tokens = {name: sum(answer.tokens[name] for answer in answers) for name in first.tokens}
    seconds = {name: round(sum(answer.seconds[name] for answer in answers), 6) for name in first.seconds}
    notices = list(dict.fromkeys(notice for answer in answers for notice in answer.notices))
    cost = {"tokens": tokens, "seconds": seconds, "source": first.source, "notices": notices}
    return _item_fields(item) | task.result(answers) | cost


def _item_fields(item: Item) -> Row:
    return {"id": item.id, "clip": item.clip} | ({} if item.question is None else {"question": item.question})


def _error_fields(error: Exception) -> dict[str, str]:
    return {"type": type(error).__name__, "message": " ".join(str(error).split())[:MAX_MESSAGE]}


def _raised_at(error: Exception) -> str:
    """File and line of an unexpected error."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
