"""Screen output of `omnisift run`: a bar with rate, time left and failures, then a summary."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from omnisift.batch import Summary
from omnisift.cli.screen import LINE_INTERVAL
from omnisift.pipeline.report import NANO_NOTICE


class RunBar:
    """Progress of a run: a bar on a terminal, a line every half minute elsewhere, nothing if ``quiet``."""

    def __init__(self, console: Console, what: str, total: int, done: int, quiet: bool = False) -> None:
        self._console, self._what, self._total, self._done = console, what, total, done
        self._quiet, self._failed, self._new = quiet, 0, 0
        self._nano_noted = False
        self._begin = self._printed = time.monotonic()
        failures = TextColumn("{task.fields[failures]}", style="red")
        pace = TextColumn("{task.fields[pace]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), pace)
        self._progress = Progress(*columns, failures, console=console, disable=quiet or not console.is_terminal)
        self._task = self._progress.add_task("loading", total=total, completed=done, failures="", pace="")

    def __enter__(self) -> RunBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self) -> None:
        """Start counting: the model is loaded."""
        self._begin = time.monotonic()
        self._progress.update(self._task, description=self._what)

    def tell(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            self._console.print(Text(line))

    def row(self, row: dict[str, Any]) -> None:
        """Count one finished row."""
        self._done, self._new, self._failed = self._done + 1, self._new + 1, self._failed + ("error" in row)
        if not self._nano_noted and NANO_NOTICE in row.get("notices", ()):
            self._nano_noted = True
            self.tell(f"note: {NANO_NOTICE}")
        failures = f"{self._failed} failed" if self._failed else ""
        rate, left = self._pace()
        pace = f"{_rate(rate)}, {timedelta(seconds=round(left))} left"
        self._progress.update(self._task, completed=self._done, failures=failures, pace=pace)
        if not self._console.is_terminal and time.monotonic() - self._printed >= LINE_INTERVAL:
            self._printed = time.monotonic()
            self.tell(self._line())

    def _pace(self) -> tuple[float, float]:
        """Rows per second since the model was loaded, and seconds left."""
        rate = self._new / max(time.monotonic() - self._begin, 1e-6)
        return rate, (self._total - self._done) / rate

    def _line(self) -> str:
        rate, left = self._pace()
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._what}: {self._done} of {self._total}{failed}, {_rate(rate)}, {left / 60:.0f} min left"


def show_run(console: Console, out: Path, missing: int, summary: Summary) -> None:
    """Print totals of the results file, earlier sessions included, and the first failures by name."""

    def tell(text: Text) -> None:
        console.print(text, soft_wrap=True)

    left = f", {missing} still missing" if missing else ""
    tell(Text(f"{out}: {summary.rows} rows, {summary.done} answers, {summary.failed} failed{left}"))
    if summary.tokens:
        share = 100 * summary.tokens_kept / summary.tokens
        each = summary.seconds / summary.rows
        tokens = f"video and audio tokens: {summary.tokens:,}, kept {summary.tokens_kept:,} ({share:.1f} %)"
        tell(Text(f"{tokens}; {each:.2f} s per row"))
    for rule, rows in summary.hits.most_common():
        tell(Text(f"rule {rule}: {rows} hit"))
    if summary.unclear:
        tell(Text(f"{summary.unclear} rows have a rule answered neither yes nor no"))
    for name, message in summary.first_errors.items():
        tell(Text(f"failed: {name}: {message}"))
    if summary.failed > len(summary.first_errors):
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary.errors.most_common())
        tell(Text(f"all failures: {kinds}; --retry-errors retries them"))


def _rate(each_second: float) -> str:
    return f"{each_second:.1f} clips/s" if each_second >= 1 else f"{60 * each_second:.1f} clips/min"
