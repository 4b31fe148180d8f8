"""Where the bytes of a clip come from: a file on disk, or a seekable binary file object."""

from __future__ import annotations

import io
import operator
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from omnisift.errors import Blocked, MediaError, NotAFile, NotFound, NotMedia, NotReadable, OmniSiftError, UsageError
from omnisift.media.suffixes import MEDIA_SUFFIXES
from omnisift.media.work import WorkBudget

MediaFile: TypeAlias = "str | os.PathLike[str] | BinaryIO"
"""What `read` takes: a path, or a file object that was opened for reading bytes and can seek."""

HEAD = 512
"""Bytes by which a refused file is explained."""

ACCEPTED = "give a path, a file object opened with 'rb', or Media.from_arrays(frames, fps)"


class FileObject:
    """A user's file object, with every answer checked.

    PyAV copies what ``read`` returns into a buffer of the asked size, so a longer answer must never reach it. After the
    first failure the file ends: FFmpeg stops reading, and `Source.opened` raises what happened.
    """

    def __init__(self, stream: Any, name: str, size: int) -> None:
        self.name = name
        """What FFmpeg sees as the file's name: at most a known suffix."""
        self.size = size
        self.failure: BaseException | None = None
        self.budget: WorkBudget | None = None
        self.stream = stream
        """The user's object."""

    def read_at(self, position: int, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end and after a failure."""
        if self.failure is not None:
            return b""
        try:
            if self.budget is not None:
                self.budget.check_time()
            self.stream.seek(position)
            data = self.stream.read(size)
            if not isinstance(data, bytes):
                raise TypeError(f"read returned {type(data).__name__}, not bytes")
            if len(data) > size:
                raise ValueError(f"read returned {len(data)} bytes for {size}")
            if not data and position < self.size:
                raise EOFError(f"it ends after {position} of {self.size} bytes")
        except BaseException as error:  # raised by `Source.opened`: PyAV would lose an interrupt
            self.failure = error
            return b""
        return data


class FileView:
    """What FFmpeg gets for a file object; each opened container has a view with a position of its own."""

    def __init__(self, content: FileObject) -> None:
        self.name = content.name
        self._content = content
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes from the position on."""
        data = self._content.read_at(self._position, size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; the user's object is only ever sent to absolute positions."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._content.size}[whence]
        if start + offset < 0:
            return -1  # for FFmpeg an error, which it handles
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position


@dataclass(frozen=True)
class Source:
    """A checked clip on disk or in a file object; as text its name."""

    path: Path
    """Of the file; for a file object its name, or its class as ``<BytesIO>``."""
    content: FileObject | None = None
    """The file object; None for a file on disk."""

    def __str__(self) -> str:
        return str(self.path)

    def head(self, size: int = HEAD) -> bytes:
        """Return the first bytes.

        Raises:
            NotReadable: the file can't be read.
        """
        if self.content is not None:
            return self.content.read_at(0, size)
        try:
            with self.path.open("rb") as handle:
                return handle.read(size)
        except OSError:
            raise NotReadable("can't be read; check the permissions of the file") from None

    def state(self) -> tuple[int, int] | None:
        """Size and modification time (ns) of a file on disk; None if it is gone, and for a file object."""
        if self.content is None:
            with suppress(OSError):
                found = self.path.stat()
                return found.st_size, found.st_mtime_ns
        return None

    @contextmanager
    def opened(self, budget: WorkBudget) -> Iterator[None]:
        """Read within the block. A file object gets its position back, and what it raised is raised at the end.

        Args:
            budget: what reading may cost; also checked at each access to a file object.

        Raises:
            NotReadable: the file object failed, or did not return what it was asked for.
        """
        if self.content is None:
            yield
            return
        self.content.budget = budget
        with _restored(self.content.stream):
            try:
                yield
            except Exception:
                # What FFmpeg says about a file that ends too early is only a consequence.
                self._raise_failure()
                raise
            self._raise_failure()

    def _raise_failure(self) -> None:
        failure = None if self.content is None else self.content.failure
        if isinstance(failure, MediaError) or not isinstance(failure, (Exception, type(None))):
            raise failure  # the time is over, or the user interrupts
        if failure is not None:
            raise NotReadable(_cause(failure)) from None


def check_source(source: MediaFile) -> Source:
    """Check that a path names a regular, readable file, or that a file object can be read as one.

    The decoder would wait for ever on a pipe and fail unclearly on a folder, so the kind is checked first.

    Args:
        source: a path, or a binary file object that can seek.

    Raises:
        Blocked: the path is a URL.
        NotFound: nothing is there.
        NotAFile: a folder, pipe, socket or device is there.
        NotReadable: permission is missing, or the file object fails.
        NotMedia: the file is empty.
        UsageError: ``source`` is neither a path nor a binary file object that can seek.
    """
    if isinstance(source, (str, os.PathLike)):
        return _check_path(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        hint = "wrap the content of a file in io.BytesIO, or give its path as str"
        raise UsageError(f"a clip can't be read from {type(source).__name__}; {hint}")
    if not all(callable(getattr(source, name, None)) for name in ("read", "seek", "tell")):
        hint = ", which can't seek; read it into io.BytesIO" if hasattr(source, "read") else f"; {ACCEPTED}"
        raise UsageError(f"a clip can't be read from {type(source).__name__}{hint}")
    return _check_stream(source)


def describe_file(path: object) -> str:
    """Return the path for a message of one line: short, without control characters."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 300 else f"{text[:150]}...{text[-140:]}"


def _check_path(path: str | os.PathLike[str]) -> Source:
    file = Path(os.fsdecode(path))
    if "://" in str(path) and not file.exists():
        raise Blocked(f"{describe_file(path)}: URLs are not fetched; download the file and give its path")
    try:
        state = file.stat()
    except PermissionError:
        raise NotReadable(f"{describe_file(file)}: permission denied; check the permissions of its folders") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid name"
        raise NotFound(f"{describe_file(file)}: can't be found ({reason}); check the path") from None
    _check_kind(file, state)
    if not state.st_size:  # files of the kernel, such as /proc/kmsg, have no size either and may block a reader
        raise NotMedia(f"{describe_file(file)} is empty (0 bytes); give a media file")
    if not os.access(file, os.R_OK):
        raise NotReadable(f"{describe_file(file)}: permission denied; check the permissions of the file")
    return Source(file)


def _check_stream(stream: Any) -> Source:
    path = _name_of(stream)
    name = describe_file(path)
    if getattr(stream, "closed", False) is True:
        raise UsageError(f"{name}: the file object is closed; open it, and close it after reading")
    # A text file returns str even where nothing is left to read.
    if isinstance(stream, io.TextIOBase) or hasattr(stream, "encoding"):
        raise UsageError(f"{name}: the file object was opened for text; open it with 'rb'")
    readable, seekable = (getattr(stream, method, lambda: True) for method in ("readable", "seekable"))
    try:
        if not readable():
            raise UsageError(f"{name}: the file object was not opened for reading; open it with 'rb'")
        if not seekable():
            raise UsageError(f"{name}: the file object can't seek; read it into io.BytesIO")
        with suppress(OSError, AttributeError, TypeError, NotImplementedError):  # most objects have no descriptor
            _check_kind(path, os.fstat(stream.fileno()))
        size = _size(stream)
    except OmniSiftError:
        raise
    except Exception as error:  # a user's object may raise anything; the cause is named
        raise NotReadable(f"{name}: {_cause(error)}") from None
    if size <= 0:
        raise NotMedia(f"{name} is empty (0 bytes); give a media file")
    suffix = path.suffix.lower()
    return Source(path, FileObject(stream, "clip" + (suffix if suffix in MEDIA_SUFFIXES else ""), size))


def _size(stream: Any) -> int:
    """Bytes of a file object, from its position at the end."""
    with _restored(stream):
        stream.seek(0, io.SEEK_END)
        return operator.index(stream.tell())


@contextmanager
def _restored(stream: Any) -> Iterator[None]:
    """Put a file object back to its position after the block."""
    position = stream.tell()
    try:
        yield
    finally:
        with suppress(Exception):  # an object that can't go back has failed before
            stream.seek(position)


def _name_of(stream: Any) -> Path:
    """The name of a file object; its class where it has none, as in memory."""
    name = None
    with suppress(Exception):  # a property of a closed or detached object may raise
        name = stream.name
    return Path(name) if isinstance(name, (str, os.PathLike)) and str(name) else Path(f"<{type(stream).__name__}>")


def _cause(error: Exception) -> str:
    """The reason why a file object can't be read, on one line."""
    reason = " ".join(describe_file(error).split())
    return f"the file object can't be read ({type(error).__name__}: {reason}); give a path, or read it into io.BytesIO"


def _check_kind(path: Path, state: os.stat_result) -> None:
    if stat.S_ISREG(state.st_mode):
        return
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    kind = kinds.get(stat.S_IFMT(state.st_mode), "device")
    raise NotAFile(f"{describe_file(path)} is a {kind}, not a file; give the path of a media file")
