"""The command line: registers every command in its help panel. Heavy imports are inside the commands."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from omnisift.cli.advise_commands import advise
from omnisift.cli.ask_commands import ask, chat
from omnisift.cli.bench_commands import bench_quality, bench_report, methods
from omnisift.cli.calibrate_commands import calibrate
from omnisift.cli.demo_commands import demo, make_clip
from omnisift.cli.distill_commands import distill
from omnisift.cli.eval_commands import app as eval_app
from omnisift.cli.export_commands import export
from omnisift.cli.failures import describe, threads_fail_in_one_line
from omnisift.cli.help_screens import Command, Group
from omnisift.cli.inspect_commands import inspect
from omnisift.cli.profile_commands import profile
from omnisift.cli.run_commands import run
from omnisift.cli.serve_commands import serve
from omnisift.cli.signal_guard import ending_on_signals
from omnisift.cli.tool_commands import doctor, plugin_path, tasks_path
from omnisift.cli.train_commands import convert, data_check, make_dataset, train
from omnisift.cli.ui_commands import ui
from omnisift.cli.verify_commands import verify
from omnisift.cli.watch_commands import watch
from omnisift.errors import OmniSiftError
from omnisift.utils.quiet import silence_quantization

USE, LOOK, MEASURE, TRAIN, TOOLS = "Use", "Look", "Measure", "Train", "Tools"
"""Panels of ``omnisift --help``."""

app = typer.Typer(
    name="omnisift",
    cls=Group,
    help="Run audio-video language models on a quarter of their tokens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Typer vendors click or imports it, by version; the base class of its public errors is right for both.
_BAD_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from omnisift import __version__

        typer.echo(f"omnisift {__version__}")
        raise typer.Exit


def _add(panel: str, command: Callable[..., None], name: str | None = None, **settings: bool) -> None:
    app.command(name, cls=Command, rich_help_panel=panel, context_settings=settings)(command)


_add(USE, ask)
_add(USE, chat)
_add(USE, watch)
_add(USE, run, allow_extra_args=True)  # flags after -- go to vLLM
_add(USE, serve, allow_extra_args=True)
_add(USE, advise)
_add(USE, demo)
_add(USE, make_clip, "make-clip")
_add(LOOK, inspect)
_add(LOOK, ui)
_add(LOOK, methods)
_add(MEASURE, profile)
_add(MEASURE, calibrate)
_add(MEASURE, verify)
_add(MEASURE, bench_quality, "bench-quality")
_add(MEASURE, bench_report, "bench-report")
app.add_typer(eval_app, name="eval", cls=Group, rich_help_panel=MEASURE)
_add(TRAIN, train)
_add(TRAIN, distill)
_add(TRAIN, export)
_add(TRAIN, make_dataset, "make-dataset")
_add(TRAIN, data_check, "data-check")
_add(TRAIN, convert)
_add(TOOLS, doctor)
_add(TOOLS, tasks_path, "tasks-path")
_add(TOOLS, plugin_path, "plugin-path")


def main() -> None:
    """Run a command. Every error that is no fault of the program is one line on stderr, ``error (Kind): message``.

    The exit code is then 2. SIGTERM ends a command as Ctrl-C does, so that no temporary files stay.
    """
    _open_missing()
    silence_quantization()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an answer or a file name that the terminal can't show
    try:
        with ending_on_signals(), threads_fail_in_one_line(partial(typer.echo, err=True)):
            code = app(standalone_mode=False)
            sys.stdout.flush()  # a full disk shows here, and not when the interpreter ends
    except OmniSiftError as error:
        _fail(type(error).__name__, str(error))
    except _BAD_USAGE as error:
        _fail("UsageError", _usage_message(error))
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        failure = describe(error)
        if failure is None:
            raise
        if _drop_stdout() and isinstance(error, BrokenPipeError):
            sys.exit(1)  # the reader of a pipe has enough, as `head` after its last line
        _fail(*failure)
    else:
        sys.exit(code or 0)


def _open_missing() -> None:
    """Drop what goes to a standard output or error that was closed before the program began."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _drop_stdout() -> bool:
    """Return whether stdout can't be written; then what it still holds is dropped, so that its end raises nothing."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _usage_message(error: Any) -> str:
    """One line for a wrong option or argument; empty if the user asked for help by giving none."""
    nearest = next(iter(getattr(error, "possibilities", None) or []), None)
    if nearest is not None:
        return f"{error.message}. Did you mean {nearest}?"
    message: str = error.format_message()
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "omnisift"
    return f"{message.rstrip('.')}; see {command} -h" if message and not message.endswith("?") else message


def _fail(kind: str, message: str) -> None:
    if message:
        typer.echo(f"error ({kind}): {' '.join(message.split())}", err=True)
    sys.exit(2)
