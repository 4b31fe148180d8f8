"""Screen output of the commands: progress, answers, tables."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from omnisift.utils.stages import STAGES, is_window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omnisift.budget import Budget
    from omnisift.pipeline import Answer, Report
    from omnisift.pipeline.report import Source

LINE_INTERVAL = 30.0
"""Seconds between progress lines where there is no terminal."""


class StageBar:
    """A progress bar over the stages of one question, on a terminal only; it disappears when the work is done."""

    def __init__(self, console: Console, quiet: bool = False, total: int = len(STAGES) + 1):
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task("loading the model", total=total)
        self._seen: set[str] = {"load"}
        self._window = ""

    def __enter__(self) -> StageBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str) -> None:
        """Show the stage that begins, behind the window of a long clip."""
        if is_window(name):
            self._window = f"{name}: "
            return
        self._seen.add(name)
        if name == "prefill":
            self._window = ""
        words = STAGES[name].running if name in STAGES else name
        self._progress.update(self._task, description=self._window + words, completed=len(self._seen) - 1)


class CountBar:
    """Progress over ``total`` pieces of work: a bar on a terminal, a line now and then elsewhere.

    Entering it returns the function to call after each piece.
    """

    def __init__(self, console: Console, title: str, total: int, done: int = 0, quiet: bool = False) -> None:
        self._console, self._title, self._total, self._done = console, title, total, done
        self._prints_lines = not (quiet or console.is_terminal)
        self._printed = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
        self._task = self._progress.add_task(title, total=total, completed=done)

    def __enter__(self) -> Callable[[], None]:
        self._progress.start()
        if self._done < self._total:
            self._print_line()
        return self._step

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _step(self) -> None:
        self._done += 1
        self._progress.update(self._task, completed=self._done)
        if time.monotonic() - self._printed >= LINE_INTERVAL:
            self._print_line()

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        if self._prints_lines:
            self._console.print(f"{self._title}: {self._done} of {self._total}")


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
        from omnisift.pipeline.report import NANO_NOTICE

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


def _rate(each_second: float) -> str:
    return f"{each_second:.1f} clips/s" if each_second >= 1 else f"{60 * each_second:.1f} clips/min"


def console_for(*, stderr: bool) -> Console:
    """The terminal, without colours for numbers."""
    return Console(stderr=stderr, highlight=False)


def command_name() -> str:
    """How to call omnisift in this shell: ``omnisift``, or a path where it is not on ``PATH``."""
    if shutil.which("omnisift"):
        return "omnisift"
    script = Path(sys.executable).with_name("omnisift")
    if not script.is_file():
        return f"{sys.executable} -m omnisift.cli"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def show_answer(console: Console, answer: Answer) -> None:
    """Print the notices, the answer, its tokens and its cost."""
    report = answer.report
    show_notices(console, report.notices)
    console.print(Text(answer.text, style="bold"))
    console.print()
    console.print(_token_table(report))
    console.print()
    console.print(_time_table(report, narrow=console.width < 64))
    show_source(console, report)


def show_reply(console: Console, question: str, answer: Answer) -> None:
    """Print one of several answers, with one line about its cost."""
    console.print(Text(question))
    console.print(Text(answer.text, style="bold"))
    console.print(short_cost(answer.report), style="dim")
    console.print()


def show_notices(console: Console, notices: Sequence[str]) -> None:
    """Print what limits the answers, for example that nano is asked about a real clip."""
    for notice in notices:
        console.print(Text(f"note: {notice}", style="yellow"))


def show_shortfall(console: Console, report: Report, budget: Budget) -> None:
    """Print a note where the kept share is above the requested one by more than a tenth and one percentage point."""
    tokens = report.tokens
    requested = budget.retain
    if budget.tokens is not None:
        return  # met exactly, or refused
    if not tokens.in_clips:
        return  # a sound too short for a token
    if requested is None:
        shares = {"video": budget.retain_video or 0, "audio": budget.retain_audio or 0, "text": budget.retain_text or 1}
        requested = sum(shares[name] * count for name, count, _ in tokens.by_kind) / tokens.in_clips
    if (report.source.has_video or budget.compress_audio) and report.retained_ratio > 1.1 * requested + 0.01:
        text = f"asked to keep {100 * requested:.3g} %, kept {100 * report.retained_ratio:.1f} %"
        console.print(Text(f"note: {text}: each frame and each chunk keeps at least one token", style="yellow"))


def show_source(console: Console, report: Report) -> None:
    """Print model, method and clip, and the peak memory."""
    encoded = ""
    if report.encoded_tokens is not None:
        encoded = f", {report.encoded_tokens:,} of {report.tokens.video:,} video tokens encoded"
    console.print(f"\n{report.model} with {report.method}, retain {report.retain}{encoded}", style="dim", markup=False)
    console.print(describe_source(report.source), style="dim")
    if report.peak_memory_bytes is not None:
        console.print(f"peak memory {report.peak_memory_bytes / 2**20:,.0f} MiB", style="dim")


def describe_source(source: Source) -> str:
    """What was read of the clip: ``6.0 s, 12 frames at 2/s, 112x112, audio 6.0 s`` or ``audio only, 6.0 s``."""
    if not source.has_video:
        return f"audio only, {source.audio_seconds:.1f} s"
    frames = f"{source.seconds:.1f} s, {source.images} frames at {source.fps:.3g}/s, {source.width}x{source.height}"
    return f"{frames}, audio {source.audio_seconds:.1f} s" if source.has_audio else f"{frames}, no audio"


def short_cost(report: Report) -> str:
    """One line: tokens kept, and seconds."""
    tokens = report.tokens
    share = f"{100 * report.retained_ratio:.1f} %"
    held = f", {report.cached_tokens:,} tokens held from an earlier question" if report.cached_tokens else ""
    kept = f"{tokens.in_clips_kept:,} of {tokens.in_clips:,} {tokens.kinds} tokens ({share})"
    return f"{kept}{held}, {report.seconds.total:.2f} s"


def _token_table(report: Report) -> Table:
    tokens = report.tokens
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("tokens", "before", "after", "kept"):
        table.add_column(name, justify="left" if name == "tokens" else "right")
    rows = [
        *tokens.by_kind,
        (" + ".join(name for name, *_ in tokens.by_kind), tokens.in_clips, tokens.in_clips_kept),
        ("prompt", tokens.prompt, tokens.prompt_kept),
    ]
    for name, before, after in rows:
        share = f"{100 * after / before:.1f} %" if before else "-"
        table.add_row(name, f"{before:,}", f"{after:,}", share)
    return table


def _time_table(report: Report, *, narrow: bool) -> Table:
    """One column per stage, or one row per stage where columns would be cut."""
    stages = ("read", "process", "encode", "compress", "prefill", "decode", "total")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("seconds")
    if narrow:
        table.add_column("", justify="right")
        for stage in stages:
            table.add_row(stage, f"{getattr(report.seconds, stage):.3f}")
        return table
    for stage in stages:
        table.add_column(stage, justify="right")
    table.add_row("", *(f"{getattr(report.seconds, stage):.3f}" for stage in stages))
    return table
