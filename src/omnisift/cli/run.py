"""The work behind `omnisift run`: open the results, load a model only if rows are missing, run here or on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.batch import Item, ModelSettings, ResultsFile, Summary, Task, run
from omnisift.cli.run_screen import RunBar
from omnisift.cli.signal_guard import SignalGuard
from omnisift.cli.silence import silence_libraries

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Run:
    """What the command line says."""

    source: Path
    items: list[Item]
    task: Task
    model: ModelSettings
    out: Path
    retry_errors: bool
    ray: str | None
    """Address of a cluster, or ``local``."""
    workers: int
    batch_size: int
    """Clips in progress at once."""

    @property
    def settings(self) -> dict[str, Any]:
        """What must stay the same while the run goes on: names of clips start at ``root``."""
        from omnisift import __version__

        root = self.source if self.source.is_dir() else self.source.parent
        fixed = {"omnisift": __version__, "task": self.task.name, "root": str(root.resolve())}
        return fixed | self.task.settings | self.model.to_dict()

    def go(self, console: Console, quiet: bool) -> tuple[Summary, int, int]:
        """(totals of the results, rows still missing, exit code): 0, or 130 and 143 where a signal stopped it."""

        def tell(line: str) -> None:
            if not quiet:
                console.print(line, style="dim", soft_wrap=True, markup=False)

        stopping = SignalGuard(quiet)
        with stopping.watching(), ResultsFile(self.out, self.settings, self.retry_errors) as results:
            missing, total = len(results.missing(self.items)), len(self.items)
            if missing < total:
                tell(f"{total - missing} of {total} rows are in {self.out}")
            if missing:
                with RunBar(console, self.task.name, total, total - missing, quiet) as bar:
                    self._do(results, bar, stopping)
            missing = len(results.missing(self.items))
            if stopping():
                tell(f"stopped; {missing} rows are missing: rerun the same command to resume")
            return results.summary, missing, stopping.code if stopping() else 0

    def _do(self, results: ResultsFile, bar: RunBar, stopping: SignalGuard) -> None:
        if self.ray is None:
            silence_libraries()
            engine = self.model.load()
            bar.begin()
            with stopping.gently():
                run(self.items, self.task, engine, results, bar.row, stopping, batch_size=self.batch_size)
            return
        from omnisift.batch.ray_driver import cluster, run_on_ray

        device = self.model.device.partition(":")[0]  # each worker sees its own GPU alone
        load, gpus = replace(self.model, device=device).load, float(device == "cuda")
        with cluster(self.ray, self.workers), stopping.gently():
            bar.begin()
            run_on_ray(self.items, self.task, load, results, bar.row, stopping, workers=self.workers, gpus=gpus)
