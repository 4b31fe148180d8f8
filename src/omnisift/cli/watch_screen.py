"""Screen output of `omnisift watch`: one line for each answer, and where the stream is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.text import Text

from omnisift.cli.screen import LINE_INTERVAL

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.cli.watch_loop import Watch

_INTERVAL = 0.2
"""Seconds between two updates of the line."""


class StreamBar:
    """Where the stream is: a line on a terminal, a line every half minute elsewhere, nothing if ``quiet``."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._printed = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self._task = self._progress.add_task("loading the model")

    def __enter__(self) -> StreamBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, watch: Watch) -> None:
        """Show the time of the stream."""
        now = time.monotonic()
        interval = _INTERVAL if self._console.is_terminal else LINE_INTERVAL
        if self._quiet or now - self._printed < interval:
            return
        self._printed = now
        line = f"{clock(watch.time)}, {watch.answers} answers{_behind(vars_of(watch))}"
        if self._console.is_terminal:
            self._progress.update(self._task, description=line)
        else:
            self._console.print(Text(line))


def vars_of(watch: Watch) -> dict[str, Any]:
    """What a line says about the reader."""
    return {"behind_seconds": watch.reader.behind_seconds, "dropped_seconds": watch.reader.dropped_seconds}


def show_event(console: Console, event: dict[str, Any]) -> None:
    """Print an answer, or that a rule begins or ceases to hold."""
    line = Text(f"{clock(event['time'])}  ", style="dim")
    if event["event"] == "answer":
        line.append(f"{event.get('question') or event['rule']}  ", style="not dim")
        line.append(event["answer"] or "(nothing)", style="bold not dim")
    else:
        style = "bold red not dim" if event["event"] == "begin" else "not dim"
        line.append(f"{event['rule']} {'begins' if event['event'] == 'begin' else 'ends'}", style=style)
    line.append(f"  {event['held_tokens']:,} tokens held, {event['first_token_seconds']:.2f} s{_behind(event)}")
    console.print(line, soft_wrap=True)


def show_summary(console: Console, summary: dict[str, Any]) -> None:
    """Print the totals."""
    lines = [
        f"{clock(summary['seconds'])} of the stream, {summary['answers']} answers; {summary['held_tokens']:,} tokens "
        f"of {summary['held_seconds']:g} s held ({summary['cache_bytes'] / 2**20:.1f} MiB)"
    ]
    if summary["lines"]:
        lines[0] += f", {summary['text_tokens']:,} of them of {summary['lines']:,} lines of text"
    for rule, state in summary["rules"].items():
        spans = ", ".join(
            f"{clock(begin)} to {'the end' if end is None else clock(end)}" for begin, end in state["held"]
        )
        unclear = f"; {state['unclear']} answers were neither yes nor no" if state["unclear"] else ""
        lines.append(f"rule {rule}: {spans or 'no hit'}{unclear}")
    lines += [f"note: {notice}" for notice in summary["notices"]]
    for warning in summary["warnings"]:
        times = f" ({warning['count']} times)" if warning["count"] > 1 else ""
        lines.append(f"note: at {clock(warning['time'])}: {warning['text']}{times}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours where there are any: ``01:05.2``."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes:02d}:{rest:04.1f}"


def _behind(values: dict[str, Any]) -> str:
    """How far the model is behind, if it is."""
    behind, dropped = values["behind_seconds"], values["dropped_seconds"]
    text = f", {behind:.1f} s behind" if behind >= 1 else ""
    return text + (f", {dropped:g} s left out" if dropped else "")
