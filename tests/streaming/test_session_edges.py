"""Streams at the edges: large images, short rests of sound, late beginnings, buffers that are used again."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family
from tests.helpers.streams import QUESTION, check_equal, feed, noise, pieces_of
from tests.helpers.windows import clip_of

import omnisift
from omnisift import KeepAll, MemoryBank, NestedBudgets, Piece, Pipeline, SlidingWindow
from omnisift.errors import TooBig, UsageError


@pytest.fixture(scope="module")
def nano() -> Pipeline:
    return omnisift.load("nano", retain=0.25)


@pytest.mark.parametrize(
    ("images", "seconds", "height", "width"),
    [(1, 0.5, 560, 112), (1, 0.5, 112, 560), (2, 0.1, 896, 112), (9, 4.5, 2016, 56), (9, 0.0, 2016, 56)],
)
def test_long_images_with_little_sound(nano: Pipeline, images: int, seconds: float, height: int, width: int) -> None:
    """Their rows take more rotary positions than the sound behind them, from which the text is counted on."""
    check_equal(nano, noise(images, seconds, height, width), max_pixels=4_000_000)


@pytest.mark.parametrize(("images", "seconds"), [(1, 0.5), (2, 0.1), (17, 8.1), (33, 16.7)])
def test_qwen3_omni_with_a_short_rest_of_sound(images: int, seconds: float, tmp_path: Path) -> None:
    """Its audio encoder pads a rest of less than a second behind others."""
    family = "qwen3_omni_moe_thinker"
    side, media = FACTORS[family], clip_of(family, images, seconds)
    pixels = np.random.default_rng(1).integers(0, 256, (images, 12 * side, 11 * side, 3), np.uint8)
    check_equal(omnisift.load(save_family(family, tmp_path)), dataclasses.replace(media, images=pixels))


@pytest.mark.parametrize("fps", [1, 2.5, 4, 5.0, np.float32(2), np.int64(4), Fraction(5, 2)])
def test_frame_rates_of_any_type(nano: Pipeline, fps: Any) -> None:
    media = noise(10, 10 / float(fps))
    check_equal(nano, dataclasses.replace(media, fps=float(fps), times=media.times / float(fps) * 2), fps=fps)


@pytest.mark.parametrize(
    "keep",
    [SlidingWindow(8), NestedBudgets([(4, None), (8, 0.1)]), MemoryBank(4, 20, 4)],
    ids=lambda keep: type(keep).__name__,
)
def test_a_first_image_after_an_hour(nano: Pipeline, keep: omnisift.Policy) -> None:
    """The gap before it takes no positions that the policy would not give."""
    stream, early = nano.stream(keep=keep), nano.stream(keep=keep)
    for piece in pieces_of(noise(17, 8.5)):
        early.feed(piece)
        stream.feed(dataclasses.replace(piece, time=piece.time + 3600))
    assert (stream.report.units, stream.report.gap_seconds) == (4, 3600)
    longest = keep.longest(stream._clock(stream._state))  # type: ignore[arg-type]
    assert longest is not None
    assert stream.report.next_position <= longest
    if not isinstance(keep, MemoryBank):  # which leaves room for its memory
        assert stream.report.next_position == early.report.next_position
    assert stream.ask(QUESTION).text


def test_feed_counts_the_units_that_were_read(nano: Pipeline) -> None:
    """Not the gaps before the first image."""
    stream = nano.stream()
    sound = [Piece(k / 2, samples=np.full(8000, 0.1, np.float32)) for k in range(20)]
    counts = [stream.feed(piece) for piece in sound]
    counts += [stream.feed(dataclasses.replace(piece, time=piece.time + 10)) for piece in pieces_of(noise(20, 10.0))]
    assert sum(counts) == stream.report.units == 4
    assert stream.report.gap_seconds == 10


@pytest.mark.parametrize("time", [-1.0, float("nan"), "0", None])
def test_a_wrong_time_before_the_first_image_changes_nothing(nano: Pipeline, time: Any) -> None:
    stream = nano.stream()
    for piece in (Piece(time, samples=np.zeros(100, np.float32)), Piece(time, image=np.zeros((56, 280, 3), np.uint8))):
        with pytest.raises(UsageError, match="the time of a piece"):
            stream.feed(piece)
    assert stream.unit_seconds is None
    assert feed(stream, noise(8, 4.0)).report.units == 1


def test_a_first_image_that_is_refused_changes_nothing(nano: Pipeline) -> None:
    stream = nano.stream()
    with pytest.raises(TooBig, match="longer than"):
        stream.feed(Piece(0.0, image=np.zeros((1, 1000, 3), np.uint8)))
    seen = feed(stream, noise(8, 4.0))
    assert same(seen, feed(nano.stream(), noise(8, 4.0)))


def test_buffers_may_be_used_again(nano: Pipeline) -> None:
    """Cameras and sound cards write every piece into the same memory; pieces of a stream wait for others."""
    media = dataclasses.replace(noise(31, 5.0), fps=6.0)
    pieces = [Piece(k / 6 + 0.01, image=image) for k, image in enumerate(media.images)]  # type: ignore[arg-type]
    pieces += [piece for piece in pieces_of(media, 1600) if piece.samples is not None]
    # Sound comes first, and out of order.
    pieces.sort(key=lambda piece: piece.time + (0.15 * (round(piece.time * 10) % 2) if piece.image is None else 0.3))
    image, samples = np.zeros_like(media.images[0]), np.zeros(1600, np.float32)  # type: ignore[index]
    direct, reused = nano.stream(keep=KeepAll()), nano.stream(keep=KeepAll())
    for piece in pieces:
        direct.feed(piece)
        if piece.image is not None:
            image[:] = piece.image
            reused.feed(dataclasses.replace(piece, image=image))
        elif piece.samples is not None and len(piece.samples) == 1600:
            samples[:] = piece.samples
            reused.feed(dataclasses.replace(piece, samples=samples))
    assert direct.report.units >= 2
    assert direct.report.silent_seconds == 0
    assert same(direct, reused)


def same(first: omnisift.StreamSession, second: omnisift.StreamSession) -> bool:
    caches = [stream._state.cache.tensors() for stream in (first, second)]  # type: ignore[union-attr]
    return all(torch.equal(one, other) for one, other in zip(*caches, strict=True))


def test_on_text_may_close_a_session_and_not_use_it(nano: Pipeline) -> None:
    stream, said = feed(nano.stream(), noise(8, 4.0)), list[str]()

    def use(text: str) -> None:
        said.append(text)
        for call in (lambda: stream.ask(QUESTION), lambda: stream.feed(Piece(4.0, samples=np.zeros(8000, np.float32)))):
            with pytest.raises(UsageError, match="while the answer is generated"):
                call()

    before = stream.ask(QUESTION).text
    assert stream.ask(QUESTION, on_text=use).text == before
    assert said
    assert stream.ask(QUESTION).text == before
    assert stream.ask(QUESTION, on_text=lambda _: stream.close()).text == before
    with pytest.raises(UsageError, match="closed"):
        stream.ask(QUESTION)


def test_an_error_of_on_text_leaves_the_session_as_it_was(nano: Pipeline) -> None:
    stream = feed(nano.stream(), noise(9, 4.5))
    before = stream.ask(QUESTION)

    def fail(_text: str) -> None:
        raise RuntimeError("the reader went away")

    with pytest.raises(RuntimeError, match="went away"):
        stream.ask(QUESTION, on_text=fail)
    assert stream.ask(QUESTION).text == before.text
    assert feed(stream, noise(27, 13.5)).report.units == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fps": 1e-4}, "fps"), ({"fps": float("nan")}, "fps"), ({"fps": True}, "fps"), ({"peak": True}, "peak")],
)
def test_odd_arguments_are_refused(nano: Pipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        nano.stream(**options)
