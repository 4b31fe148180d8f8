"""`DecoderPool`: read files of strangers in child processes, so that a crash or a bomb costs one request."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from omnisift import errors
from omnisift.errors import Damaged, MediaError, MediaTimeout, OmniSiftError
from omnisift.media import SAMPLE_RATE, Media
from omnisift.media.image import MAX_ASPECT
from omnisift.media.lines import MAX_CHARACTERS, MAX_LINES, Line
from omnisift.media.sampling import MAX_SECONDS, QWEN_MAX_FRAMES
from omnisift.media.subtitles import MAX_BYTES, TextKind
from omnisift.media.work import READ_TIMEOUT
from omnisift.serving.decoder_child import PLAIN, READY

logger = logging.getLogger(__name__)
T = TypeVar("T")

ENTRY = "omnisift.serving.decoder_child:main"
"""Module and function that a child runs."""
MAX_CHILDREN = 4
"""Children at once; each decodes with several threads."""
MAX_USES = 100
"""Files that one child reads, so that what a library leaks is bounded."""
GRACE = 5.0
"""Seconds that a child may take beyond its own time limit, which it can't check inside the decoder."""
START_TIMEOUT = 60.0
DECODER_BYTES = 2 << 30
"""Memory of a child beyond two copies of the largest clip."""
MAX_TIMEOUT = 86_400.0
MAX_HEADER = 1 << 22
MAX_TEXT = 4 * MAX_BYTES
"""Bytes of the lines of a reply. A byte of a file may become three of UTF-8, and each line has its times."""
MAX_MESSAGE = 500

