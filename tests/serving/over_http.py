"""A server of `omnisift serve` in its own process, and a client for it."""

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.serving.asking import LENGTH

QUESTION = "what sound comes with the red shape ?"
ENGINE = ["--dtype", "float32", "--max-model-len", "4096", "--enforce-eager", "--block-size", "32"]


@dataclass
class Server:
    url: str
    process: subprocess.Popen[bytes]
    model: str = "nano"

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def ask(self, video: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        content = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": QUESTION}]
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
        body |= {"max_tokens": LENGTH, "min_tokens": LENGTH, "return_token_ids": True, **more}
        return self.post("/v1/chat/completions", body)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of any request."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def abandon(self, body: dict[str, Any], seconds: float, share: float = 1.0) -> None:
        """Send a request, or its first part, and disconnect after ``seconds``."""
        text = json.dumps(body).encode()
        head = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
        with socket.create_connection(self.address) as line:
            line.sendall("\r\n".join([*head, f"Content-Length: {len(text)}", "", ""]).encode())
            line.sendall(text[: int(share * len(text))])
            time.sleep(seconds)

    def rest(self) -> None:
        """Wait until no request is in the engine."""
        for _ in range(120):
            running = re.findall(
                r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", self.get("/metrics"), re.MULTILINE
            )
            if running and not any(float(number) for number in running):
                return
            time.sleep(0.25)
        raise AssertionError("a request continues without its client")

    def counters(self) -> tuple[float, float]:
        """Kept and dropped tokens."""
        text = self.get("/metrics")
        kept, dropped = (
            re.findall(rf"^omnisift_{name}_tokens_total\S* (\S+)$", text, re.MULTILINE) for name in ("kept", "dropped")
        )
        return (float(kept[0]), float(dropped[0])) if kept else (0.0, 0.0)


@contextmanager
def serving(
    options: Sequence[str], engine: Sequence[str], log: Path, model: str = "nano", **environment: str
) -> Iterator[Server]:
    """A model, with ``options`` of `omnisift serve`, and `ENGINE` and ``engine`` as flags for vLLM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "omnisift.cli", "serve", model, "--port", str(port), *options]
    command += ["--", *ENGINE, *engine]
    fixed = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("w") as out, pytest.MonkeyPatch.context() as patch:
        for name, value in {**fixed, **environment}.items():
            patch.setenv(name, value)
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    server = Server(f"http://127.0.0.1:{port}", process, model)
    try:
        _wait(server, log)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _wait(server: Server, log: Path) -> None:
    for _ in range(360):
        assert server.process.poll() is None, log.read_text()[-3000:]
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
    token_ids: list[int] = body["choices"][0]["token_ids"]
    return token_ids


def refused(status: int, body: dict[str, Any], *words: str) -> None:
    """Status 4xx and one sentence that does not describe this machine."""
    assert 400 <= status < 500, body
    message = body["error"]["message"]
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert "Traceback" not in message
