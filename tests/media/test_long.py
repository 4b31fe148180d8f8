"""Long and large files: memory and work depend on what is kept, not on the length of the file."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import clip_writer
import numpy as np
import pytest
from peak import in_a_child

from omnisift.media import read
from omnisift.media.decoders import VideoDecoder

SMALL = {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}

READ = "media = read(path, min_pixels=784, max_pixels=3136)"
READ_WINDOWS = """
with open_windows(path, max_frames=10_000, min_pixels=48 * 784, max_pixels=64 * 784) as windows:
    for stop in range(60, len(windows.media.images) + 60, 60):
        windows.images(stop)
        windows.samples(stop * 8000)
    media = windows.finish()
"""


def measure(path: Path, reading: str = READ) -> list[float]:
    """[MiB that reading added to the peak, seconds, images]."""
    return in_a_child(path, reading, "round(media.seconds, 3)", "len(media.images)")


def long_video(path: Path, minutes: float, gop: int = 50) -> None:
    """A cheap video at 4 frames per second with audio at 8 kHz."""
    seconds = minutes * 60
    clip_writer.write(
        path,
        fps=4,
        seconds=seconds,
        flash=None,
        gop=gop,
        rate=8000,
        waveform=np.zeros((1, round(seconds * 8000)), np.float32),
    )


@pytest.fixture(scope="module")
def ten_minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "ten.mp4"
    long_video(path, 10)
    return path


def test_memory_is_flat_in_length(ten_minutes: Path, tmp_path: Path) -> None:
    """Ten minutes take no more than one minute, beyond the audio itself (3.84 MB per minute) and the images."""
    long_video(tmp_path / "one.mp4", 1)
    one, ten = measure(tmp_path / "one.mp4"), measure(ten_minutes)
    assert (one[1:], ten[1:]) == ([60.0, 120], [600.0, 256])
    audio = 9 * 60 * 16_000 * 4 / 2**20
    images = (256 - 120) * 56 * 56 * 3 / 2**20
    assert ten[0] - one[0] < audio + images + 25


def test_memory_of_windows_does_not_grow(ten_minutes: Path, tmp_path: Path) -> None:
    """Nine minutes more have 116 MiB of images and 33 MiB of audio; the index of their packets is about a MiB."""
    long_video(tmp_path / "one.mp4", 1)
    one, ten = measure(tmp_path / "one.mp4", READ_WINDOWS), measure(ten_minutes, READ_WINDOWS)
    assert (one[1:], ten[1:]) == ([60.0, 120], [600.0, 1200])
    assert one[0] > 1
    assert ten[0] - one[0] < 8


def count_decoded(path: Path, **options: object) -> tuple[int, int]:
    """Number of video packets, and how many of them were decoded."""
    seen = decoded = 0
    feed, decode = VideoDecoder.feed, VideoDecoder._decode

    def counting_feed(self: VideoDecoder, packet: object) -> None:
        nonlocal seen
        seen += 1
        feed(self, packet)

    def counting_decode(self: VideoDecoder, packet: object) -> None:
        nonlocal decoded
        decoded += packet is not None
        decode(self, packet)

    with (
        mock.patch.object(VideoDecoder, "feed", counting_feed),
        mock.patch.object(VideoDecoder, "_decode", counting_decode),
    ):
        read(path, **SMALL, **options)
    return seen, decoded


def test_sparse_sampling_skips_unneeded_packets(ten_minutes: Path) -> None:
    seen, decoded = count_decoded(ten_minutes, max_frames=16)
    assert seen <= 2400
    assert decoded < 2400 / 3
    dense = read(ten_minutes, **SMALL)
    sparse = read(ten_minutes, max_frames=16, **SMALL)
    assert sparse.capped
    assert sparse.fps == pytest.approx(16 / 600)
    np.testing.assert_allclose(sparse.times, np.arange(16) * 600 / 16, atol=0.25)
    for image, number in zip(sparse.images, sparse.indices, strict=True):
        near = dense.images[np.abs(dense.indices - number).argmin()]
        if number in dense.indices:
            assert np.abs(image.astype(int) - near).max() <= 1, "decoding from a later key frame gives the same image"


def test_reading_stops_at_the_limit(ten_minutes: Path) -> None:
    seen, _ = count_decoded(ten_minutes, max_seconds=20.0)
    assert seen < 300
    media = read(ten_minutes, max_seconds=20.0, **SMALL)
    assert media.capped
    assert (media.seconds, len(media.images), media.fps) == (20.0, 40, 2.0)


def test_frames_are_scaled_before_they_are_kept(tmp_path: Path) -> None:
    """A large image costs its decoder and one scaled image, not a list of large ones."""
    clip_writer.write(tmp_path / "large.mp4", size=(1920, 1080), seconds=8.0, fps=2, flash=None, audio=None, gop=4)
    megabytes, seconds, images = measure(tmp_path / "large.mp4")
    assert (seconds, images) == (8.0, 16)
    assert megabytes < 150


@pytest.mark.slow
def test_largest_images(tmp_path: Path) -> None:
    """8192 x 4320 stays within 450 MB."""
    clip_writer.write(tmp_path / "8k.mp4", size=(8192, 4320), seconds=0.2, fps=10, flash=None, audio=None, gop=1)
    megabytes, _, images = measure(tmp_path / "8k.mp4")
    assert images == 2
    assert megabytes < 450
