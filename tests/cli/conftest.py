"""The command, called in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from omnisift.cli import main


@pytest.fixture
def omnisift(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call a command; ``typed`` is its standard input. Returns exit code, stdout and stderr."""

    def call(*arguments: object, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["omnisift", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call
