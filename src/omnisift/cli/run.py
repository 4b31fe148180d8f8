"""The work of `omnisift run`: open the results file, then load the model only if rows are missing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.batch import Item, ModelSettings, ResultsFile, Summary, Task, run
from omnisift.cli.run_screen import RunBar
from omnisift.cli.signal_guard import SignalGuard
from omnisift.utils.quiet import silence_libraries

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Run:
    """Arguments of one run."""

    source: Path
    items: list[Item]
    task: Task
    model: ModelSettings
    out: Path
    retry_errors: bool
    ray: str | None
    """Address of a Ray cluster, or ``local``; None runs in this process."""
    workers: int
    batch_size: int
    """Clips in one batch."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must not change when a run resumes; names of clips are relative to ``root``."""
        from omnisift import __version__

        root = self.source if self.source.is_dir() else self.source.parent
        constant = {"omnisift": __version__, "task": self.task.name, "root": str(root.resolve())}
        return constant | self.task.settings | self.model.to_dict()

    def execute(self, console: Console, quiet: bool) -> tuple[Summary, int, int]:
        """Run; returns (summary, rows still missing, exit code: 0, or 130 and 143 after a signal)."""

        def tell(line: str) -> None:
            if not quiet:
                console.print(line, style="dim", soft_wrap=True, markup=False)

        guard = SignalGuard(quiet)
        with guard.watching(), ResultsFile(self.out, self.settings, self.retry_errors) as results:
            missing, total = len(results.missing(self.items)), len(self.items)
            if missing < total:
                tell(f"{total - missing} of {total} rows are already in {self.out}")
            if missing:
                with RunBar(console, self.task.name, total, total - missing, quiet) as bar:
                    self._do(results, bar, guard)
            missing = len(results.missing(self.items))
            if guard():
                tell(f"stopped with {missing} rows missing; run the same command to resume")
            return results.summary, missing, guard.code if guard() else 0

    def _do(self, results: ResultsFile, bar: RunBar, guard: SignalGuard) -> None:
        if self.ray is None:
            silence_libraries()
            engine = self.model.load()
            bar.begin()
            with guard.finishing_clip():
                run(self.items, self.task, engine, results, bar.row, guard, batch_size=self.batch_size)
            return
        from omnisift.batch.ray_driver import cluster, run_on_ray

        device = self.model.device.partition(":")[0]  # each worker sees only its own GPU
        load, gpus = replace(self.model, device=device).load, float(device == "cuda")
        with cluster(self.ray, self.workers), guard.finishing_clip():
            bar.begin()
            run_on_ray(self.items, self.task, load, results, bar.row, guard, workers=self.workers, gpus=gpus)
