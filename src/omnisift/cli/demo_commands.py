"""`omnisift demo` and `omnisift make-clip`: generated clips that nano understands."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnisift.cli.options import OUTPUT, Force, Json, parse_fraction
from omnisift.cli.output_paths import check_file
from omnisift.errors import UsageError
from omnisift.utils.quiet import silence_libraries

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from omnisift.pipeline import Answer


def demo(
    seed: Annotated[int | None, typer.Option(help="Which generated clip.", show_default="0, or 7 with --live")] = None,
    retain: Annotated[
        float,
        typer.Option(parser=parse_fraction, metavar="<float>", help="Fraction of video and audio tokens to keep."),
    ] = 0.25,
    out: Annotated[
        Path | None, typer.Option(help="Save the clip here.", show_default="not saved", rich_help_panel=OUTPUT)
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Play a clip of two minutes as a stream, and ask while it runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask nano about a generated clip, without a download.

    Three questions, with all tokens and with a quarter, next to the truth.
    """
    from omnisift.cli.screen import console_for

    silence_libraries()
    if live:
        _demo_live(seed, retain, out, as_json)
        return
    result = run_demo(seed or 0, retain, out, quiet=as_json, console=console_for(stderr=True))
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        show_demo(console_for(stderr=False), result)


def _demo_live(seed: int | None, retain: float, out: Path | None, as_json: bool) -> None:
    from omnisift.cli.live_demo import LIVE_SEED, SECONDS, SPEED, run_live_demo, show_live_end, show_live_row
    from omnisift.cli.screen import console_for

    screen = console_for(stderr=False)

    def begin(caption: str) -> None:
        text = f"A clip of {SECONDS} seconds, played as a stream at {SPEED:g} times its speed ({SECONDS / SPEED:.0f} s)"
        screen.print(f"{text}: {caption}\n", style="dim", soft_wrap=True)

    quiet = {"begin": lambda _: None, "tell": lambda _: None}
    shown = {"begin": begin, "tell": partial(show_live_row, screen)}
    result = run_live_demo(LIVE_SEED if seed is None else seed, retain, out, SPEED, **(quiet if as_json else shown))
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        show_live_end(screen, result)


def make_clip(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The .mp4 file to write.")],
    seed: Annotated[int, typer.Option(help="Which clip; the same seed gives the same clip.")] = 0,
    force: Force = False,
    setting: Annotated[str, typer.Option(help="Setting of the generated world, such as crowd, or wide+dark.")] = "base",
    as_json: Json = False,
) -> None:
    """Generate a clip for nano, and print what it shows."""
    from omnisift.cli.screen import command_name

    made = write_test_clip(path, seed, force, setting)
    if as_json:
        typer.echo(json.dumps(made.to_dict()))
    else:
        typer.echo(f"{path}: {made.caption}")
        typer.echo(f'Try: {command_name()} ask {path} "{made.question}"   (true answer: {made.answer})')


@dataclass(frozen=True)
class DemoRow:
    """One question with its true answer and the three given ones."""

    question: str
    truth: str
    full: Answer
    """From all tokens."""
    cut: Answer
    """From the tokens that the default method keeps."""
    random: Answer
    """From the same number of random tokens."""


@dataclass(frozen=True)
class DemoResult:
    """The clip's caption and the answered questions."""

    caption: str
    retain: float
    rows: list[DemoRow]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rows = [
            {
                "question": row.question,
                "truth": row.truth,
                "full": row.full.to_dict(),
                "cut": row.cut.to_dict(),
                "random": row.random.to_dict(),
            }
            for row in self.rows
        ]
        return {"caption": self.caption, "retain": self.retain, "rows": rows}


def run_demo(seed: int, retain: float, out: Path | None, quiet: bool, console: Console) -> DemoResult:
    """Make a test clip and ask the bundled model three questions about it, with each of three methods.

    Args:
        seed: number of the clip in the test split.
        retain: fraction of the video and of the audio tokens to keep.
        out: where the clip is written; None writes it to a temporary folder.
        quiet: show no progress bar.
        console: where the progress bar is shown.

    Raises:
        UsageError: ``seed`` is negative, or ``out`` exists.
        BudgetError: ``retain`` is outside (0, 1].
    """
    from omnisift.budget import Budget
    from omnisift.cli.screen import StageBar
    from omnisift.pipeline import Pipeline, load
    from omnisift.pipeline.method import compressor_for
    from omnisift.ui.samples import example_questions
    from omnisift.utils.names import AUTO
    from omnisift.world import make_scene

    budget = Budget(retain_video=retain, retain_audio=retain)
    with tempfile.TemporaryDirectory() as folder, StageBar(console, quiet, total=12) as bar:
        clip = out if out is not None else Path(folder) / "clip.mp4"
        made = write_test_clip(clip, seed, force=out is None)
        full = load("nano", compressor=None)
        cut, random = (Pipeline(full.host, compressor_for(full.host, name, budget)) for name in (AUTO, "random"))
        rows = []
        for question in example_questions(make_scene(seed, split="test")):
            bar.stage(f"asking: {question.text}")
            answers = [pipeline.ask(clip, question.text) for pipeline in (full, cut, random)]
            rows.append(DemoRow(question.text, question.answer, *answers))
    return DemoResult(made.caption, retain, rows)


@dataclass(frozen=True)
class MadeClip:
    """A generated clip file, with one question about it and the true answer."""

    path: str
    seed: int
    caption: str
    question: str
    answer: str

    def to_dict(self) -> dict[str, str | int]:
        """JSON-ready."""
        return asdict(self)


def write_test_clip(path: Path, seed: int, force: bool = False, setting: str = "base") -> MadeClip:
    """Generate test clip number ``seed`` of a setting.

    Raises:
        UsageError: The setting is unknown, ``path`` does not end in .mp4, it exists (and ``force`` is off), its folder
            does not, or the seed is negative.
    """
    import numpy as np

    from omnisift.world import caption, make_scene, questions, world_setting, write_clip

    chosen = world_setting(setting)
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, got {seed}")
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"{path} must end in .mp4: clips are written as MP4")
    check_file(path, force)
    scene = make_scene(seed, "test", chosen.config)
    write_clip(scene, path)
    kind = "sound_with" if "sound_with" in chosen.types else chosen.types[0]
    question = questions(scene, np.random.default_rng(seed), types=[kind])[0]
    return MadeClip(str(path), seed, caption(scene), question.text, question.answer)


def show_demo(console: Console, result: DemoResult) -> None:
    """Three questions: the truth, and the answers from all tokens, from a part of them, and from a random part."""
    from rich.table import Table

    from omnisift.cli.screen import command_name

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
        f"video {cut.tokens.video} -> {cut.tokens.video_kept}, audio {cut.tokens.audio} -> {cut.tokens.audio_kept}, "
        f"chosen by {cut.method}."
    )
    console.print(f"Next: {command_name()} make-clip clip.mp4 --seed 3   (it says what is in the clip and what to ask)")


def _marked(answer: str, truth: str) -> Text:
    from rich.text import Text

    from omnisift.evaluation.public.extractors import normalise_answer

    right = normalise_answer(answer) == normalise_answer(truth)
    text = answer or "(nothing)"
    return Text(text if right else f"{text} (wrong)", style="green" if right else "red")
