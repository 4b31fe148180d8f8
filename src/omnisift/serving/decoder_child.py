"""The child process of `DecoderPool`: reads files one after the other, with limits that the kernel enforces.

A request is one line of JSON on stdin. A reply is one line of JSON on stdout, then the bytes of the images and of the
waveform, then the lines of text as JSON. Nothing is pickled, so that a decoder which is taken over can only send a
wrong clip.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from omnisift.errors import OmniSiftError
from omnisift.media import Media, read

READY = b"ready\n"
"""Sent once, when the limits are set."""
MAX_FILES = 64
PLAIN = ("fps", "seconds", "video_seconds", "capped", "bad_packets", "warnings", "tags")
"""Fields of `Media` that the JSON of a reply holds under their own names."""


def main(memory: int, modules: Sequence[str] = ()) -> None:
    """Answer requests until stdin ends.

    Args:
        memory: bytes of address space beyond what the process has mapped by then.
        modules: imported before that; torch alone may map more than a clip needs.
    """
    for module in modules:
        import_module(module)
    serve(read, memory)


def serve(reader: Callable[..., Media], memory: int) -> None:
    """As `main`, with another function than `omnisift.media.read`."""
    # Only this file object can write replies: prints of libraries go where errors go.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes stdin
    _set_limits(memory)
    replies.write(READY)
    replies.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_cpu(request["cpu_seconds"])
        try:
            media = reader(request["path"], **request["options"])
        except OmniSiftError as error:
            replies.write(_line({"error": type(error).__name__, "message": str(error)}))
        else:
            _send(replies, media)
        replies.flush()


def _set_limits(memory: int) -> None:
    """Bound memory and files; no core file holds a client's media, and nothing can be written to the disk."""
    limits = {
        resource.RLIMIT_AS: _mapped_bytes() + memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: MAX_FILES,
    }
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with suppress(ValueError):  # macOS has no limit on address space
            resource.setrlimit(kind, (value, value))


def _mapped_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux
        return 1 << 30


def _limit_cpu(seconds: int) -> None:
    """Let the kernel end this process after so many further seconds of processor time, of all threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _send(replies: Any, media: Media) -> None:
    header = {name: getattr(media, name) for name in PLAIN}
    header |= {"tags": dict(media.tags), "times": media.times.tolist(), "indices": media.indices.tolist()}
    header["images"] = None if media.images is None else list(media.images.shape)
    header["waveform"] = None if media.waveform is None else list(media.waveform.shape)
    lines = [[line.start, line.end, line.text] for line in media.lines]
    text = json.dumps(lines, ensure_ascii=False).encode() if lines else b""
    header["lines"] = len(text)
    replies.write(_line(header))
    for array in (media.images, media.waveform):
        if array is not None:
            replies.write(np.ascontiguousarray(array).data.cast("B"))
    replies.write(text)


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
