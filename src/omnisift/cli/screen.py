"""What a person sees: the answer, the table of its cost, the demo, the doctor's findings."""

from __future__ import annotations

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
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from omnisift.cli.demo import DemoResult
    from omnisift.cli.doctor import Check
    from omnisift.compressors import Compressor
    from omnisift.pipeline import Answer, Report
    from omnisift.training.data.check import Findings
    from omnisift.training.finetune import TrainReport

_STAGES = {
    "load": "loading the model",
    "read": "reading the clip",
    "process": "preparing the prompt",
    "prefill": "reading the prompt",
    "encode_video": "looking at the pictures",
    "encode_audio": "listening to the sound",
    "compress": "compressing",
    "decode": "writing the answer",
}


class StageBar:
    """A progress bar over the stages of one question; shown only on a terminal, gone when the work is done."""

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
        """Name the stage that begins."""
        self._seen.add(name)
        self._progress.update(self._task, description=_STAGES.get(name, name), completed=len(self._seen) - 1)


class CountBar:
    """A bar over so many pieces of work on a terminal, a line now and then elsewhere. Entered, it gives the step."""

    def __init__(self, console: Console, what: str, total: int, done: int = 0) -> None:
        self._console, self._what, self._total, self._done = console, what, total, done
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(what, total=total, completed=done)

    def __enter__(self) -> Callable[[], None]:
        self._progress.start()
        return self._step

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _step(self) -> None:
        self._done += 1
        self._progress.update(self._task, completed=self._done)
        if not self._console.is_terminal and (self._done == self._total or self._done % (1 + self._total // 20) == 0):
            self._console.print(f"{self._what}: {self._done} of {self._total}")


def console_for(*, stderr: bool) -> Console:
    """The terminal, without colours for numbers."""
    return Console(stderr=stderr, highlight=False)


def show_methods(console: Console, methods: Mapping[str, type[Compressor]]) -> None:
    """One line for each method, and how to combine them."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("method", "idea", "needs", "source"):
        table.add_column(title)
    for name, method in methods.items():
        needs = "selector weights" if method.trained else "encoder attention" if method.needs else "-"
        table.add_row(name, method.idea, needs, method.source)
    console.print(table)
    console.print(
        "\nOptions follow a colon: evs:mode=frame. A plus pairs picture and sound: stvp+random, random+omnisift.",
        style="dim",
    )


def show_summary(console: Console, name: str, rows: Mapping[str, float]) -> None:
    """Accuracy of every row of a result, the best first."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), title=name, title_justify="left")
    table.add_column("row")
    table.add_column("accuracy, %", justify="right")
    for key, accuracy in sorted(rows.items(), key=lambda item: -item[1]):
        table.add_row(key, f"{100 * accuracy:.1f}")
    console.print(table)


def show_answer(console: Console, answer: Answer) -> None:
    """The answer, then its cost."""
    console.print(Text(answer.text, style="bold"))
    console.print()
    console.print(_token_table(answer.report))
    console.print(_cost_line(answer.report), style="dim")
    for notice in answer.report.notices:
        console.print(Text(f"note: {notice}", style="yellow"))


def _token_table(report: Report) -> Table:
    tokens = report.tokens
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("tokens", "before", "after", "kept"):
        table.add_column(name, justify="left" if name == "tokens" else "right")
    rows = [
        ("video", tokens.video, tokens.video_kept),
        ("audio", tokens.audio, tokens.audio_kept),
        ("video + audio", tokens.video + tokens.audio, tokens.video_kept + tokens.audio_kept),
        ("whole prompt", tokens.prompt, tokens.prompt_kept),
    ]
    for name, before, after in rows:
        share = f"{100 * after / before:.1f} %" if before else "-"
        table.add_row(name, f"{before:,}", f"{after:,}", share)
    return table


def _cost_line(report: Report) -> str:
    seconds = report.seconds
    stages = [
        ("read", seconds.read),
        ("process", seconds.process),
        ("encode", seconds.encode),
        ("compress", seconds.compress),
        ("prefill", seconds.prefill),
        ("decode", seconds.decode),
    ]
    timed = " · ".join(f"{name} {value:.3f}" for name, value in stages)
    memory = "" if report.peak_memory_bytes is None else f" · peak memory {report.peak_memory_bytes / 2**20:,.0f} MiB"
    source = report.source
    seen = (
        f"{source.seconds:.1f} s clip, {source.images} pictures at {source.fps:.3g}/s, {source.width}x{source.height}"
    )
    return (
        f"\n{report.model} with {report.compressor} (asked to keep {report.retain}): {seen}, "
        f"sound {source.audio_seconds:.1f} s\nseconds: {timed} · total {seconds.total:.3f}{memory}"
    )


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
    console.print("Next: omnisift make-clip clip.mp4 --seed 3   (it says what is in the clip and what to ask)")


def _marked(answer: str, truth: str) -> Text:
    right = answer.strip().lower().rstrip(".") == truth.lower()
    text = answer or "(nothing)"
    return Text(text if right else f"{text} (wrong)", style="green" if right else "red")


def show_checks(console: Console, checks: list[Check]) -> None:
    """One line for each finding."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("", "what", "found", "what to do"):
        table.add_column(name)
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("missing" if check.needed else "-", style="yellow")
        table.add_row(mark, check.what, check.found, check.remedy)
    console.print(table)


def show_training(console: Console, report: TrainReport) -> None:
    """What a run of training did, and what to do with its result."""
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
        console.print(Text(f'omnisift ask CLIP "QUESTION" --model {report.model}'))


def show_findings(console: Console, findings: Findings, clean: Path | None) -> None:
    """How many clips have which problem, with the first names of each."""
    console.print(f"{findings.samples} samples, {findings.clips} clips")
    for kind, clips in findings.found.items():
        if clips:
            console.print(Text(f"{kind}: {len(clips)}"))
        for name, what in list(clips.items())[:3]:
            console.print(Text(f"  {name}: {what}"))
    usable = f"{len(findings.clean)} of {findings.samples} samples can be used"
    console.print(Text(usable + ("" if clean is None else f"; written to {clean}")))
