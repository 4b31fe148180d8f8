"""`omnisift demo --live`: a generated clip is played as a stream, and nano is asked while it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.cli.output_paths import check_file
from omnisift.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.pipeline import Pipeline
    from omnisift.world import Question, Scene

LIVE_SEED = 7
"""The first scene of the test split with its events spread over the clip."""
SECONDS = 120
SPEED = 4.0
"""Seconds of the stream in one second."""
_WINDOW, _TOKENS, _SPAN = 6.0, 48, 2.0
"""What nano, which was trained on clips of 6 s, holds of a stream: see `omnisift.MemoryBank`."""


@dataclass(frozen=True)
class LiveRow:
    """A question that was asked while the stream ran."""

    time: float
    """Seconds of the stream that the answer knows."""
    question: str
    truth: str
    answer: str
    age: float
    """Seconds since the event of the question was over."""
    held_tokens: int
    first_token_seconds: float
    behind_seconds: float


@dataclass(frozen=True)
class LiveDemo:
    """The answers, and what the clip shows."""

    caption: str
    seconds: float
    speed: float
    retain: float
    rows: list[LiveRow]
    dropped_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def run_live_demo(
    seed: int,
    retain: float,
    out: Path | None,
    speed: float | None,
    begin: Callable[[str], object],
    tell: Callable[[LiveRow], object],
) -> LiveDemo:
    """Make a clip of two minutes, play it as a stream, and ask three questions while it runs.

    Args:
        seed: number of the clip in the test split.
        retain: fraction of the video and of the audio tokens to keep.
        out: where the clip is written; None writes it to a temporary folder.
        speed: seconds of the stream in one second; None reads without waiting.
        begin: called with the clip's caption before it is played.
        tell: called with each answer.

    Raises:
        UsageError: ``seed`` is negative, or ``out`` does not end in .mp4 or exists.
        BudgetError: ``retain`` is outside (0, 1].
    """
    from omnisift.pipeline import load
    from omnisift.world import SceneConfig, caption, make_scene, write_clip

    if out is not None:
        if out.suffix.lower() != ".mp4":
            raise UsageError(f"{out} must end in .mp4: clips are written as MP4")
        check_file(out, force=False)
    scene = make_scene(seed, "test", SceneConfig(seconds=SECONDS, shapes=(4, 4), distractors=(0, 0)))
    pipeline = load("nano", retain_video=retain, retain_audio=retain)
    with tempfile.TemporaryDirectory() as folder:
        clip = out if out is not None else Path(folder) / "clip.mp4"
        write_clip(scene, clip)
        begin(caption(scene))
        rows, dropped = _play(pipeline, clip, speed, planned_questions(scene), tell)
    return LiveDemo(caption(scene), float(SECONDS), speed or 0.0, retain, rows, dropped)


def planned_questions(scene: Scene) -> list[tuple[float, Question, float]]:
    """Three questions: when each is asked, and when its event was over.

    One about the first shape and one about the sound of the second, shortly after they were there; and another one
    about the first shape at the end.
    """
    first, second = scene.shapes[0].end, scene.shapes[1].end
    plan = (
        (first + 2.0, "color_of_shape", 0),
        (second + 2.0, "sound_with", 1),
        (scene.config.seconds - 2.0, "shape_of_color", 0),
    )
    return [(time, _question(scene, kind, shape), float(scene.shapes[shape].end)) for time, kind, shape in plan]


def _question(scene: Scene, kind: str, shape: int) -> Question:
    """A question of a type about one shape of the scene."""
    import numpy as np

    from omnisift.world import make_question

    rng = np.random.default_rng(scene.seed)
    while True:
        question = make_question(scene, kind, rng)
        if question.shapes == (shape,):
            return question


def _play(
    pipeline: Pipeline,
    clip: Path,
    speed: float | None,
    plan: list[tuple[float, Question, float]],
    tell: Callable[[LiveRow], object],
) -> tuple[list[LiveRow], float]:
    """Play a clip and ask; returns the answers, and seconds that were left out."""
    from omnisift.media import open_stream
    from omnisift.pipeline.clip_format import frame_factor, frame_limits
    from omnisift.streaming import LiveReader, MemoryBank, PeakMeter

    processor, meter = pipeline.host.processor, PeakMeter(pipeline.host.processor)
    lowest, highest = frame_limits(processor, None)
    sizes: dict[str, Any] = {"min_pixels": lowest, "max_pixels": highest, "factor": frame_factor(processor)}
    rows: list[LiveRow] = []
    with ExitStack() as stack:
        source = stack.enter_context(open_stream(clip, speed=speed, on_samples=meter.add, **sizes))
        keep = MemoryBank(window=_WINDOW, tokens=_TOKENS, span=_SPAN)
        session = stack.enter_context(pipeline.stream(keep=keep, peak=meter.peak()))
        reader = stack.enter_context(LiveReader(source))
        for piece in reader:
            while len(rows) < len(plan) and piece.time >= plan[len(rows)][0]:
                _, question, over = plan[len(rows)]
                answer = session.ask(question.text)
                row = LiveRow(
                    time=answer.time,
                    question=question.text,
                    truth=question.answer,
                    answer=answer.text,
                    age=answer.time - over,
                    held_tokens=answer.report.held_tokens,
                    first_token_seconds=answer.first_token_seconds,
                    behind_seconds=reader.behind_seconds,
                )
                rows.append(row)
                tell(row)
            session.feed(piece)
        return rows, reader.dropped_seconds


def show_live_row(console: Console, row: LiveRow) -> None:
    """Print a question with its answer, the truth, and what the answer cost."""
    from rich.text import Text

    from omnisift.cli.watch_screen import clock
    from omnisift.evaluation.public.extractors import normalise_answer

    right = normalise_answer(row.answer) == normalise_answer(row.truth)
    line = Text(f"{clock(row.time)}  {row.question}  ")
    line.append(row.answer or "(nothing)", style="bold green" if right else "bold red")
    line.append(
        f"  (truth: {row.truth}, {row.age:.0f} s ago; {row.held_tokens} tokens held, first token after "
        f"{row.first_token_seconds:.2f} s)",
        style="dim",
    )
    console.print(line, soft_wrap=True)


def show_live_end(console: Console, result: LiveDemo) -> None:
    """Print what happened to the stream, and what to try next."""
    from omnisift.cli.screen import command_name

    left_out = ", and nothing was left out" if not result.dropped_seconds else ""
    console.print(
        f"\nThe stream had {result.seconds:g} s{left_out}; nano holds its last {_WINDOW:g} s and {_TOKENS} tokens"
    )
    if result.dropped_seconds:
        console.print(f"note: this machine was too slow: {result.dropped_seconds:g} s were left out", style="yellow")
    console.print(
        f'Next: {command_name()} watch CLIP --ask "What colour is the circle?" --every 10s --speed real', soft_wrap=True
    )
