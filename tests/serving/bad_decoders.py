"""Children of `DecoderPool` that misbehave: what a file is called decides what happens when it is read."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnisift.media import Media, read
from omnisift.serving import decoder_child


def _spin(_: str) -> None:
    while True:
        pass


def _allocate(_: str) -> None:
    blocks = []
    while True:
        blocks.append(np.empty(1 << 27))


def _write_a_file(path: str) -> None:
    Path(path).with_suffix(".txt").write_text("x")


ACTIONS = {
    "abort": lambda _: os.abort(),
    "segfault": lambda _: ctypes.string_at(0),
    "illegal": lambda _: os.kill(os.getpid(), 4),
    "leave": lambda _: os._exit(0),
    "untyped": lambda _: {}["missing"],
    "recursion": lambda _: (lambda f: f(f))(lambda f: f(f)),
    "spin": _spin,
    "sleep": lambda _: time.sleep(600),
    "stop": lambda _: os.kill(os.getpid(), 19),
    "allocate": _allocate,
    "write": _write_a_file,
    "print": lambda _: print("noise" * 1000, flush=True),
    "environment": lambda _: (_ for _ in ()).throw(KeyError) if "SECRET" in os.environ else None,
}


def misbehave(path: str, **options: Any) -> Media:
    ACTIONS.get(Path(path).stem, lambda _: None)(path)
    return read(path, **options)


def main(memory: int, modules: Sequence[str] = ()) -> None:
    decoder_child.serve(misbehave, memory)


PLAIN = {
    "fps": 2.0, "seconds": 1.0, "video_seconds": 1.0, "capped": False, "bad_packets": 0, "warnings": [], "tags": {},
    "times": [0.0, 0.5], "indices": [0, 1], "images": [2, 28, 28, 3], "waveform": None, "lines": 0,
}  # fmt: skip
BAD_LINES = (
    b"[[0.0, 1.0]]",
    b"[[0, 1, 2]]",
    b'[["0", 1.0, "x"]]',
    b'[[-1.0, 1.0, "x"]]',
    b'[[NaN, 1.0, "x"]]',
    b'[[0.0, Infinity, "x"]]',
    b'[[0.5, 1.0, "x"], [0.0, 1.0, "y"]]',
    b'[[0.0, 1.0, "\\ud800"]]',
    b'[[0.0, 1.0, "' + b"x" * 2001 + b'"]]',
    b"[" + b'[0.0, 1.0, "x"],' * 20_000 + b'[0.0, 1.0, "x"]]',
    b'{"a": 1}',
    b"[[0.0, 1.0",
)
"""What is no list of lines."""


def _with_lines(text: bytes) -> bytes:
    return json.dumps(PLAIN | {"lines": len(text)}).encode() + b"\n" + bytes(2 * 28 * 28 * 3) + text


LIES: dict[str, bytes] = {
    "honest": json.dumps(PLAIN).encode() + b"\n" + bytes(2 * 28 * 28 * 3),
    "huge": json.dumps(PLAIN | {"images": [2, 1 << 20, 1 << 20, 3]}).encode() + b"\n",
    "overflow": json.dumps(PLAIN | {"images": [1 << 62, 1 << 62, 1 << 62, 3]}).encode() + b"\n",
    "negative": json.dumps(PLAIN | {"images": [-1, 28, 28, 3]}).encode() + b"\n",
    "flat": json.dumps(PLAIN | {"images": [100]}).encode() + b"\n" + bytes(100),
    "short": json.dumps(PLAIN).encode() + b"\n" + bytes(100),
    "count": json.dumps(PLAIN | {"times": [0.0]}).encode() + b"\n" + bytes(2 * 28 * 28 * 3),
    "endless text": json.dumps(PLAIN | {"lines": 1 << 40}).encode() + b"\n" + bytes(2 * 28 * 28 * 3),
    "negative text": json.dumps(PLAIN | {"lines": -1}).encode() + b"\n" + bytes(2 * 28 * 28 * 3),
    **{f"line {number}": _with_lines(text) for number, text in enumerate(BAD_LINES)},
    "missing": b'{"fps": 2}\n',
    "list": b"[1]\n",
    "number": b"1\n",
    "text": b"hello\n",
    "deep": b"[" * 100_000 + b"\n",
    "digits": b"1" * 10_000 + b"\n",
    "binary": bytes(range(256)) * 10,
    "endless": b"x" * (5 << 20),
    "error": b'{"error": "SystemExit", "message": "x"}\n',
    "base": b'{"error": "OmniSiftError", "message": "x"}\n',
    "module": b'{"error": "annotations", "message": "x"}\n',
    "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
}


def liar(memory: int, modules: Sequence[str] = ()) -> None:
    """Answers each request with the bytes of `LIES` that the file's name asks for, then ends."""
    os.write(1, decoder_child.READY)
    for line in sys.stdin.buffer:
        os.write(1, LIES[Path(json.loads(line)["path"]).stem])
        break


def late(memory: int, modules: Sequence[str] = ()) -> None:
    """Never gets ready."""
    sys.exit(1)
