"""`omnisift serve` as a client sees it: plain chat completions with a file, no flags, no knowledge of compression."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.serving.asking import LENGTH, Film, Prompt, Reference

from omnisift.budget import Budget

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
QUESTION = "what sound comes with the red shape ?"


@dataclass
class Server:
    url: str

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def ask(self, video: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        content = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": QUESTION}]
        body = {"model": "nano", "messages": [{"role": "user", "content": content}], "temperature": 0}
        body |= {"max_tokens": LENGTH, "min_tokens": LENGTH, "return_token_ids": True, **more}
        request = urllib.request.Request(
            self.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def counters(self) -> tuple[float, float]:
        """Kept and dropped tokens."""
        text = self.get("/metrics")
        kept, dropped = (
            re.findall(rf"^omnisift_{name}_tokens_total\S* (\S+)$", text, re.MULTILINE) for name in ("kept", "dropped")
        )
        return (float(kept[0]), float(dropped[0])) if kept else (0.0, 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def film(folder: Path) -> Film:
    """Its file is ``1.mp4``."""
    return Film.of_world(folder, 1)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server.txt"
    command = [sys.executable, "-m", "omnisift.cli", "serve", "nano", "--port", str(port), "--retain-most", "0.6"]
    command += ["--media-folder", str(folder), "--media-host", "localhost"]
    command += ["--", "--dtype", "float32", "--max-model-len", "4096", "--enforce-eager", "--block-size", "32"]
    with log.open("w") as out, pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    made = Server(f"http://127.0.0.1:{port}")
    try:
        _wait(made, process, log)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(360):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            server.get("/health")
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text()[-3000:])


def data_url(file: Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()


def tokens(body: dict[str, Any]) -> list[int]:
    found: list[int] = body["choices"][0]["token_ids"]
    return found


def refused(status: int, body: dict[str, Any], *words: str) -> None:
    """Status 4xx, one sentence, nothing of this machine in it."""
    assert 400 <= status < 500, body
    message = body["error"]["message"]
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert "Traceback" not in message


def test_a_film_with_its_sound_and_nothing_else_said(
    server: Server, folder: Path, film: Film, reference: Reference
) -> None:
    before = server.counters()
    status, body = server.ask(data_url(folder / "1.mp4"))
    assert status == 200, body
    prompt = Prompt(QUESTION, films=(film,))
    assert tokens(body) == reference.tokens(prompt)
    assert tokens(body) != reference.tokens(Prompt(QUESTION, films=(film.silent,))), "the sound was heard"
    config, ids = reference.host.thinker.config, prompt.for_transformers(reference.processor)["input_ids"][0].tolist()
    read = body["usage"]["prompt_tokens"]
    assert read < len(ids) / 2
    kept, dropped = (after - then for after, then in zip(server.counters(), before, strict=True))
    assert dropped == len(ids) - read
    assert kept + dropped == ids.count(config.video_token_id) + ids.count(config.audio_token_id)


def test_retention_of_a_request_within_the_limit(
    server: Server, folder: Path, film: Film, reference: Reference
) -> None:
    status, body = server.ask(data_url(folder / "1.mp4"), mm_processor_kwargs={"retain": 0.6})
    assert status == 200, body
    assert tokens(body) == reference.tokens(Prompt(QUESTION, films=(film,)), Budget(retain=0.6))
    refused(*server.ask(data_url(folder / "1.mp4"), mm_processor_kwargs={"retain": 0.7}), "at most 0.6")


def test_a_file_of_the_allowed_folder_alone(server: Server, folder: Path, film: Film, tmp_path: Path) -> None:
    status, body = server.ask((folder / "1.mp4").as_uri())
    assert status == 200, body
    outside = tmp_path / "outside.mp4"
    outside.write_bytes((folder / "1.mp4").read_bytes())
    refused(*server.ask(outside.as_uri()))
    refused(*server.ask((folder / ".." / outside.parent.name / "outside.mp4").as_uri()))
    (folder / "link.mp4").symlink_to(outside)
    refused(*server.ask((folder / "link.mp4").as_uri()))
    refused(*server.ask((folder / "missing.mp4").as_uri()))


@pytest.mark.parametrize(
    "address", ["http://example.com/a.mp4", "http://localhost/a.mp4", "ftp://localhost/a.mp4", "x"]
)
def test_addresses_are_refused(server: Server, address: str) -> None:
    """A host that was not named; one that was, but is not public; no address at all."""
    refused(*server.ask(address), "send the file itself")


@pytest.mark.parametrize(
    "more",
    [
        {"mm_processor_kwargs": {"max_pixels": 10**9}},
        {"media_io_kwargs": {"video": {"num_frames": 10**6}}},
        {"mm_processor_kwargs": {"retain": -1}},
    ],
)
def test_a_request_cannot_make_more_work(server: Server, folder: Path, more: dict[str, Any]) -> None:
    refused(*server.ask(data_url(folder / "1.mp4"), **more))


def test_bad_media_and_then_good(server: Server, folder: Path, film: Film, reference: Reference) -> None:
    whole = (folder / "1.mp4").read_bytes()
    for data in (b"", b"no film", whole[: len(whole) // 3]):
        refused(*server.ask("data:video/mp4;base64," + base64.b64encode(data).decode()))
    refused(*server.ask("data:video/mp4;base64,***"))
    status, body = server.ask(data_url(folder / "1.mp4"))
    assert status == 200
    assert tokens(body) == reference.tokens(Prompt(QUESTION, films=(film,)))


def test_a_client_that_goes_away(server: Server, folder: Path, film: Film, reference: Reference) -> None:
    status, _ = server.ask(data_url(folder / "1.mp4"), max_tokens=1, min_tokens=1)
    assert status == 200
    body = {"model": "nano", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3000, "min_tokens": 3000}
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        text = json.dumps(body)
        head = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
        line.sendall("\r\n".join([*head, f"Content-Length: {len(text)}", "", text]).encode())
        time.sleep(1)
    for _ in range(40):
        if "vllm:num_requests_running" in (metrics := server.get("/metrics")) and not re.search(
            r"^vllm:num_requests_running\S* [1-9]", metrics, re.MULTILINE
        ):
            break
        time.sleep(0.25)
    else:
        raise AssertionError("the request goes on without its client")
    status, answer = server.ask(data_url(folder / "1.mp4"))
    assert tokens(answer) == reference.tokens(Prompt(QUESTION, films=(film,)))
