"""One run over a folder of clips, in this process or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omnisift.batch.items import Item
from omnisift.batch.model_engine import ModelSettings
from omnisift.batch.results_file import ResultsFile
from omnisift.batch.runner import Row, run
from omnisift.batch.tasks import Task
from omnisift.pipeline.loading import special_tokens
from omnisift.utils.questions import check_question


@dataclass(frozen=True)
class Job:
    """What is asked about which clips, by which model, and where."""

    source: Path
    """The clip, folder or list that the items come from."""
    items: list[Item]
    task: Task
    model: ModelSettings
    ray: str | None = None
    """Address of a Ray cluster, or ``local``; None runs in this process."""
    workers: int = 2
    """Processes on a Ray cluster, one model each."""
    batch_size: int = 1
    """Clips in one batch, with vLLM."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must not change when a run resumes; names of clips are relative to ``root``."""
        root = self.source if self.source.is_dir() else self.source.parent
        constant = {"omnisift": version("omnisift"), "task": self.task.name, "root": str(root.resolve())}
        return constant | self.task.settings | self.model.to_dict()

    def check_questions(self) -> None:
        """Check all questions with the tokenizer of the model, whose weights are not read.

        Raises:
            UsageError: a question contains a special token of the model.
            CheckpointError: the model is not found, or a file of its processor is broken.
        """
        special = special_tokens(self.model.model)
        for item in self.items:
            for question in self.task.questions(item):
                check_question(question, item.id, special)

    def run(
        self,
        results: ResultsFile,
        asking: Callable[[], AbstractContextManager[None]],
        on_row: Callable[[Row], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Do every item that has no row yet.

        Args:
            results: the open results file.
            asking: makes the context in which clips are asked about; it is entered once the model or the cluster is
                ready.
            on_row: called with each row after it was written.
            should_stop: called after each batch or row; True ends the run.

        Raises:
            OmniSiftError: as `ModelSettings.load`, `omnisift.batch.run` and `omnisift.batch.ray_driver.run_on_ray`.
        """
        if self.ray is None:
            engine = self.model.load()
            with asking():
                run(self.items, self.task, engine, results, on_row, should_stop, batch_size=self.batch_size)
            return
        from omnisift.batch.ray_driver import cluster, run_on_ray

        device = self.model.device.partition(":")[0]  # each worker sees only its own GPU
        load, gpus = replace(self.model, device=device).load, float(device == "cuda")
        with cluster(self.ray, self.workers), asking():
            run_on_ray(self.items, self.task, load, results, on_row, should_stop, workers=self.workers, gpus=gpus)