# No secrets of the server. glibc reserves 64 MiB of address space for every arena.
_ENVIRONMENT = {"LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


class ChildDied(Exception):
    """The child ended, or sent what is no reply."""


class DecoderPool:
    """Child processes that read files with `omnisift.media.read`; several threads may use one pool.

    Children start when they are needed, are used again after a success or a typed error, and are replaced after a
    crash, a timeout, or `MAX_USES` files. Memory, processor time and files of a child are limited by the kernel
    (`omnisift.serving.decoder_child`), and its wall time by this process.

    Args:
        options: keyword arguments of `omnisift.media.read` for every file.
        max_children: children at once; None means one per processor, and at most `MAX_CHILDREN`.
        entry: the child's function, for tests.
    """

    def __init__(self, options: Mapping[str, Any], max_children: int | None = None, entry: str = ENTRY) -> None:
        self._options = dict(options)
        self._timeout = min(float(self._options.get("read_timeout", READ_TIMEOUT)), MAX_TIMEOUT)
        self._options["read_timeout"] = self._timeout
        self._max_bytes = _largest_clip(self._options)
        self._entry = entry
        self._slots = threading.BoundedSemaphore(max_children or min(MAX_CHILDREN, os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        weakref.finalize(self, _end_children, self._idle)  # also when the interpreter exits

    def read(self, path: str | os.PathLike[str], text: TextKind = None) -> Media:
        """Read one file.

        Args:
            path: the file.
            text: as `omnisift.media.read` takes it.

        Raises:
            MediaError: the file can't be read; `MediaTimeout` and `TooBig` if it takes too much, `Damaged` if the
                decoder crashed.
            UsageError: an option is out of range.
        """
        if not self._slots.acquire(timeout=self._timeout + GRACE):
            raise MediaTimeout("too many other clips are being read; try again later")
        try:
            child = self._take()
            try:
                return child.read(Path(path), {**self._options, "text": text}, self._timeout, self._max_bytes)
            finally:
                self._put_back(child)
        finally:
            self._slots.release()

    def close(self) -> None:
        """End the children that are idle."""
        with self._lock:
            _end_children(self._idle)

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> _Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.usable:
                    return child
                child.end()
        modules = ["torch"] if self._options.get("sampling") == "qwen" else []
        return _Child(self._entry, DECODER_BYTES + 2 * self._max_bytes, modules)

    def _put_back(self, child: _Child) -> None:
        if not child.usable:
            child.end()
            return
        with self._lock:
            self._idle.append(child)


class _Child:
    """One child process."""

    def __init__(self, entry: str, memory: int, modules: Sequence[str]) -> None:
        module, _, function = entry.partition(":")
        # -I: the path of this process decides what is imported, not the working directory or variables of Python.
        path = [folder or str(Path.cwd()) for folder in sys.path]
        code = (
            f"import sys; sys.path[:] = {path!r}; from {module} import {function} as main; main({memory}, {modules!r})"
        )
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, **_ENVIRONMENT},
            start_new_session=True,
        )
        self._uses = 0
        self._is_broken = False
        self._expired = False
        try:
            ready = self._with_deadline(START_TIMEOUT, lambda: self._stdout.readline(len(READY)))
        except ChildDied:
            ready = b""
        if ready != READY:
            self.end()
            logger.error("the process that decodes media does not start: %s", entry)
            raise MediaError("this server can't read media now; its log has the reason")

    @property
    def usable(self) -> bool:
        """Whether it may get another file."""
        return not self._is_broken and self._uses < MAX_USES and self._process.poll() is None

    @property
    def _stdout(self) -> Any:
        return self._process.stdout

    def read(self, path: Path, options: Mapping[str, Any], timeout: float, max_bytes: int) -> Media:
        """Read one file; see `DecoderPool.read`."""
        self._uses += 1
        self._is_broken = True  # until a complete reply is here
        request = {"path": str(path.absolute()), "options": dict(options), "cpu_seconds": _cpu_seconds(timeout)}
        try:
            media = self._with_deadline(timeout + GRACE, lambda: self._exchange(path, request, max_bytes))
        except ChildDied:
            self.end()
            if self._expired or self._process.returncode == -signal.SIGXCPU:
                raise MediaTimeout(
                    f"{path}: can't be read within {timeout:g} s; give a shorter or smaller file"
                ) from None
            logger.warning("the decoder ended with code %s on a clip", self._process.returncode)
            raise Damaged(f"{path}: the decoder crashed on it; convert the file, or give another") from None
        except OmniSiftError:
            self._is_broken = self._expired
            raise
        self._is_broken = self._expired
        return media

    def _with_deadline(self, seconds: float, work: Callable[[], T]) -> T:
        """What ``work`` returns. The child is killed after ``seconds``, which makes reading from it end."""

        def expire() -> None:
            self._expired = True
            self._process.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            return work()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ChildDied from error
        finally:
            timer.cancel()
            timer.join()

    def _exchange(self, path: Path, request: Mapping[str, Any], max_bytes: int) -> Media:
        stdin: Any = self._process.stdin
        stdin.write(json.dumps(request).encode() + b"\n")
        stdin.flush()
        header = json.loads(self._stdout.readline(MAX_HEADER))
        if "error" in header:
            raise _error_of(header)
        images = self._receive(header["images"], 4, np.uint8, max_bytes)
        waveform = self._receive(header["waveform"], 1, np.float32, max_bytes)
        lines = self._receive_lines(header["lines"])
        plain = {name: header[name] for name in PLAIN} | {"warnings": tuple(map(str, header["warnings"]))}
        times, indices = np.array(header["times"], np.float64), np.array(header["indices"], np.int64)
        if not len(times) == len(indices) == (0 if images is None else len(images)):
            raise ChildDied
        arrays: dict[str, Any] = {"images": images, "times": times, "indices": indices, "waveform": waveform}
        return Media(path=path, lines=lines, **arrays, **plain)

    def _receive(self, shape: list[int] | None, dimensions: int, dtype: Any, max_bytes: int) -> npt.NDArray[Any] | None:
        """The next array; its size is checked before memory is taken for it."""
        if shape is None:
            return None
        sizes = [int(size) for size in shape]
        count = int(np.prod([float(size) for size in sizes]))
        if len(sizes) != dimensions or min(sizes) < 0 or count * np.dtype(dtype).itemsize > max_bytes:
            raise ChildDied
        array = np.empty(sizes, dtype)
        if array.nbytes and self._stdout.readinto(array.data.cast("B")) != array.nbytes:
            raise ChildDied
        return array

    def _receive_lines(self, size: int) -> tuple[Line, ...]:
        """The lines of text, which are of bounded number and length, and in order."""
        if not 0 <= size <= MAX_TEXT:
            raise ChildDied
        lines = tuple(Line(*line) for line in json.loads(self._stdout.read(size))) if size else ()
        starts = [0.0, *(line.start for line in lines)]
        if len(lines) > MAX_LINES or starts != sorted(starts) or not all(map(_is_line, lines)):
            raise ChildDied
        return lines

    def end(self) -> None:
        """End the process and collect it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError, AttributeError):  # a request that was not sent
                pipe.close()  # type: ignore[union-attr]
        self._process.wait()


def _is_line(line: Line) -> bool:
    """Whether a child may have read this line; raises `ValueError` for text that is no Unicode."""
    times = isinstance(line.start, float) and isinstance(line.end, float) and math.isfinite(line.start + line.end)
    return times and len(line.text.encode().decode()) <= MAX_CHARACTERS


def _end_children(children: list[_Child]) -> None:
    while children:
        children.pop().end()


def _cpu_seconds(timeout: float) -> int:
    """Processor time of all threads of a child; it ends a child whose parent is gone."""
    return int(timeout + GRACE + 1) * (os.cpu_count() or 1)


def _largest_clip(options: Mapping[str, Any]) -> int:
    """Bytes of the largest clip that these options allow."""
    max_pixels = options.get("max_pixels", 320 * 784)
    # The short side of an image is never below `factor`, so that a long one may exceed max_pixels.
    largest = max(max_pixels, options.get("factor", 28) * math.sqrt(MAX_ASPECT * max_pixels))
    images = (options.get("max_frames") or QWEN_MAX_FRAMES) * largest * 3
    return int(images + options.get("max_seconds", MAX_SECONDS) * SAMPLE_RATE * 4) + (1 << 20)


def _error_of(reply: Mapping[str, Any]) -> OmniSiftError:
    """The typed error that the child names; another name is no reply."""
    kind = getattr(errors, str(reply["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, (MediaError, errors.UsageError))):
        raise ChildDied
    return kind(" ".join(str(reply["message"]).split())[:MAX_MESSAGE])
