"""`omnisift watch`: ask about a live stream every few seconds."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from omnisift.cli.options import BUDGET, OUTPUT, SAMPLING, Force, MappedModelOptions, MaxNewTokens, with_records
from omnisift.cli.output_paths import check_file
from omnisift.config import CompressionConfig, TextOptions
from omnisift.errors import NoVideo, UsageError
from omnisift.utils.questions import check_question
from omnisift.utils.quiet import silence_libraries

if TYPE_CHECKING:
    from omnisift.cli.watch_loop import Watch
    from omnisift.media import Line, LiveSource
    from omnisift.pipeline import Pipeline
    from omnisift.streaming import LiveReader, Policy, StreamSession

STREAM = "Stream"
"""Panel of the help screen."""
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)([smh]?)")
_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class StreamReadOptions:
    """How images of a stream are read."""

    fps: float = 2.0
    max_pixels: int | None = None


@dataclass(frozen=True)
class WatchPlan:
    """What is asked of a stream, and how it is read."""

    source: str
    questions: list[str]
    rules: dict[str, str]
    every: float
    stop_after: float
    keep: Policy | None
    speed: float | None
    allow_address: bool
    read_timeout: float
    audio: bool
    all_answers: bool
    max_new_tokens: int
    reading: StreamReadOptions
    text: TextOptions


Source = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="A file, a named pipe, - for standard input, camera:0, or an address."),
]
Ask = Annotated[list[str] | None, typer.Option("--ask", metavar="QUESTION", help="Asked each time; may be repeated.")]
Every = Annotated[str, typer.Option(help="Time of the stream between two times, such as 10s or 1m.")]
Rules = Annotated[
    Path | None, typer.Option(help="A file with `name: yes-or-no question` on each line, as for `omnisift run`.")
]
AllAnswers = Annotated[
    bool, typer.Option("--all", help="With --rules: print each answer, and not only when a rule begins or ends.")
]
Keep = Annotated[
    str | None,
    typer.Option(
        help="What stays of the past: window:SECONDS, memory:WINDOW,TOKENS,SPAN, budgets:60,300=0.1, or all.",
        show_default="memory:60,2000,60",
        rich_help_panel=BUDGET,
    ),
]
Speed = Annotated[
    str, typer.Option(help="Of what is not live: real, fast (without waiting), or a factor.", rich_help_panel=STREAM)
]
Audio = Annotated[bool, typer.Option("--audio/--no-audio", help="Read the sound too.", rich_help_panel=SAMPLING)]
StopAfter = Annotated[
    str | None,
    typer.Option(help="Time of the stream after which to end.", show_default="its end", rich_help_panel=STREAM),
]
AllowAddress = Annotated[
    bool,
    typer.Option(
        "--allow-address", help="Allow http, https, rtsp, tcp and udp addresses as SOURCE.", rich_help_panel=STREAM
    ),
]
ReadTimeout = Annotated[
    float, typer.Option(help="Seconds for which a live source may send nothing.", rich_help_panel=STREAM)
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write the JSON lines to this file too.", rich_help_panel=OUTPUT)
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON lines on a terminal too, and nothing else.", rich_help_panel=OUTPUT)
]


@with_records
def watch(
    source: Source,
    *,
    ask: Ask = None,
    every: Every = "10s",
    rules: Rules = None,
    all_answers: AllAnswers = False,
    host: MappedModelOptions,
    method: CompressionConfig,
    keep: Keep = None,
    reading: StreamReadOptions,
    text_options: TextOptions,
    audio: Audio = True,
    speed: Speed = "fast",
    stop_after: StopAfter = None,
    allow_address: AllowAddress = False,
    read_timeout: ReadTimeout = 30.0,
    max_new_tokens: MaxNewTokens = 256,
    out: Out = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Ask about a live stream, again and again while it runs.

    Each answer is one JSON line, or a line of text on a terminal; the last one
    is a summary. Ctrl-C ends. Memory does not grow with the stream.
    """
    from omnisift.batch.tasks import read_rules
    from omnisift.streaming.policies import policy_from_text

    plan = WatchPlan(
        source=source,
        questions=_questions(ask),
        rules={} if rules is None else read_rules(rules),
        every=parse_duration("--every", every),
        stop_after=math.inf if stop_after is None else parse_duration("--stop-after", stop_after),
        keep=None if keep is None else policy_from_text(keep),
        speed=parse_speed(speed),
        allow_address=allow_address,
        read_timeout=read_timeout,
        audio=audio,
        all_answers=all_answers,
        max_new_tokens=max_new_tokens,
        reading=reading,
        text=text_options,
    )
    _check(plan, method)
    if out is not None:
        check_file(out, force, reads=(source, rules, _beside(plan)))
    code = _execute(plan, host, method, out, as_json=as_json or not _is_terminal())
    if code:
        raise typer.Exit(code)


