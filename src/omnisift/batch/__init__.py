"""Whole folders of video: a task, an engine that answers, a ledger that survives any kill, and the loop over the clips.

`run` works in this process; `omnisift.batch.ray_driver` spreads the same loop over a Ray cluster.
"""

from omnisift.batch.engine import Engine, EngineOfMany, ModelEngine, ModelSettings, Reply
from omnisift.batch.items import Item, items_of
from omnisift.batch.results_file import Ledger
from omnisift.batch.runner import Outcome, run
from omnisift.batch.summary import Summary
from omnisift.batch.tasks import Caption, Moderate, Question, Task, make_task

__all__ = [
    "Caption",
    "Engine",
    "EngineOfMany",
    "Item",
    "Ledger",
    "ModelEngine",
    "ModelSettings",
    "Moderate",
    "Outcome",
    "Question",
    "Reply",
    "Summary",
    "Task",
    "items_of",
    "make_task",
    "run",
]
