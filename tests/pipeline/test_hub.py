"""A model on a hub: a server on this machine plays the hub, so that nothing leaves it."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import omnisift
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS, VGASConfig

COMMIT = "0" * 40
ASK = """
import sys, omnisift
try:
    pipe = omnisift.load("owner/model", compressor=sys.argv[2])
    answer = pipe.ask(sys.argv[1], "What colour is the circle?")
    print(answer.report.method, answer.text)
except omnisift.OmniSiftError as error:
    print(type(error).__name__, error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves the files of one folder as ``owner/model``, and notes which were downloaded."""

    folder: Path
    downloaded: list[str]

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        path = self.path.partition("?")[0]
        names = sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())
        if path == "/":
            self.send(200, b"")
        elif path.startswith("/api/models/owner/model/tree/"):
            inside = path.removeprefix("/api/models/owner/model/tree/").partition("/")[2]
            sizes = [(n, (self.folder / n).stat().st_size) for n in names if n.startswith(inside)]
            if not sizes:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            self.send(200, json.dumps([{"type": "file", "path": n, "size": s, "oid": "0"} for n, s in sizes]).encode())
        elif path.startswith("/api/models/owner/model"):
            siblings = [{"rfilename": name} for name in names]
            self.send(200, json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode())
        else:
            name = path.removeprefix("/owner/model/resolve/").partition("/")[2]
            if name not in names:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            content = (self.folder / name).read_bytes()
            if not head:
                self.downloaded.append(name)
            self.send(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, head)

    def send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None, head: bool = False) -> None:
        self.send_response(status)
        sizes = {"X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
        for key, value in (sizes | dict(headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if not head:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, list[str], dict[str, str]]]:
    """(folder that is served, names of downloaded files, environment of a process that uses this hub)."""
    folder, downloaded = tmp_path / "served", []
    folder.mkdir()
    handler = type("Handler", (Hub,), {"folder": folder, "downloaded": downloaded})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(Path(omnisift.__file__).parents[1]),
        }
        yield folder, downloaded, environment
        server.shutdown()


def serve_nano(folder: Path, selector: bool) -> None:
    """nano as two shards with an index, the second with a selector of the released names."""
    for file in nano_path().iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(nano_path() / "model.safetensors")
    shards = {"model-00001-of-00002.safetensors": tensors, "model-00002-of-00002.safetensors": {}}
    extra = {"unused": torch.zeros(1)}
    if selector:
        torch.manual_seed(0)
        width = json.loads((nano_path() / "config.json").read_text())["text_config"]["hidden_size"]
        extra |= {f"thinker.compressor.{n}": t for n, t in VGAS(VGASConfig(width)).state_dict().items()}
    shards["model-00002-of-00002.safetensors"] = extra
    names = {name: shard for shard, content in shards.items() for name in content}
    for shard, content in shards.items():
        save_file(content, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def ask(environment: dict[str, str], clip: Path, compressor: str = "auto") -> str:
    """What a new process prints: the method and the answer."""
    command = [sys.executable, "-c", ASK, str(clip), compressor]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_selector_in_the_shards_is_fetched_before_the_weights(hub, clip: Path) -> None:
    folder, downloaded, environment = hub
    serve_nano(folder, selector=True)
    text = ask(environment, clip)
    assert text.startswith("omnisift (default: the checkpoint has an OmniSIFT selector) ")
    weights = [name for name in downloaded if name.endswith(".safetensors")]
    assert weights == ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"]
    # The second time everything is in the cache; without a network it is found there.
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert ask(environment, clip) == text
    assert len(weights) == 2


def test_a_missing_selector_is_said_before_weights_are_downloaded(hub, clip: Path) -> None:
    folder, downloaded, environment = hub
    serve_nano(folder, selector=False)
    text = ask(environment, clip, "omnisift")
    assert text.startswith("CompressorError owner/model has no selector weights")
    assert downloaded
    assert not [name for name in downloaded if name.endswith(".safetensors")]
    assert ask(environment, clip).startswith("resift (default) "), "which needs none"
