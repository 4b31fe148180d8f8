"""Help screens, suggestions and completion of the command line."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from omnisift.budget import DEFAULT_RETAIN
from omnisift.cli.app import LOOK, MEASURE, TOOLS, TRAIN, USE, app
from omnisift.cli.options import FIELDS, MappedModelOptions, with_records
from omnisift.config import CompressionConfig, EncodingOptions, ReadOptions, ServedReadOptions, TextOptions

RECORDS: tuple[Any, ...] = (MappedModelOptions, CompressionConfig, EncodingOptions, ReadOptions, TextOptions)
Omnisift = Callable[..., tuple[int, str, str]]
GROUP: Any = typer.main.get_command(app)
PATHS = [[name] for name in GROUP.commands] + [["eval", name] for name in GROUP.commands["eval"].commands]


def test_the_commands_are_in_five_panels(omnisift: Omnisift) -> None:
    code, out, _ = omnisift("-h")
    assert code == 0
    panels = re.findall(r"^╭─ (\w+) ─", out, re.MULTILINE)
    assert panels == ["Options", USE, LOOK, MEASURE, TRAIN, TOOLS]
    first = re.findall(r"^│ ([a-z][a-z-]*) ", out, re.MULTILINE)
    assert set(first) == set(GROUP.commands)


@pytest.mark.parametrize("path", [[], *PATHS], ids=" ".join)
def test_each_help_screen_fits_80_columns(omnisift: Omnisift, monkeypatch: pytest.MonkeyPatch, path: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = omnisift(*path, "-h")
    assert (code, err) == (0, "")
    assert out == omnisift(*path, "--help")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert "<bool>" not in out
    assert "…" not in out
    for word in ("picture", "goes on", "behind", "pip install"):
        assert word not in out.replace("--picture", "")


@pytest.mark.parametrize(
    "name", ["ask", "chat", "run", "serve", "inspect", "profile", "eval", "ui", "distill", "calibrate"]
)
def test_shared_options_have_the_names_and_defaults_of_the_records(name: str) -> None:
    records = (*RECORDS, ServedReadOptions) if name in ("serve", "ui") else RECORDS
    defaults = {field.name: field.default for record in records for field in fields(record)}
    assert defaults.keys() == FIELDS.keys()
    own = {("ui", "model"), ("serve", "model"), ("calibrate", "model"), ("distill", "seed")}
    options = {option.name: option.default for option in GROUP.commands[name].params if (name, option.name) not in own}
    shared = options.keys() & defaults.keys()
    assert {field.name for field in fields(ReadOptions)} <= shared
    assert {option: options[option] for option in shared} == {option: defaults[option] for option in shared}


def test_a_command_gets_the_records_made_from_its_options() -> None:
    @with_records
    def command(clip: str, *, method: CompressionConfig, seed: int = 7) -> None:
        calls.append((clip, method, seed))

    calls: list[Any] = []
    names = list(inspect.signature(command).parameters)
    budget = ["retain", "retain_video", "retain_audio", "tokens", "compress_audio"]
    assert names == ["clip", "compressor", *budget, "selector", "seed"]
    values: dict[str, Any] = dict.fromkeys(names) | {
        "clip": "a.mp4",
        "compressor": "evs",
        "seed": 3,
        "compress_audio": False,
    }
    command(**values)
    assert calls == [("a.mp4", CompressionConfig(compressor="evs"), 3)]


def test_the_default_of_retain_is_shown(omnisift: Omnisift) -> None:
    for command in ("ask", "chat", "run", "serve", "inspect", "profile", "eval"):
        text = " ".join(omnisift(command, "-h")[1].replace("│", " ").split())
        assert re.search(rf"--retain .{{0,120}}\[default: \({DEFAULT_RETAIN}\)\]", text), command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ak", "a.mp4", "What?"], "No such command 'ak'. Did you mean 'ask'?"),
        (["ask", "a.mp4", "What?", "--metod", "evs"], "No such option: --metod. Did you mean --method?"),
        (["ask", "a.mp4", "What?", "--retian", "0.5"], "No such option: --retian. Did you mean --retain?"),
        (["ask", "a.mp4", "What?", "--zzz"], "No such option: --zzz; see omnisift ask -h"),
        (["ask", "a.mp4"], "Missing argument 'QUESTION'; see omnisift ask -h"),
        (["run", "x"], "Missing option '--task'; see omnisift run -h"),
    ],
)
def test_a_wrong_word_gets_the_nearest_one(omnisift: Omnisift, arguments: list[str], message: str) -> None:
    code, out, err = omnisift(*arguments)
    assert (code, out) == (2, "")
    assert re.sub(r"see .* (ask|run) -h", r"see omnisift \1 -h", err) == f"error (UsageError): {message}\n"


@pytest.mark.parametrize(("typed", "offers"), [("omnisift as", "ask"), ("omnisift ask --metho", "--method")])
def test_the_shell_completes_commands_and_options(tmp_path: Path, typed: str, offers: str) -> None:
    code = "import sys; sys.argv = ['omnisift']; from omnisift.cli import main; main()"
    completing = {"_OMNISIFT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | completing, capture_output=True, text=True, cwd=tmp_path
    )
    assert offers in done.stdout.split(), done.stderr
