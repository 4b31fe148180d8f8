"""Batch runs over many clips: a task, an engine that answers, a results file that survives kills, and the loop.

`run` works in this process; `omnisift.batch.ray_driver` spreads the same loop over a Ray cluster.
"""

from omnisift.batch.engine import BatchEngine, Engine, EngineAnswer
from omnisift.batch.items import Item, items_of
from omnisift.batch.model_engine import ModelEngine, ModelSettings
from omnisift.batch.results_file import ResultsFile
from omnisift.batch.runner import ItemResult, run
from omnisift.batch.summary import Summary
from omnisift.batch.tasks import Caption, Moderate, QuestionAnswering, Task, make_task

__all__ = [
    "BatchEngine",
    "Caption",
    "Engine",
    "EngineAnswer",
    "Item",
    "ItemResult",
    "ModelEngine",
    "ModelSettings",
    "Moderate",
    "QuestionAnswering",
    "ResultsFile",
    "Summary",
    "Task",
    "items_of",
    "make_task",
    "run",
]
