"""Screen output of the commands: progress, answers, tables."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from omnisift.budget import Budget
    from omnisift.cli.demo import DemoResult
    from omnisift.cli.doctor import Check
    from omnisift.compressors import Compressor
    from omnisift.pipeline import Answer, Report
    from omnisift.pipeline.report import Source
    from omnisift.training.data.check import Findings
    from omnisift.training.finetune import TrainReport

LINE_INTERVAL = 30.0
"""Seconds between progress lines where there is no terminal."""

_STAGES = {
    "load": "loading the model",
    "read": "reading the clip",
    "process": "preparing the prompt",
    "prefill": "prefilling",
    "encode_video": "encoding the video",
    "encode_audio": "encoding the audio",
    "compress": "compressing",
    "decode": "writing the answer",
}


class StageBar:
    """A progress bar over the stages of one question, on a terminal only; it disappears when the work is done."""

    def __init__(self, console: Console, quiet: bool = False, total: int = len(_STAGES)):
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task(_STAGES["load"], total=total)
        self._seen: set[str] = {"load"}

    def __enter__(self) -> StageBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str) -> None:
        """Show the stage that begins."""
        self._seen.add(name)
        self._progress.update(self._task, description=_STAGES.get(name, name), completed=len(self._seen) - 1)


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


def show_methods(console: Console, methods: Mapping[str, type[Compressor]]) -> None:
    """Print one line for each method, and how to combine them."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("method", "idea", "needs", "source"):
        table.add_column(title)
    for name, method in methods.items():
        needs = "selector weights" if method.trained else "encoder attention" if method.needs else "-"
        table.add_row(name, method.idea, needs, method.source)
    console.print(table)
    console.print(
        "\nOptions follow a colon: evs:mode=frame. A plus pairs a video and an audio method: stvp+random.",
        style="dim",
    )


def show_summary(console: Console, name: str, rows: Mapping[str, float]) -> None:
    """Print the accuracy of every row of a result, best first."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), title=name, title_justify="left")
    table.add_column("row")
    table.add_column("accuracy, %", justify="right")
    for key, accuracy in sorted(rows.items(), key=lambda item: -item[1]):
        table.add_row(key, f"{100 * accuracy:.1f}")
    console.print(table)


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
    total = tokens.video + tokens.audio
    requested = budget.retain
    if requested is None:
        requested = ((budget.retain_video or 0) * tokens.video + (budget.retain_audio or 0) * tokens.audio) / max(
            total, 1
        )
    if report.source.has_video and report.retained_ratio > 1.1 * requested + 0.01:
        text = f"asked to keep {100 * requested:.3g} %, kept {100 * report.retained_ratio:.1f} %"
        console.print(Text(f"note: {text}: each frame and each chunk keeps at least one token", style="yellow"))


def show_source(console: Console, report: Report) -> None:
    """Print model, method and clip, and the peak memory."""
    console.print(f"\n{report.model} with {report.compressor}, retain {report.retain}", style="dim", markup=False)
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
    kept, total = tokens.video_kept + tokens.audio_kept, tokens.video + tokens.audio
    share = f"{100 * report.retained_ratio:.1f} %"
    return f"{kept:,} of {total:,} video and audio tokens ({share}), {report.seconds.total:.2f} s"


def _token_table(report: Report) -> Table:
    tokens = report.tokens
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("tokens", "before", "after", "kept"):
        table.add_column(name, justify="left" if name == "tokens" else "right")
    rows = [
        ("video", tokens.video, tokens.video_kept),
        ("audio", tokens.audio, tokens.audio_kept),
        ("video + audio", tokens.video + tokens.audio, tokens.video_kept + tokens.audio_kept),
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


def show_demo(console: Console, result: DemoResult) -> None:
    """Three questions: the truth, and the answers from all tokens, from a part of them, and from a random part."""
    console.print(f"A clip of 6 seconds that nano has never seen: {result.caption}\n", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    share = f"{100 * result.retain:g} %"
    for name in ("question", "truth", "all tokens", share, f"random {share}"):
        table.add_column(name)
    for row in result.rows:
        answers = [_marked(answer.text, row.truth) for answer in (row.full, row.cut, row.random)]
        table.add_row(row.question, row.truth, *answers)
    console.print(table)
    full, cut = result.rows[0].full.report, result.rows[0].cut.report
    console.print(
        f"\nThe language model read {full.tokens.video + full.tokens.audio} video and audio tokens, then "
        f"{cut.tokens.video_kept + cut.tokens.audio_kept} ({100 * cut.retained_ratio:.1f} %): "
        f"video {cut.tokens.video} -> {cut.tokens.video_kept}, audio {cut.tokens.audio} -> {cut.tokens.audio_kept}."
    )
    console.print(f"Next: {command_name()} make-clip clip.mp4 --seed 3   (it says what is in the clip and what to ask)")


def _marked(answer: str, truth: str) -> Text:
    right = answer.strip().lower().rstrip(".") == truth.lower()
    text = answer or "(nothing)"
    return Text(text if right else f"{text} (wrong)", style="green" if right else "red")


def show_checks(console: Console, checks: list[Check]) -> None:
    """Print one line for each check; installed packages share one."""
    from omnisift.cli.doctor import PACKAGES

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    installed = ", ".join(f"{check.what} {check.found}" for check in checks if check.ok and check.what in PACKAGES)
    for check in checks:
        if check.ok and check.what in PACKAGES:
            continue
        if check.ok:
            mark, found = Text("ok", style="green"), check.found
        else:
            mark = Text("missing" if check.needed else "-", style="yellow")
            found = f"{check.found}; {check.remedy}"
        table.add_row(mark, check.what, Text(found))
        if check.what == "python":
            table.add_row(Text("ok", style="green"), "packages", Text(installed))
    console.print(table)


def show_training(console: Console, report: TrainReport) -> None:
    """Print what a training run did, and how to use its result."""
    table = Table(box=None, show_header=False, pad_edge=False)
    state = "finished" if report.finished else "stopped early"
    table.add_row("steps", f"{report.steps} ({state})")
    table.add_row("loss", f"{report.first_loss:.3f} first, {report.last_loss:.3f} last")
    table.add_row("tokens kept", f"{100 * report.retained_ratio:.1f} % of video and audio")
    table.add_row("samples", f"{report.samples}, {len(report.skipped)} left out")
    table.add_row("seconds", f"{report.seconds:.0f}")
    console.print(table)
    for name, why in list(report.skipped.items())[:5]:
        console.print(Text(f"left out: {name}: {why}"))
    if report.finished:
        console.print(Text(f'{command_name()} ask CLIP "QUESTION" --model {report.model}'))


def show_findings(console: Console, findings: Findings, clean: Path | None) -> None:
    """Print how many clips have which problem, with the first names of each."""
    console.print(f"{findings.samples} samples, {findings.clips} clips")
    for kind, clips in findings.found.items():
        if clips:
            console.print(Text(f"{kind}: {len(clips)}"))
        for name, what in list(clips.items())[:3]:
            console.print(Text(f"  {name}: {what}"))
    usable = f"{len(findings.clean)} of {findings.samples} samples can be used"
    console.print(Text(usable + ("" if clean is None else f"; written to {clean}")))
