"""The loop over the clips: each becomes a row, an answer or an error; no clip stops it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisift.batch.claim import PATIENCE
from omnisift.batch.engine import Engine, Reply
from omnisift.batch.items import Item
from omnisift.batch.ledger import Ledger
from omnisift.batch.tasks import Task
from omnisift.errors import EngineLost, OmniSiftError

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
) -> None:
    """Do every item that has no row yet. ``finished`` gets each row once it is on the disk; ``stop`` is asked then.

    Raises:
        EngineLost: after the row of the clip over which the engine broke down.
        UsageError: the ledger can't be written.
    """
    for item in ledger.missing(items):
        outcome = _given_up(item, ledger) or _in_hand(item, task, engine, ledger)
        ledger.add(outcome.row)
        finished(outcome.row)
        if outcome.lost is not None:
            raise outcome.lost
        if stop():
            return


def do(item: Item, task: Task, engine: Engine) -> Outcome:
    """One row. An exception of any kind is about this clip and becomes its row, so that the others are done."""
    begin = time.perf_counter()
    lost = None
    try:
        return Outcome(_answered(item, task, engine.ask(item.path, task.questions(item))))
    except EngineLost as error:
        lost, said = error, _said(error)
    except OmniSiftError as error:
        said = _said(error)
    except Exception as error:
        logger.info("%s failed", item.id, exc_info=True)
        said = _said(error) | {"where": _where(error)}
    return Outcome(failed(item, said, time.perf_counter() - begin), lost)


def failed(item: Item, said: dict[str, str], seconds: float = 0.0) -> Row:
    """The row of an item that has no answer; ``said`` holds ``type`` and ``message``."""
    return _named(item) | {"error": said, "seconds": {"total": round(seconds, 6)}}


def _in_hand(item: Item, task: Task, engine: Engine, ledger: Ledger) -> Outcome:
    ledger.claim.hold(item.id)
    return do(item, task, engine)


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
