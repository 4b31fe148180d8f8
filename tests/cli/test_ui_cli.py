"""`omnisift ui` without Gradio, and with arguments that can't work: one line, exit code 2. The page: tests/browser."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys

import pytest

from omnisift.cli import main
from omnisift.errors import UsageError
from omnisift.ui import serving

TWO = ["--model", "nano", "--model", "other", "--selector", "somewhere"]
"""A selector fits one of them at most."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["omnisift", "ui", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def told() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "gradio" else importlib.util.find_spec(name))
    assert run(monkeypatch) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "error (UsageError): omnisift ui needs gradio, which is not installed: "
        "run pip install -e '.[ui]' in your OmniSIFT checkout\n",
    )


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--model", "missing"], ["--selector", "missing"], TWO])
def test_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda _name: True)
    before = told()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(serving, "check_address", lambda *_: None)
    assert run(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert told() == before


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.1", "no.such.host.invalid", "::2"])
def test_an_address_that_can_not_be_had(host: str) -> None:
    """A taken port, addresses of other machines, and a name of none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UsageError, match="can't listen at") as caught:
            serving.check_address(host, taken.getsockname()[1])
        assert "\n" not in str(caught.value)
    serving.check_address("127.0.0.1", 0)


def test_the_room_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SHARE", "True")
    before = told()
    with serving.room() as folder:
        assert list(folder.iterdir()) == []
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert (os.environ["GRADIO_ANALYTICS_ENABLED"], os.environ["GRADIO_SHARE"]) == ("False", "False")
    assert not folder.exists()
    assert told() == before
