"""`omnisift ui` without Gradio and with wrong arguments: one line, exit code 2. tests/browser tests the page."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest

from omnisift.cli import main
from omnisift.errors import UsageError
from omnisift.ui import serving

TWO = ["--model", "nano", "--model", "other", "--selector", "somewhere"]
"""Two models with one selector, which fits at most one of them."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["omnisift", "ui", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def gradio_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(serving, "check_address", lambda *_: None)
    assert run(monkeypatch) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "error (UsageError): omnisift ui needs gradio, which is not installed: "
        "run pip install -e '.[ui]' in your OmniSIFT checkout\n",
    )


def test_without_a_dependency_of_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An incomplete installation is one line that names the missing module."""

    def load_module(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'certifi'", name="certifi")

    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    monkeypatch.setattr(
        sys, "meta_path", [type("Finder", (), {"find_spec": staticmethod(load_module)}), *sys.meta_path]
    )
    with pytest.raises(UsageError) as caught:
        serving.check_installed()
    assert "gradio, which cannot be imported (No module named 'certifi')" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--model", "missing"], ["--selector", "missing"], TWO])
def test_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    monkeypatch.setattr(serving, "check_installed", lambda: None)
    before = gradio_settings()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(serving, "check_address", lambda *_: None)
    assert run(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert gradio_settings() == before


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.1", "no.such.host.invalid", "::2"])
def test_an_unusable_address(host: str) -> None:
    """A port in use, addresses of other machines, and an unknown host name."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UsageError, match="cannot listen at") as caught:
            serving.check_address(host, taken.getsockname()[1])
        assert "\n" not in str(caught.value)
    serving.check_address("127.0.0.1", 0)


def test_the_private_folder_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SHARE", "True")
    before = gradio_settings()
    with serving.private_folder() as folder:
        assert list(folder.iterdir()) == []
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert (os.environ["GRADIO_ANALYTICS_ENABLED"], os.environ["GRADIO_SHARE"]) == ("False", "False")
    assert not folder.exists()
    assert gradio_settings() == before
