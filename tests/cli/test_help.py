"""Help screens, suggestions and completion of the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from omnisift.budget import DEFAULT_RETAIN
from omnisift.cli import main
from omnisift.cli.app import LOOK, MEASURE, TOOLS, TRAIN, USE, app

GROUP: Any = typer.main.get_command(app)
PATHS = [[name] for name in GROUP.commands] + [["eval", name] for name in GROUP.commands["eval"].commands]


def screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["omnisift", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out = capsys.readouterr()
    return int(stop.value.code or 0), out.out, out.err


def test_the_commands_are_in_five_panels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = screen(monkeypatch, capsys, "-h")
    assert code == 0
    panels = re.findall(r"^╭─ (\w+) ─", out, re.MULTILINE)
    assert panels == ["Options", USE, LOOK, MEASURE, TRAIN, TOOLS]
    first = re.findall(r"^│ ([a-z][a-z-]*) ", out, re.MULTILINE)
    assert set(first) == set(GROUP.commands)


@pytest.mark.parametrize("path", [[], *PATHS], ids=" ".join)
def test_each_help_screen_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = screen(monkeypatch, capsys, *path, "-h")
    assert (code, err) == (0, "")
    assert out == screen(monkeypatch, capsys, *path, "--help")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert "<bool>" not in out
    assert "…" not in out
    for word in ("picture", "goes on", "behind", "pip install"):
        assert word not in out.replace("--picture", "")


def test_the_default_of_retain_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ask", "chat", "run", "serve", "inspect", "profile", "eval"):
        text = " ".join(screen(monkeypatch, capsys, command, "-h")[1].replace("│", " ").split())
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
def test_a_wrong_word_gets_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = screen(monkeypatch, capsys, *arguments)
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
