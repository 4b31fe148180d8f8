"""The commands and their options. Heavy imports wait inside the commands, so ``--help`` is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from omnisift.cli.bench_commands import bench_quality, bench_report, methods
from omnisift.cli.distill_commands import distill
from omnisift.cli.eval_commands import app as eval_app
from omnisift.cli.eval_commands import tasks_path
from omnisift.cli.export_commands import export
from omnisift.cli.inspect_commands import inspect
from omnisift.cli.options import (
    Attn,
    Compressor,
    Device,
    DType,
    Fps,
    Json,
    MaxFrames,
    MaxNewTokens,
    MaxPixels,
    Model,
    Retain,
    RetainAudio,
    RetainVideo,
    SamplingRule,
    Seed,
    Selector,
)
from omnisift.cli.plugin_commands import plugin_path
from omnisift.cli.profile_commands import profile
from omnisift.cli.run_commands import run
from omnisift.cli.serve_commands import serve
from omnisift.cli.silence import silence_libraries
from omnisift.cli.train_commands import convert, data_check, make_dataset, train
from omnisift.cli.ui_commands import ui
from omnisift.errors import OmniSiftError

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.media.reading import Sampling

app = typer.Typer(
    name="omnisift",
    help="Run audio-video language models at a quarter of their tokens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# Typer brings its own copy of click or uses the installed one, by version: its public errors tell which.
_BAD_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        from omnisift import __version__

        typer.echo(f"omnisift {__version__}")
        raise typer.Exit


@app.command()
def ask(
    clip: Annotated[str, typer.Argument(help="A media file with picture, sound or both.")],
    question: Annotated[str, typer.Argument(help="What you want to know about it.")],
    model: Model = "nano",
    compressor: Compressor = "omnisift",
    retain: Retain = None,
    retain_video: RetainVideo = None,
    retain_audio: RetainAudio = None,
    selector: Selector = None,
    device: Device = "cpu",
    dtype: DType = None,
    attn: Attn = None,
    fps: Fps = 2.0,
    max_frames: MaxFrames = 256,
    max_pixels: MaxPixels = None,
    sampling: SamplingRule = "time",
    max_new_tokens: MaxNewTokens = 256,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Answer a question about a clip, with a report of what was kept and what it cost."""
    from omnisift.cli.screen import StageBar, show_answer

    console = _console(stderr=True)
    with StageBar(console, quiet=as_json) as bar:
        from omnisift.pipeline import load

        silence_libraries()
        pipeline = load(
            model,
            compressor=None if compressor == "none" else compressor,
            retain=retain,
            retain_video=retain_video,
            retain_audio=retain_audio,
            selector=selector,
            seed=seed,
            device=device,
            dtype=dtype,
            attn_implementation=attn,
        )
        answer = pipeline.ask(
            clip,
            question,
            fps=fps,
            max_frames=max_frames,
            max_pixels=max_pixels,
            sampling=cast("Sampling", sampling),  # `read` refuses any other word
            max_new_tokens=max_new_tokens,
            on_stage=bar.stage,
        )
    if as_json:
        typer.echo(json.dumps(answer.to_dict()))
    else:
        show_answer(_console(), answer)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Which clip of the test world.")] = 0,
    retain: Annotated[float, typer.Option(help="Fraction of video and audio tokens to keep.")] = 0.25,
    out: Annotated[Path | None, typer.Option(help="Keep the clip here; otherwise it is thrown away.")] = None,
    as_json: Json = False,
) -> None:
    """Make a clip, ask three questions at full and at a quarter of the tokens, and show both beside the truth."""
    from omnisift.cli.demo import run_demo
    from omnisift.cli.screen import show_demo

    silence_libraries()
    result = run_demo(seed, retain, out, quiet=as_json, console=_console(stderr=True))
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        show_demo(_console(), result)


@app.command("make-clip")
def make_clip(
    path: Annotated[Path, typer.Argument(help="Where to write the .mp4.")],
    seed: Annotated[int, typer.Option(help="Which clip; the same seed gives the same clip.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a clip of nano's world as .mp4, and say what is in it."""
    from omnisift.cli.clip import write_test_clip

    made = write_test_clip(path, seed, force)
    if as_json:
        typer.echo(json.dumps(made.to_dict()))
    else:
        typer.echo(f"{path}: {made.caption}")
        typer.echo(f'Try: omnisift ask {path} "{made.question}"   (true answer: {made.answer})')


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, and how to get it. Exits with 2 if something needed is missing."""
    from omnisift.cli.doctor import examine
    from omnisift.cli.screen import show_checks

    checks = examine()
    if as_json:
        typer.echo(json.dumps([check.to_dict() for check in checks]))
    else:
        show_checks(_console(), checks)
    if any(check.needed and not check.ok for check in checks):
        raise typer.Exit(2)


app.command(context_settings={"allow_extra_args": True})(run)
app.command(context_settings={"allow_extra_args": True})(serve)
app.command()(methods)
app.command()(profile)
app.command()(inspect)
app.command()(ui)
app.command("bench-quality")(bench_quality)
app.command("bench-report")(bench_report)
app.add_typer(eval_app, name="eval")
app.command("tasks-path")(tasks_path)
app.command()(train)
app.command()(distill)
app.command()(export)
app.command("make-dataset")(make_dataset)
app.command()(convert)
app.command("data-check")(data_check)
app.command("plugin-path")(plugin_path)


def main() -> None:
    """Entry point: run a command. Every error of the user's is one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except OmniSiftError as error:
        _fail(type(error).__name__, str(error))
    except _BAD_USAGE as error:
        # A wrong option: click's own screen is a box of several lines. Without a message it was a request for help.
        _fail("UsageError", error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(130)
    else:
        sys.exit(code or 0)


def _fail(kind: str, message: str) -> None:
    if message:
        typer.echo(f"{kind}: {' '.join(message.split())}", err=True)
    sys.exit(2)


def _console(stderr: bool = False) -> Console:
    from omnisift.cli.screen import console_for

    return console_for(stderr=stderr)
