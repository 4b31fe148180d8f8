"""The loop over the clips: each becomes a row, an answer or an error; no clip stops it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omnisift.batch.engine import Engine, EngineOfMany, Reply
from omnisift.batch.items import Item
from omnisift.batch.results_file import Ledger
from omnisift.batch.run_lock import PATIENCE
from omnisift.batch.tasks import Task
from omnisift.errors import EngineLost, OmniSiftError, UsageError

logger = logging.getLogger(__name__)
Row = dict[str, Any]
LONGEST = 500
"""Characters of a foreign error's message."""


@dataclass(frozen=True)
class Outcome:
    """A row, and whether the engine broke down over it."""

    row: Row
    lost: EngineLost | None = None


def run(
    items: Iterable[Item],
    task: Task,
    engine: Engine,
    ledger: Ledger,
    finished: Callable[[Row], None] = lambda _row: None,
    stop: Callable[[], bool] = lambda: False,
    *,
    together: int = 1,
) -> None:
    """Do every item that has no row yet. ``finished`` gets each row once it is on the disk; ``stop`` is asked then.

    Args:
        together: clips in hand at once, for an engine that is `EngineOfMany`. A kill costs all of them. Those that a
            process died over are done alone.

    Raises:
        EngineLost: the engine broke down. Behind the row of the clip over which it did; of several at once, behind
            none, and the next run does each of them alone.
        UsageError: the ledger can't be written.
    """
    for group in _groups(ledger.missing(items), ledger, together):
        for outcome in _outcomes(group, task, engine, ledger):
            ledger.add(outcome.row)
            finished(outcome.row)
            if outcome.lost is not None:
                raise outcome.lost
        if stop():
            return


def _groups(items: Sequence[Item], ledger: Ledger, size: int) -> Iterator[list[Item]]:
    """Of ``size`` each, in order; an item that a process died over stands alone."""
    group: list[Item] = []
    for item in items:
        suspect = ledger.claim.suspected(item.id)
        if group and (suspect or len(group) == size):
            yield group
            group = []
        if suspect:
            yield [item]
        else:
            group.append(item)
    if group:
        yield group


def _outcomes(group: list[Item], task: Task, engine: Engine, ledger: Ledger) -> list[Outcome]:
    given_up = _given_up(group[0], ledger)
    if given_up is not None:
        return [given_up]
    ledger.claim.hold([item.id for item in group])
    return [do(group[0], task, engine)] if len(group) == 1 else _do_many(group, task, engine)


def do(item: Item, task: Task, engine: Engine) -> Outcome:
    """One row. An exception of any kind is about this clip and becomes its row, so that the others are done."""
    return _outcome(item, task, lambda: engine.ask(item.path, task.questions(item)))


def _do_many(group: Sequence[Item], task: Task, engine: Engine) -> list[Outcome]:
    """A row for each, from an engine that takes several; `EngineLost` is no single clip's and goes on its way."""
    if not isinstance(engine, EngineOfMany):
        raise UsageError("this engine takes one clip at a time: leave out together")
    begin = time.perf_counter()
    found = engine.ask_many([(item.path, task.questions(item)) for item in group])
    share = (time.perf_counter() - begin) / len(group)
    return [_outcome(item, task, partial(_given, replies), share) for item, replies in zip(group, found, strict=True)]


def _outcome(item: Item, task: Task, answers: Callable[[], Sequence[Reply]], spent: float = 0.0) -> Outcome:
    """``spent`` are seconds before this, which an error's row tells."""
    begin = time.perf_counter() - spent
    lost = None
    try:
        return Outcome(_answered(item, task, answers()))
    except EngineLost as error:
        lost, said = error, _said(error)
    except OmniSiftError as error:
        said = _said(error)
    except Exception as error:
        logger.info("%s failed", item.id, exc_info=True)
        said = _said(error) | {"where": _where(error)}
    return Outcome(failed(item, said, time.perf_counter() - begin), lost)


def _given(replies: list[Reply] | Exception) -> list[Reply]:
    if isinstance(replies, Exception):
        raise replies
    return replies


def failed(item: Item, said: dict[str, str], seconds: float = 0.0) -> Row:
    """The row of an item that has no answer; ``said`` holds ``type`` and ``message``."""
    return _named(item) | {"error": said, "seconds": {"total": round(seconds, 6)}}


def _given_up(item: Item, ledger: Ledger) -> Outcome | None:
    if ledger.claim.deaths(item.id) < PATIENCE:
        return None
    message = f"{PATIENCE} processes in a row ended without a word while they had this clip in hand; it was left out"
    return Outcome(failed(item, {"type": "ProcessDied", "message": message}))


def _answered(item: Item, task: Task, replies: Sequence[Reply]) -> Row:
    """Tokens and seconds are sums over the questions; the clip is read once."""
    first = replies[0]
    tokens = {name: sum(reply.tokens[name] for reply in replies) for name in first.tokens}
    seconds = {name: round(sum(reply.seconds[name] for reply in replies), 6) for name in first.seconds}
    notices = list(dict.fromkeys(notice for reply in replies for notice in reply.notices))
    what = {"tokens": tokens, "seconds": seconds, "source": first.source, "notices": notices}
    return _named(item) | task.result(replies) | what


def _named(item: Item) -> Row:
    return {"id": item.id, "clip": item.clip} | ({} if item.question is None else {"question": item.question})


def _said(error: Exception) -> dict[str, str]:
    return {"type": type(error).__name__, "message": " ".join(str(error).split())[:LONGEST]}


def _where(error: Exception) -> str:
    """File and line that raised: the cause of what nobody foresaw."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
