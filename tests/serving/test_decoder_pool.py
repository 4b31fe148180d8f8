"""Files of strangers are read in child processes: whatever happens there costs one request."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tests.media.bombs import write_bomb
from tests.serving.bad_decoders import LIES

from omnisift.errors import Damaged, MediaError, MediaTimeout, NotFound, NotMedia, NoVideo, TooBig, UsageError
from omnisift.media import read
from omnisift.serving import decoder_pool
from omnisift.serving.decoder_pool import DecoderPool

OPTIONS = {"max_pixels": 16 * 784, "min_pixels": 784, "read_timeout": 2.0}
BAD = "tests.serving.bad_decoders:main"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderPool]:
    """One child that misbehaves if a file is called so."""
    monkeypatch.setattr(decoder_pool, "GRACE", 0.5)
    monkeypatch.setenv("SECRET", "key")
    with DecoderPool(OPTIONS, max_children=1, entry=BAD) as made:
        yield made


def named(clip: Path, folder: Path, name: str) -> Path:
    path = folder / f"{name}.mp4"
    shutil.copy(clip, path)
    return path


def test_a_clip_is_the_same_as_in_this_process(clip: Path) -> None:
    with DecoderPool(OPTIONS) as pool:
        here, there = read(clip, **OPTIONS), pool.read(clip)
    for field in fields(here):
        ours, theirs = getattr(here, field.name), getattr(there, field.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
        else:
            assert ours == theirs, field.name
    assert there.images.flags.writeable


def test_lines_come_back_when_asked(clip: Path, tmp_path: Path) -> None:
    """As many as a reply without a bound for them could not hold."""
    path = named(clip, tmp_path, "talk")
    rows = [f"00:00:0{n // 1000 % 5},{n % 1000:03} --> 00:00:06,000\n{n} \u4e2d {'x' * 300}\n" for n in range(15_000)]
    path.with_suffix(".srt").write_text("\n".join(f"{n}\n{row}" for n, row in enumerate(rows)), encoding="utf-8")
    options = OPTIONS | {"read_timeout": 60.0}
    with DecoderPool(options, max_children=1) as pool:
        there = pool.read(path, text="subtitles")
        assert len(there.lines) == 15_000
        assert there.lines == read(path, **options, text="subtitles").lines
        assert pool.read(path).lines == (), "subtitles are read for the one who asked"
        path.with_suffix(".srt").write_bytes(b"\0\1\2" * 100)
        with pytest.raises(MediaError, match=r"talk\.mp4: its subtitles talk\.srt: "):
            pool.read(path, text="subtitles")


def test_typed_errors_come_back(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"not a video")
    with DecoderPool({**OPTIONS, "require_video": True}, max_children=1) as pool:
        pool.read(clip)
        (child,) = pool._idle
        with pytest.raises(NotMedia, match=r"text\.mp4: is not recognised"):
            pool.read(tmp_path / "text.mp4")
        with pytest.raises(NotFound):
            pool.read(tmp_path / "none.mp4")
        write_bomb(tmp_path / "wide.mkv", 2, (16_000, 64))
        with pytest.raises(TooBig, match="longer than 200"):
            pool.read(tmp_path / "wide.mkv")
        assert pool._idle == [child], "the process is used again"
    with DecoderPool({**OPTIONS, "fps": 0}) as pool, pytest.raises(UsageError, match="fps must be"):
        pool.read(clip)
    assert NoVideo.__name__  # named by the child, found in omnisift.errors


@pytest.mark.parametrize("name", ["abort", "segfault", "illegal", "leave", "untyped", "recursion", "write", "stop"])
def test_a_crash_costs_one_request(pool: DecoderPool, clip: Path, tmp_path: Path, name: str) -> None:
    pool.read(clip)
    (before,) = pool._idle
    kind = MediaTimeout if name == "stop" else Damaged
    with pytest.raises(kind, match=f"^{tmp_path}/{name}.mp4: .*; .* smaller file$|: the decoder crashed on it; "):
        pool.read(named(clip, tmp_path, name))
    assert pool._idle == []
    assert before._process.returncode is not None, "it was collected"
    assert len(pool.read(clip).images) == len(read(clip, **OPTIONS).images)
    assert [path.stat().st_size for path in tmp_path.glob("*.txt")] in ([], [0]), "nothing was written"


@pytest.mark.parametrize("name", ["spin", "sleep"])
def test_a_hang_costs_one_request(pool: DecoderPool, clip: Path, tmp_path: Path, name: str) -> None:
    pool.read(clip)
    begin = time.monotonic()
    with pytest.raises(MediaTimeout, match="can't be read within 2 s"):
        pool.read(named(clip, tmp_path, name))
    assert time.monotonic() - begin < 4
    pool.read(clip)


def test_memory_is_limited(pool: DecoderPool, clip: Path, tmp_path: Path) -> None:
    """numpy raises, and the error of the child is no typed one: it is replaced."""
    with pytest.raises(Damaged):
        pool.read(named(clip, tmp_path, "allocate"))
    pool.read(clip)


def test_prints_and_variables(pool: DecoderPool, clip: Path, tmp_path: Path) -> None:
    """A library that prints does not disturb the reply, and the child has no variables of the server."""
    pool.read(named(clip, tmp_path, "print"))
    pool.read(named(clip, tmp_path, "environment"))
    assert len(pool._idle) == 1


@pytest.mark.parametrize("name", LIES)
def test_a_child_that_lies_is_not_believed(clip: Path, tmp_path: Path, name: str) -> None:
    with DecoderPool(OPTIONS, max_children=1, entry="tests.serving.bad_decoders:liar") as pool:
        path = named(clip, tmp_path, name)
        if name == "honest":
            assert pool.read(path).images.shape == (2, 28, 28, 3)
            return
        with pytest.raises(Damaged, match="the decoder crashed"):
            pool.read(path)


def test_a_bomb(tmp_path: Path, clip: Path) -> None:
    """277 kB took 43 s of processor time."""
    write_bomb(tmp_path / "bomb.mkv", 1000, (4096, 2160))
    with DecoderPool({**OPTIONS, "read_timeout": 1.0}, max_children=1) as pool:
        pool.read(clip)
        (child,) = pool._idle
        begin = time.monotonic()
        with pytest.raises(MediaTimeout, match=r"bomb\.mkv: can't be read within read_timeout=1 s"):
            pool.read(tmp_path / "bomb.mkv")
        assert time.monotonic() - begin < 4
        pool.read(clip)
        assert pool._idle == [child], "the limit is checked between packets, so nothing had to be killed"
    with DecoderPool({**OPTIONS, "max_decoded_pixels": 10**9}) as pool, pytest.raises(TooBig, match="max_decoded"):
        pool.read(tmp_path / "bomb.mkv")


def test_processor_time_is_limited_by_the_kernel(monkeypatch: pytest.MonkeyPatch, clip: Path, tmp_path: Path) -> None:
    """As if the parent were gone and could not kill."""
    monkeypatch.setattr(decoder_pool, "GRACE", 30.0)
    monkeypatch.setattr(decoder_pool, "_cpu_seconds", lambda timeout: 1)
    with DecoderPool({**OPTIONS, "read_timeout": 60.0}, max_children=1, entry=BAD) as pool:
        begin = time.monotonic()
        with pytest.raises(MediaTimeout):
            pool.read(named(clip, tmp_path, "spin"))
        assert time.monotonic() - begin < 30


def test_a_child_killed_while_idle_is_replaced(pool: DecoderPool, clip: Path) -> None:
    first = pool.read(clip)
    killed = pool._idle[0]
    os.kill(killed._process.pid, signal.SIGKILL)
    killed._process.wait()
    assert np.array_equal(pool.read(clip).images, first.images)
    assert killed not in pool._idle


def test_a_child_reads_a_bounded_number_of_files(
    pool: DecoderPool, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_pool, "MAX_USES", 2)
    pool.read(clip)
    (first,) = pool._idle
    pool.read(clip)
    assert pool._idle == []
    assert first._process.returncode is not None


def test_a_child_that_does_not_start(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = DecoderPool(OPTIONS, entry="tests.serving.bad_decoders:late")
    with pytest.raises(MediaError, match="this server can't read media now"):
        pool.read(clip)
    assert "does not start" in caplog.text


def test_threads_share_the_children(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "GRACE", 0.5)
    names = ["good", "abort", "text", "good", "spin", "good", "untyped", "good"]
    (tmp_path / "text.mp4").write_bytes(b"no video")
    outcomes: dict[int, str] = {}
    with DecoderPool(OPTIONS, max_children=2, entry=BAD) as pool:

        def ask(index: int) -> None:
            path = tmp_path / f"{names[index % 8]}.mp4"
            try:
                pool.read(path if path.exists() else named(clip, tmp_path, path.stem))
                outcomes[index] = "good"
            except MediaError as error:
                outcomes[index] = type(error).__name__

        for name in set(names) - {"text"}:
            named(clip, tmp_path, name)
        threads = [threading.Thread(target=ask, args=(index,)) for index in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(pool._idle) <= 2
    kinds = {"good": "good", "abort": "Damaged", "untyped": "Damaged", "text": "NotMedia", "spin": "MediaTimeout"}
    wrong = {index: got for index, got in outcomes.items() if got != kinds[names[index % 8]]}
    # A request may also find both children busy for too long.
    assert set(wrong.values()) <= {"MediaTimeout"}, wrong
    assert len(outcomes) == 16


def test_a_child_ends_with_its_parent(clip: Path) -> None:
    pool = DecoderPool(OPTIONS, max_children=1)
    pool.read(clip)
    process = pool._idle[0]._process
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    pool.close()
