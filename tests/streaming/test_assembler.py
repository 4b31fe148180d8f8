"""Pieces in any order, late, missing, doubled, and gaps: what becomes of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisift import Piece
from omnisift.errors import UsageError
from omnisift.streaming.assembler import MAX_DELAY, Assembler, Unit

RATE, FOLLOWING = 16_000, 400


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value % 256, np.uint8)


def assembler(samples: int = 32_000, fps: float = 2.0) -> Assembler:
    return Assembler(fps, 4, samples, FOLLOWING if samples else 0, lambda found: found)


def wave(begin: float, end: float) -> np.ndarray:
    """Samples whose values say where they belong."""
    return (np.arange(round(begin * RATE), round(end * RATE)) / 1e7 + 0.001).astype(np.float32)


def stream(seconds: float, parts: Sequence[float] = (0.25,), fps: float = 2.0) -> list[Piece]:
    """Images at even moments, whose values are their numbers, and samples in parts of the given lengths."""
    pieces = [Piece(k / fps, image=image(k)) for k in range(round(seconds * fps))]
    begin, number = 0.0, 0
    while begin < seconds:
        end = min(seconds, begin + parts[number % len(parts)])
        pieces.append(Piece(begin, samples=wave(begin, end)))
        begin, number = end, number + 1
    return sorted(pieces, key=lambda piece: piece.time)


def run(pieces: Sequence[Piece], collector: Assembler | None = None) -> tuple[list[Unit], Assembler]:
    collector = collector or assembler()
    units: list[Unit] = []
    for piece in pieces:
        collector.add(piece)
        units += collector.ready()
    return units, collector


def values(unit: Unit) -> list[int]:
    return [int(found[0, 0, 0]) for found in unit.images]


def check_whole(units: Sequence[Unit]) -> None:
    """Every image and every sample is in its place."""
    for number, unit in enumerate(units):
        assert unit.number == number
        assert values(unit) == [(4 * number + k) % 256 for k in range(4)]
        assert unit.samples is not None
        assert unit.following is not None
        heard = np.concatenate([unit.samples, unit.following])
        assert np.array_equal(heard, wave(2 * number, 2 * number + 2 + FOLLOWING / RATE))


@given(
    st.floats(0.02, 0.49),
    st.integers(0, 2**32),
    st.floats(0.0, MAX_DELAY * 0.9),
)
@settings(max_examples=40, deadline=None)
def test_pieces_in_any_order_within_the_delay_make_the_same_units(length: float, seed: int, delay: float) -> None:
    """Whatever the lengths of the pieces, as long as none comes later than `MAX_DELAY` after a later one."""
    chance = random.Random(seed)
    pieces = sorted(stream(9.0, [length]), key=lambda piece: piece.time + chance.uniform(0, delay))
    units, collector = run(pieces)
    assert len(units) == 4
    check_whole(units)
    assert collector.counted == type(collector.counted)()


def test_a_camera_gives_the_last_image_before_each_moment() -> None:
    """Thirty images per second, of which two are used: those shown at the moments."""
    pieces = [Piece(k / 30, image=image(k)) for k in range(150)]
    units, collector = run(pieces, assembler(0))
    assert [values(unit) for unit in units] == [[0, 15, 30, 45], [60, 75, 90, 105]]
    assert not collector.counted.late_pieces
    assert not collector.counted.doubled_pieces


def test_an_image_that_another_replaced_before_it_came_is_not_late() -> None:
    """The one at 0.8 s comes within the delay, after the one at 1.0 s, which stands for its moment in any order."""
    times = [0.0, 0.5, 1.0, 0.8, 1.5, 2.0, 2.5]
    units, collector = run([Piece(time, image=image(round(10 * time))) for time in times], assembler(0))
    assert values(units[0]) == [0, 5, 10, 15]
    assert collector.counted == type(collector.counted)()


def test_a_missing_image_is_the_one_before() -> None:
    pieces = [piece for piece in stream(9.0) if piece.image is None or piece.time not in (1.0, 1.5, 3.0)]
    units, collector = run(pieces)
    assert [values(unit) for unit in units[:2]] == [[0, 1, 1, 1], [4, 5, 5, 7]]
    assert collector.counted.repeated_images == 3


def test_missing_samples_are_silence() -> None:
    pieces = [piece for piece in stream(9.0) if piece.samples is None or not 2.5 <= piece.time < 3.75]
    units, collector = run(pieces)
    heard = units[1].samples
    assert heard is not None
    assert np.array_equal(heard[:8000], wave(2.0, 2.5))
    assert not heard[8000:28_000].any()
    assert np.array_equal(heard[28_000:], wave(3.75, 4.0))
    assert collector.counted.silent_seconds == pytest.approx(1.25)
    check_whole(units[:1])


def test_a_unit_without_pieces_is_a_gap_and_time_goes_on() -> None:
    """However long: a gap of a year takes no more steps than one of a unit."""
    year = 3.0e7
    early, late = stream(4.5), stream(9.0)
    units, collector = run([*early, *(Piece(p.time + year, p.image, p.samples) for p in late)])
    assert [unit.number for unit in units[:2]] == [0, 1]
    after = [unit for unit in units if unit.number >= year / 2 and unit.images]
    assert [unit.number for unit in after] == [year / 2 + k for k in range(4)]
    assert [values(unit) for unit in after[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert np.array_equal(after[0].samples, wave(0, 2))  # type: ignore[arg-type]
    assert collector.counted.gap_seconds == pytest.approx(year - 6.0, abs=4.0)
    assert len(units) < 12


def test_before_the_first_image_there_are_gaps() -> None:
    pieces = [piece for piece in stream(9.0) if piece.image is None or piece.time >= 4.0]
    units, collector = run(pieces)
    with_images = [unit for unit in units if unit.images]
    assert [unit.number for unit in with_images] == [2, 3]
    assert collector.counted.gap_seconds == pytest.approx(4.0)
    assert np.array_equal(with_images[0].samples, wave(4, 6))  # type: ignore[arg-type]


def test_what_comes_too_late_or_twice_is_counted_and_left_out() -> None:
    pieces = stream(9.0)
    late = [piece for piece in pieces if piece.time == 1.0]
    rest = [piece for piece in pieces if piece.time != 1.0]
    units, collector = run([*rest, *late])
    assert collector.counted.late_pieces == 2
    assert collector.counted.doubled_pieces == 0
    assert values(units[0]) == [0, 1, 1, 3]
    twice, collector = run([piece for piece in pieces for _ in range(2)])
    check_whole(twice)
    assert collector.counted.doubled_pieces >= len(pieces) - 4
    assert collector.counted.silent_seconds == 0


def test_small_errors_of_the_clock_move_no_sample() -> None:
    """Within 50 ms of the end of the last samples, the next ones follow them."""
    pieces = [
        piece if piece.samples is None else Piece(max(0.0, piece.time + 0.03 * (-1) ** k), samples=piece.samples)
        for k, piece in enumerate(stream(9.0))
    ]
    units, collector = run(sorted(pieces, key=lambda piece: piece.time))
    check_whole(units)
    assert collector.counted.silent_seconds == 0


def test_samples_behind_silence_are_in_their_place() -> None:
    """Silence is filled in up to a unit's end, 40 ms before the next samples: they don't follow it."""
    last = round(2.04 * RATE) + FOLLOWING
    images = [Piece(k / 2, image=image(k)) for k in range(20)]
    sound = [Piece(0.0, samples=wave(0, 1.5)), Piece(last / RATE, samples=wave(last / RATE, 9.0))]
    units, collector = run(sorted([*images, *sound], key=lambda piece: piece.time))
    heard = units[1].samples
    assert heard is not None
    assert not heard[: last - 32_000].any()
    assert np.array_equal(heard[last - 32_000 :], wave(last / RATE, 4.0))
    assert collector.counted.silent_seconds == pytest.approx(last / RATE - 1.5, abs=1e-4)


def test_sound_that_stops_does_not_stop_the_stream() -> None:
    units, collector = run([piece for piece in stream(14.0) if piece.image is not None or piece.time < 3.0])
    assert len(units) == 6
    assert collector.counted.silent_seconds > 8
    units, collector = run([piece for piece in stream(14.0) if piece.samples is not None or piece.time < 3.0])
    assert [values(unit)[-1] for unit in units] == [3, 5, 5, 5, 5, 5]


def test_looking_at_an_unfinished_unit_changes_nothing() -> None:
    pieces = stream(7.0)
    looked, plain = assembler(), assembler()
    for piece in pieces:
        for collector in (looked, plain):
            collector.add(piece)
        looked.unfinished()
        ahead = looked.unfinished()
        units = [list(looked.ready()), list(plain.ready())]
        assert [unit.number for unit in units[0]] == [unit.number for unit in units[1]]
        for one, other in zip(*units, strict=True):
            assert values(one) == values(other)
            assert np.array_equal(one.samples, other.samples)  # type: ignore[arg-type]
        if ahead is not None:
            assert 1 <= len(ahead.images) <= 4
    assert looked.counted == plain.counted
    last = looked.unfinished()
    assert last is not None
    assert values(last) == [12, 13]
    assert np.array_equal(last.samples, wave(6, 7))  # type: ignore[arg-type]


@pytest.mark.parametrize("time", [-0.1, float("nan"), float("inf"), 2e8, True, "1", None])
def test_times_that_are_none_are_refused(time: object) -> None:
    with pytest.raises(UsageError, match="the time of a piece"):
        assembler().add(Piece(time, image=image(0)))  # type: ignore[arg-type]


def test_what_waits_is_bounded() -> None:
    """Images far ahead of their turn, and samples behind a hole, in any number."""
    collector = assembler()
    collector.add(Piece(0.0, image=image(0), samples=wave(0, 0.1)))
    for k in range(5000):
        collector.add(Piece(0.2 + k * 1e-5, image=image(k), samples=wave(0.3, 0.301)))
    assert len(collector._waiting) < 5
    assert len(collector._behind) <= 1000


def test_the_first_image_stands_for_the_moments_before_it() -> None:
    """A camera's first image comes a little after the stream began."""
    pieces = [Piece(time, image=image(number)) for number, time in enumerate((0.7, 1.2, 1.7, 2.2, 2.7))]
    units, collector = run(pieces[:2], assembler(samples=0))
    unfinished = collector.unfinished()
    assert (units, unfinished is None) == ([], False)
    assert values(unfinished) == [0, 0, 0, 1]
    units, collector = run(pieces, assembler(samples=0))
    assert [values(unit) for unit in units] == [[0, 0, 0, 1]]
    assert collector.counted.gap_seconds == 0


def test_one_piece_may_hold_many_units() -> None:
    """Ten minutes of samples in a piece: each unit has its own, and what is left is not copied for each."""
    seconds = 600
    collector = assembler()
    units, _ = run([Piece(0.0, image=image(0), samples=wave(0, seconds))], collector)
    images = [Piece(k / 2, image=image(k)) for k in range(1, 2 * seconds)]
    more, _ = run(images, collector)
    units += more
    assert len(units) == seconds // 2 - 1
    check_whole(units)
