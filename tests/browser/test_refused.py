"""Requests that the server of `omnisift ui` refuses, sent without a browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.browser.ports import free_port


def status(url: str, data: object = None, **headers: str) -> int:
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def config(address: str) -> dict:
    with urllib.request.urlopen(f"{address}/config", timeout=20) as answer:
        return json.load(answer)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../../etc/passwd", "pyproject.toml", "{here}", "http://127.0.0.1:1/x", "file:///etc/passwd"],
)
def test_other_files_and_addresses(address: str, path: str) -> None:
    assert status(f"{address}/gradio_api/file={path.format(here=Path(__file__))}") == 403


@pytest.mark.parametrize(
    "path", ["monitoring", "gradio_api/runs", "gradio_api/openapi.json", "gradio_api/proxy=http://x"]
)
def test_unused_routes(address: str, path: str) -> None:
    assert status(f"{address}/{path}") == 403


def test_another_name_for_this_machine(address: str) -> None:
    assert status(f"{address}/config", Host="evil.example") == 403


def test_settings(address: str) -> None:
    settings = config(address)
    assert settings["analytics_enabled"] is False
    assert not settings.get("is_space")
    with urllib.request.urlopen(address, timeout=20) as answer:
        assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.org/clip.mp4", "{here}"])
def test_a_request_that_names_a_file_that_was_not_uploaded(address: str, path: str) -> None:
    """As a program would send it: the file is not read, whatever type the request claims."""
    event = next(each for each in config(address)["dependencies"] if len(each["inputs"]) == 7)
    path = path.format(here=Path(__file__))
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "clip.mp4"}
    data = [file, None, "What is it?", "nano", "omnisift", "random", 25]
    body = {"data": data, "fn_index": event["id"], "session_hash": "abcdef", "event_data": None, "trigger_id": None}
    answer = status(f"{address}/gradio_api/queue/join", body)
    if path.startswith("https:"):
        assert answer == 403
        return
    assert answer == 200
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=abcdef", timeout=60) as stream:
        text = stream.read().decode()
    assert '"success":false' in text
    assert "root:" not in text


def test_an_upload_over_the_limit(address: str) -> None:
    """The server enforces the limit, independently of the page's script."""

    def send(size: int) -> int:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
        body = head + bytes(size) + b"\r\n--x--\r\n"
        request = urllib.request.Request(f"{address}/gradio_api/upload", body)
        request.add_header("Content-Type", "multipart/form-data; boundary=x")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert send(1000) == 200
    assert send((1 << 20) + 1) == 413


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_uploads_and_samples_are_deleted_at_the_end(tmp_path: Path, stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "omnisift.cli", "ui", "--port", str(free_port())]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert server.stdout is not None
    server.stdout.readline()
    assert len(list(tmp_path.glob("omnisift-ui-*/samples/*.mp4"))) == 4
    server.send_signal(stop)
    assert server.wait(timeout=30) == 128 + stop
    assert list(tmp_path.glob("omnisift-ui-*")) == []
