"""Bounds on the work of reading: pixels and seconds, whatever the size of the file."""

from __future__ import annotations

import time
from pathlib import Path

import clip_writer
import numpy as np
import pytest
from bombs import write_bomb

from omnisift.errors import MediaTimeout, TooBig, UsageError
from omnisift.media import read, work

SMALL = {"min_pixels": 784, "max_pixels": 16 * 784}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    write_bomb(folder / "vp9.mkv", 2000, (4096, 2160))
    write_bomb(folder / "vp9.webm", 2000, (4096, 2160))
    write_bomb(folder / "h264.mp4", 2000, (4096, 2160), "libx264")
    write_bomb(folder / "h264.ts", 2000, (4096, 2160), "libx264")
    clip_writer.write(
        folder / "sound.flac", video=None, audio="flac", rate=96_000, layout="7.1",
        waveform=np.zeros((8, 96_000 * 120), np.float32),
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ["vp9.mkv", "vp9.webm", "h264.mp4", "h264.ts"])
def test_pixels_are_bounded(bombs: Path, name: str) -> None:
    begin = time.process_time()
    with pytest.raises(TooBig, match=rf"{name}: more than max_decoded_pixels=1000000000 must be decoded; "):
        read(bombs / name, max_decoded_pixels=10**9, **SMALL)
    assert time.process_time() - begin < 3


@pytest.mark.parametrize("name", ["vp9.mkv", "vp9.webm", "h264.mp4", "h264.ts"])
def test_seconds_are_bounded(bombs: Path, name: str) -> None:
    begin = time.monotonic()
    with pytest.raises(MediaTimeout, match=rf"{name}: can't be read within read_timeout=0\.5 s; "):
        read(bombs / name, read_timeout=0.5, **SMALL)
    assert time.monotonic() - begin < 3


def test_sound_alone_is_bounded_by_seconds(bombs: Path) -> None:
    with pytest.raises(MediaTimeout, match=r"sound\.flac: .*read_timeout=0\.05 s"):
        read(bombs / "sound.flac", read_timeout=0.05)


def test_reading_the_headers_of_many_packets_counts(bombs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass has no decoder whose pixels could be counted."""
    clock = iter(np.arange(0.0, 1e6, 0.01))
    monkeypatch.setattr(work.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(MediaTimeout):
        read(bombs / "vp9.mkv", read_timeout=15.0, **SMALL)
    assert next(clock) == pytest.approx(15.0, abs=0.1), "after 1500 packets of 2000"


def test_the_exact_number_of_pixels(tmp_path: Path) -> None:
    """100 frames of 64 x 48 are decoded for 8 images; with a limit on the images only those that they need."""
    clip_writer.write(tmp_path / "clip.mp4", gop=200)
    pixels = 88 * 64 * 48  # up to the last sampled frame
    read(tmp_path / "clip.mp4", max_decoded_pixels=pixels, **SMALL)
    with pytest.raises(TooBig):
        read(tmp_path / "clip.mp4", max_decoded_pixels=pixels - 1, **SMALL)
    read(tmp_path / "clip.mp4", max_decoded_pixels=1, video=False)
    read(tmp_path / "clip.mp4", max_decoded_pixels=13 * 64 * 48, end=1.0, **SMALL)


def test_a_stated_size_is_refused_before_anything_is_decoded(bombs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnisift.media.decoders.VideoDecoder._decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(TooBig):
        read(bombs / "vp9.mkv", max_decoded_pixels=10**9, **SMALL)


def test_frames_that_are_larger_than_stated_count_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_writer.write(tmp_path / "clip.mkv", gop=200)
    monkeypatch.setattr(work.WorkBudget, "check_pixels", lambda *_: None)
    spent: list[int] = []
    monkeypatch.setattr(work.WorkBudget, "spend", lambda _, pixels: spent.append(pixels))
    read(tmp_path / "clip.mkv", **SMALL)
    assert spent == [64 * 48] * 88


def test_an_ordinary_long_film_is_within_the_defaults() -> None:
    """Four hours of 1080p at 60 frames per second, all of them decoded."""
    budget = work.WorkBudget()
    budget.check_pixels(4 * 3600 * 60 * 1920 * 1080)
    with pytest.raises(TooBig):
        budget.check_pixels(5 * 3600 * 60 * 1920 * 1080)
    work.WorkBudget(seconds=float("inf")).check_time()


@pytest.mark.parametrize("wrong", [{"max_decoded_pixels": 0}, {"read_timeout": 0}, {"read_timeout": float("nan")}])
def test_limits_out_of_range(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        read(tmp_path / "none.mp4", **wrong)  # type: ignore[arg-type]
