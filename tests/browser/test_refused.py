"""Requests that the server of `omnisift ui` refuses, sent without a browser."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.browser.conftest import serving
from tests.browser.ports import free_port


def send(url: str, body: bytes | None, **headers: str) -> int:
    """The status of the answer; 0 if it breaks off."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except http.client.IncompleteRead:
        return 0


def status(url: str, data: object = None, **headers: str) -> int:
    return send(url, None if data is None else json.dumps(data).encode(), **headers)


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


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_requests_of_another_page(address: str, headers: dict[str, str]) -> None:
    assert upload(address, "a.mp4", 10, **headers) == 403
    assert status(f"{address}/config", **headers) == 403
    assert upload(address, "a.mp4", 10, Origin=address) == 200


@pytest.mark.parametrize("listens", ["127.0.0.2", "0.0.0.0"])
def test_other_addresses_of_this_machine(tmp_path: Path, listens: str) -> None:
    log = tmp_path / "stderr"
    with serving(log, "--host", listens, "--allow-host", "page.example") as address:
        port = address.rpartition(":")[2]
        here = f"http://127.0.0.1:{port}" if listens == "0.0.0.0" else address
        for host in (f"{listens}:{port}", "localhost", "page.example", f"127.0.0.1:{port}"):
            assert status(f"{here}/config", Host=host) == 200
        for host in ("evil.example", f"evil.example:{port}", "page.example.evil.example"):
            assert status(f"{here}/config", Host=host) == 403
        assert status(f"{here}/config", Host="10.0.0.1") == (200 if listens == "0.0.0.0" else 403)
    assert "Traceback" not in log.read_text()


QUESTION = [None, "Shapes and sounds, 6 s", False, None, "What is it?", "nano", "omnisift", "random", 25]


def ask(address: str, data: list[object], **more: object) -> str | int:
    """The status of a refused question, or what the page gets."""
    event = next(each for each in config(address)["dependencies"] if len(each["inputs"]) == 9)
    body = {"data": data, "fn_index": event["id"], "session_hash": "abcdef", "event_data": None, "trigger_id": None}
    answer = status(f"{address}/gradio_api/queue/join", body | more)
    if answer != 200:
        return answer
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=abcdef", timeout=60) as stream:
        return str(stream.read().decode())


def changed(place: int, value: object) -> list[object]:
    return [*QUESTION[:place], value, *QUESTION[place + 1 :]]


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.org/clip.mp4", "{here}"])
def test_a_request_that_names_a_file_that_was_not_uploaded(address: str, path: str, place: int) -> None:
    """As a program would send it: the file is not read, whatever type the request claims."""
    file = {"path": path.format(here=Path(__file__)), "meta": {"_type": "gradio.FileData"}, "orig_name": "clip.mp4"}
    text = ask(address, [file, None, *QUESTION[2:]] if place == 0 else changed(3, file))
    if path.startswith("https:"):
        assert text == 403
        return
    assert '"success":false' in text
    assert "root:" not in text


@pytest.mark.parametrize(
    "data",
    [
        *(changed(4, value) for value in ("\ud800", None, "", "<|VIDEO|>", "x" * 1001, ["x"])),
        *(changed(8, value) for value in (None, "25", "x", float("nan"), 0, 101, [], True, 10**400)),
        *(changed(5, value) for value in (None, "x", ["nano"], {})),
        *(changed(6, value) for value in (None, "x", ["x"], 5)),
        *(changed(1, value) for value in (None, "x", [1], {})),
        *(changed(0, value) for value in ("x", 5, [], {}, {"path": None}, {"path": "x"})),
        *(changed(3, value) for value in ("x", 5, [], {}, {"path": None}, {"path": "x"})),
        *(QUESTION[:3], [], [None] * 9, [QUESTION] * 9),
    ],
)
def test_every_mistake_is_a_sentence(address: str, data: list[object]) -> None:
    """Never Gradio's "Error" alone, and the next question works."""
    text = str(ask(address, data))
    assert '"error":null' not in text
    assert "process_completed" in text
    assert "Traceback" not in text
    assert "class='answer'" in str(ask(address, QUESTION))


def test_unknown_events_and_deep_bodies(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    with serving(log) as address:
        for event in (9999, -1, 10**30, None, "x", [], 1.5):
            assert ask(address, QUESTION, fn_index=event) in (400, 422)
        for body in (b"[" * 60000, b'{"a":' * 10000, b"{", b"9" * 5000, b"\xff", b"null", b""):
            for path in ("queue/join", "cancel", "reset"):
                assert send(f"{address}/gradio_api/{path}", body) in (400, 422)
        assert status(f"{address}/gradio_api/queue/data?session_hash=unknown") in (0, 200)
        assert "class='answer'" in str(ask(address, QUESTION))
    assert "Traceback" not in log.read_text()


def test_endings_and_space_of_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty uploads of half a megabyte into two megabytes; then a question about one that is gone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    log = tmp_path / "stderr"
    with serving(log, "--max-upload", "1", "--upload-space", "2") as address:
        (folder,) = tmp_path.glob("omnisift-ui-*")
        for name in ("x.html", "x.svg", "x.exe", "state.json", "clip", "a.mp4.html", ""):
            assert upload(address, name, 10) == 415
        for name in ("a.mp4", "A.MKV", "../../a.wav"):
            assert upload(address, name, 10) == 200
        assert upload(address, "a.mp4", 10, field="other") == 200
        for number in range(20):
            assert upload(address, f"{number}.mp4", (1 << 19) + number) == 200
            assert sum(path.stat().st_size for path in folder.rglob("*.mp4") if "samples" not in path.parts) <= 2 << 20
        names = {path.name for path in folder.rglob("*") if path.is_file() and "samples" not in path.parts}
        assert names == {"17.mp4", "18.mp4", "19.mp4"}
        gone = {"path": f"{folder}/x/0.mp4", "meta": {"_type": "gradio.FileData"}}
        assert '"error":null' not in str(ask(address, changed(0, gone)))
    assert "Traceback" not in log.read_text()


def upload(address: str, name: str, size: int, *, field: str = "files", **headers: str) -> int:
    """Upload ``size`` bytes; returns the status."""
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
    body = head + bytes(size) + b"\r\n--x--\r\n"
    return send(f"{address}/gradio_api/upload", body, **{"Content-Type": "multipart/form-data; boundary=x"}, **headers)


def test_an_upload_over_the_limit(address: str) -> None:
    """The server enforces the limit, independently of the page's script."""
    assert upload(address, "a.mp4", 1000) == 200
    assert upload(address, "a.mp4", (1 << 20) + 1) == 413


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
