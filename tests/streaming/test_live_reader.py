"""`LiveReader`: a slow model falls behind in whole parts, a file waits, and the end is clean."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from omnisift.errors import MediaTimeout, UsageError
from omnisift.media.pieces import Piece
from omnisift.streaming import LiveReader, StreamReport
from omnisift.streaming.assembler import Assembler


class Script:
    """A source that gives as many pieces as it is told to."""

    def __init__(self, pieces: list[Piece], *, is_live: bool, error: Exception | None = None) -> None:
        self.is_live = is_live
        self.given = 0
        self.stopped = threading.Event()
        self.endless = False
        self._pieces, self._error = pieces, error
        self._allowed = threading.Semaphore(0)

    def allow(self, count: int) -> None:
        self._allowed.release(count)

    def stop(self) -> None:
        self.stopped.set()
        self._allowed.release()

    def __iter__(self) -> Iterator[Piece]:
        for piece in self._pieces:
            self._allowed.acquire()
            if self.stopped.is_set():
                return
            self.given += 1
            yield piece
        if self._error is not None:
            raise self._error


def images(seconds: int) -> list[Piece]:
    """Two images for each second."""
    return [Piece(number / 2, image=np.zeros((2, 2, 3), np.uint8)) for number in range(2 * seconds)]


def wait_for(reader: LiveReader, seconds: float) -> None:
    """Wait until the thread has read so much."""
    with reader._changed:
        assert reader._changed.wait_for(lambda: reader._newest >= seconds, 10)


def wait_until_ended(reader: LiveReader) -> None:
    with reader._changed:
        assert reader._changed.wait_for(lambda: reader._has_ended, 10)


@pytest.mark.parametrize("is_live", [True, False])
def test_a_fast_reader_gets_all_pieces_in_order(is_live: bool) -> None:
    pieces = images(60)
    source = Script(pieces, is_live=is_live)
    with LiveReader(source) as reader:
        got = []
        for piece in pieces:
            source.allow(1)
            got.append(reader.take())
            assert got[-1] is piece
            assert reader.behind_seconds == 0
        assert reader.take() is None
    assert (reader.dropped_seconds, reader.notices, reader.seconds) == (0, (), 59.5)


def test_a_slow_reader_of_a_live_source_loses_the_oldest_whole_parts() -> None:
    pieces = images(20)
    source = Script(pieces, is_live=True)
    with LiveReader(source, hold=8.0, part=2.0) as reader:
        source.allow(2)
        first = [reader.take(), reader.take()]  # half of the first part
        source.allow(1000)
        wait_for(reader, 19.5)
        assert reader.behind_seconds == 19.0
        report = reader.completed(StreamReport.empty())
        assert (report.behind_seconds, report.dropped_seconds) == (19.0, 10.0)
        rest = list(reader)
    assert first == pieces[:2]
    # The rest of the part that was begun, then four whole parts: 2 to 12 s are a gap.
    assert [piece.time for piece in rest] == [1.0, 1.5, *(piece.time for piece in pieces if piece.time >= 12)]
    assert reader.dropped_seconds == 10.0
    assert reader.notices == ("the model is slower than the stream: 10 of 19.5 s were left out",)


def test_parts_of_samples_and_images_are_dropped_together() -> None:
    pieces = []
    for number in range(80):
        if number % 2 == 0:
            pieces.append(Piece(number / 4, image=np.zeros((2, 2, 3), np.uint8)))
        pieces.append(Piece(number / 4, samples=np.zeros(4000, np.float32)))
    source = Script(pieces, is_live=True)
    source.allow(1000)
    with LiveReader(source, hold=4.0, part=2.0) as reader:
        wait_for(reader, 20.0)
        rest = list(reader)
    assert [piece for piece in pieces if piece.time >= 14] == rest
    assert reader.dropped_seconds == 14.0


@pytest.mark.parametrize("dropped", [{3}, {3, 4}, {1, 2, 3, 4, 5}, {2, 3, 6}])
def test_a_part_that_is_dropped_is_a_gap_of_the_session(dropped: set[int]) -> None:
    """Without tokens, and not the last image with silence."""
    assembler = Assembler(2.0, unit_images=4, unit_samples=32_000, following=200, scale=lambda image: image)
    units = []
    for number in range(80):
        pieces = [Piece(number / 4, samples=np.ones(4000, np.float32))]
        if number % 2 == 0:
            pieces.insert(0, Piece(number / 4, image=np.full((2, 2, 3), number, np.uint8)))
        for piece in pieces if number // 8 not in dropped else []:
            assembler.add(piece)
            units += list(assembler.ready())
    assert [unit.number for unit in units] == [number for number in range(9) if number not in dropped]
    assert assembler.counted.gap_seconds == 2.0 * len(dropped)
    assert assembler.counted.repeated_images == 0
    # The spectrogram of a unit before a gap sees the silence after it.
    assert assembler.counted.silent_seconds < 0.1
    assert all(unit.samples is not None and (unit.samples == 1).all() for unit in units)


def test_a_file_waits_for_a_slow_reader() -> None:
    pieces = images(60)
    source = Script(pieces, is_live=False)
    source.allow(1000)
    with LiveReader(source, hold=8.0, part=2.0) as reader:
        wait_for(reader, 9.5)
        got = []
        for piece in reader:
            got.append(piece)
            assert source.given <= len(got) + 22
        assert reader.behind_seconds == 0
    assert got == pieces
    assert reader.dropped_seconds == 0


def test_an_error_of_the_source_is_raised_after_the_pieces_before_it() -> None:
    source = Script(images(3), is_live=True, error=MediaTimeout("camera: no data for 30 s"))
    source.allow(1000)
    with LiveReader(source) as reader:
        wait_until_ended(reader)
        assert [reader.take() is None for _ in range(6)] == [False] * 6
        with pytest.raises(MediaTimeout, match="camera: no data for 30 s"):
            reader.take()
        assert reader.take() is None  # once


@pytest.mark.parametrize("is_live", [True, False])
def test_stop_ends_both_sides(is_live: bool) -> None:
    source = Script(images(100), is_live=is_live)
    source.allow(50)
    with LiveReader(source) as reader:
        wait_for(reader, 9.5)
        assert reader.take() is not None
    assert source.stopped.is_set()
    assert not reader._thread.is_alive()
    assert reader.take() is None


def test_take_waits_no_longer_than_asked() -> None:
    source = Script(images(1), is_live=True)
    with LiveReader(source) as reader:
        assert reader.take(timeout=0.01) is None
        source.allow(1)
        assert reader.take(timeout=10) is not None


def test_too_short_a_queue_is_refused() -> None:
    with pytest.raises(UsageError, match="hold must be at least two parts of 2 s, got 3 s"):
        LiveReader(Script([], is_live=True), hold=3.0)