def parse_duration(name: str, text: str) -> float:
    """Seconds of ``10``, ``10s``, ``1.5m`` or ``2h``.

    Raises:
        UsageError: it is none, or 0.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match is not None else 0.0
    if not 0 < seconds < math.inf:
        raise UsageError(f"{name} is a time such as 10s, 5m or 1h, got {text!r:.80}")
    return seconds


def parse_speed(text: str) -> float | None:
    """Seconds of stream in one second: ``real`` is 1, ``fast`` None.

    Raises:
        UsageError: it is neither one of them nor a number above 0.
    """
    if text == "fast":
        return None
    try:
        speed = 1.0 if text == "real" else float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise UsageError(f"--speed is real, fast, or a factor above 0, got {text!r:.80}")
    return speed


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _questions(given: list[str] | None) -> list[str]:
    questions = list(given or [])
    for question in questions:
        check_question(question)
    return questions


def _check(plan: WatchPlan, method: CompressionConfig) -> None:
    """Check what can be checked before a model is loaded."""
    from omnisift.media.live import check_stream_source, is_stored

    if not (plan.questions or plan.rules):
        raise UsageError("nothing is asked; give --ask QUESTION or --rules FILE")
    if plan.all_answers and not plan.rules:
        raise UsageError("--all needs --rules FILE; answers to --ask are always printed")
    if plan.source.startswith("microphone:"):
        raise UsageError("a stream needs images, and a microphone has none; pipe camera and sound together")
    plan.text.check_text()
    if plan.text.text is not None and not is_stored(plan.source):
        raise UsageError("--text reads the subtitles of a file, and the source is none: leave --text out")
    method.check()
    check_stream_source(plan.source, allow_addresses=plan.allow_address)


def _execute(
    plan: WatchPlan, host: MappedModelOptions, method: CompressionConfig, out: Path | None, as_json: bool
) -> int:
    """Load the model, watch, and tell; returns the exit code."""
    from omnisift.cli.screen import console_for
    from omnisift.cli.watch_loop import Watch
    from omnisift.cli.watch_screen import StreamBar, show_event, show_summary
    from omnisift.pipeline import load
    from omnisift.pipeline.prompt import check_prompt

    progress, screen = console_for(stderr=True), console_for(stderr=False)
    silence_libraries()
    with ExitStack() as stack:
        bar = stack.enter_context(StreamBar(progress, quiet=as_json))
        copy = None if out is None else stack.enter_context(out.open("w", encoding="utf-8"))
        pipeline = load(host.model, **method.compression, **host.placement, retain_text=plan.text.retain_text)
        for question in (*plan.questions, *plan.rules.values()):
            check_prompt(pipeline.host.processor, question)
        lines, unusual = _lines(plan, pipeline)
        source, session, reader = stack.enter_context(_opened(plan, pipeline))

        def tell(event: dict[str, Any], show: Callable[..., None] = show_event) -> None:
            line = json.dumps(event)
            if copy is not None:
                _append(copy, line)
            if as_json:
                typer.echo(line)
            else:
                show(screen, event)

        watching = Watch(
            session,
            reader,
            questions=plan.questions,
            rules=plan.rules,
            every=plan.every,
            stop_after=plan.stop_after,
            all_answers=plan.all_answers,
            max_new_tokens=plan.max_new_tokens,
            tell=tell,
            progress=bar.update,
            lines=lines,
        )
        code, stopped, failure = _run(watching)
        if isinstance(failure, BrokenPipeError):
            raise failure  # nobody reads a summary
        summary = _summary(watching, pipeline, source, stopped)
        summary["notices"] += unusual
        tell(summary, show_summary)
        if failure is not None:
            raise failure
        return code


def _run(watching: Watch) -> tuple[int, str, Exception | None]:
    """Watch; returns the exit code, why it ended, and what failed, so that a summary is printed in each case."""
    try:
        watching.run()
    except KeyboardInterrupt:
        return _INTERRUPTED, "interrupted", None
    except SystemExit as stop:  # SIGTERM, SIGHUP
        return int(stop.code or 0), "interrupted", None
    except Exception as error:
        return 0, "error", error
    return 0, "end", None


def _beside(plan: WatchPlan) -> Path | None:
    """The file of subtitles that is read; None without one."""
    from omnisift.media.source import check_source
    from omnisift.media.subtitles import find_beside
    from omnisift.media.work import WorkBudget

    return None if plan.text.text is None else find_beside(check_source(plan.source), WorkBudget(seconds=60.0))[0]


def _lines(plan: WatchPlan, pipeline: Pipeline) -> tuple[Sequence[Line], Sequence[str]]:
    """The subtitles of the file, checked before the stream begins, and what was unusual about them."""
    from omnisift.media import read_lines
    from omnisift.media.live_file import LONGEST
    from omnisift.utils.questions import check_text
    from omnisift.utils.special_tokens import SpecialTokens

    if plan.text.text is None:
        return (), ()
    lines, unusual = read_lines(plan.source, seconds=LONGEST)
    special = SpecialTokens.of(pipeline.host.processor.tokenizer)
    for line in lines:
        check_text(line.text, f"{plan.source}: the subtitle at {line.start:.1f} s", special)
    return lines, unusual


@contextmanager
def _opened(plan: WatchPlan, pipeline: Pipeline) -> Iterator[tuple[LiveSource, StreamSession, LiveReader]]:
    """Open the source at the sizes of the model, a session, and a reader."""
    from omnisift.media import open_stream
    from omnisift.pipeline.clip_format import frame_factor, frame_limits, hears
    from omnisift.streaming import LiveReader, PeakMeter

    processor, reading = pipeline.host.processor, plan.reading
    lowest, highest = frame_limits(processor, reading.max_pixels)
    wants_audio = plan.audio and hears(processor)
    meter = PeakMeter(processor)
    opened = open_stream(
        plan.source,
        fps=reading.fps,
        speed=plan.speed,
        audio=wants_audio,
        min_pixels=lowest,
        max_pixels=highest,
        factor=frame_factor(processor),
        allow_addresses=plan.allow_address,
        read_timeout=plan.read_timeout,
        on_samples=meter.add,
    )
    with opened as source:
        if not source.has_video:
            raise NoVideo(f"{source.name}: has no video, and a stream needs images; ask about it with `omnisift ask`")
        options: dict[str, Any] = {"fps": reading.fps, "max_pixels": reading.max_pixels, "audio": source.has_audio}
        with (
            pipeline.stream(keep=plan.keep, **options, peak=meter.peak()) as session,
            LiveReader(source) as reader,
        ):
            yield source, session, reader


def _summary(watching: Watch, pipeline: Pipeline, source: LiveSource, stopped: str) -> dict[str, Any]:
    from omnisift.pipeline.report import NANO_NOTICE

    compressor, session = watching.session.compressor, watching.session
    is_foreign = pipeline.host.is_nano and not source.tags.get("comment", "").startswith("omnisift world")
    warnings = [
        {"kind": one.kind, "text": one.text, "time": round(one.time, 3), "count": one.count} for one in source.warnings
    ]
    return {
        **watching.summary(),
        "source": source.name,
        "stopped": stopped,
        "model": pipeline.host.name,
        "compressor": "full" if compressor is None else compressor.label,
        "keep": repr(session.policy),
        "notices": [*([NANO_NOTICE] if is_foreign else []), *watching.reader.notices],
        "warnings": warnings,
    }


def _append(lines: IO[str], line: str) -> None:
    """Write a line so that others can read it while the stream runs."""
    lines.write(line + "\n")
    lines.flush()
