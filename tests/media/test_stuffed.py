"""Packets that hold many frames, which one call of a decoder would hold in memory all at once."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import clip_writer
import numpy as np
import pytest
from bombs import write_blocks, write_hidden_frames, write_stuffed
from peak import in_a_child

from omnisift.errors import OmniSiftError
from omnisift.media import decoders, read
from omnisift.media.stuffed import is_stuffed

SMALL = {"min_pixels": 784, "max_pixels": 16 * 784}

READ = """
try:
    read(path, min_pixels=784, max_pixels=3136)
except OmniSiftError:
    pass
"""


def megabytes(path: Path) -> float:
    """What reading adds to the peak of a process; it stops at 4 GB."""
    limit = (4 << 30, 4 << 30)
    return float(in_a_child(path, READ, before=lambda: resource.setrlimit(resource.RLIMIT_AS, limit))[0])


@pytest.mark.parametrize(
    ("name", "codec", "frames", "layout"),
    [
        ("silence.mkv", "flac", 1500, "7.1"),
        ("silence.mp4", "flac", 1500, "7.1"),
        ("silence.ogg", "flac", 1500, "7.1"),
        ("aac.mkv", "aac", 60_000, "5.1"),
        ("aac.mp4", "aac", 60_000, "5.1"),
        ("mp3.mp4", "libmp3lame", 60_000, "stereo"),
        ("ac3.mkv", "ac3", 20_000, "5.1"),
        ("mp2.mkv", "mp2", 60_000, "stereo"),
    ],
)
def test_silence(tmp_path: Path, name: str, codec: str, frames: int, layout: str) -> None:
    """53 kB of FLAC took 1.6 GB."""
    write_stuffed(tmp_path / name, frames, codec, layout)
    assert megabytes(tmp_path / name) < 300
    with suppress(OmniSiftError):
        assert read(tmp_path / name).bad_packets


def test_hidden_frames(tmp_path: Path) -> None:
    """4 kB of AV1 took 1.4 GB."""
    write_hidden_frames(tmp_path / "av1.mkv", 150, (4096, 2160))
    assert megabytes(tmp_path / "av1.mkv") < 400
    with pytest.raises(OmniSiftError, match="max_decoded_pixels"):
        read(tmp_path / "av1.mkv", max_decoded_pixels=50 * 4096 * 2160)


def test_good_av1_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_writer.write(tmp_path / "av1.mkv", video="libsvtav1", codec_options={"preset": "12"}, size=(128, 96))
    clip_writer.write(tmp_path / "av1.mp4", video="libsvtav1", codec_options={"preset": "12"}, size=(128, 96))
    for name in ("av1.mkv", "av1.mp4"):
        for options in ({}, {"max_frames": 2}, {"start": 1.3}, {"fps": 25.0}):
            split = read(tmp_path / name, **SMALL, **options)
            with monkeypatch.context() as patch:
                patch.setattr(decoders.FrameSplitter, "split", lambda _, packet: iter([packet]))
                whole = read(tmp_path / name, **SMALL, **options)
            np.testing.assert_array_equal(split.images, whole.images)
            assert split.times.tolist() == whole.times.tolist()
            assert (split.bad_packets, split.warnings) == (0, whole.warnings)


@pytest.mark.parametrize(
    ("codec", "content", "expected"),
    [
        ("flac", b"\xff\xf8" + bytes(1000), False),
        ("flac", np.random.default_rng(0).bytes(2 << 20), False),
        ("flac", (b"\xff\xf8" + bytes(30)) * 20, True),
        ("flac", (b"\xff\xf9" + bytes(30)) * 20, True),
        ("aac", bytes(8191), False),
        ("aac_latm", bytes(1 << 17), True),
        ("dts", bytes(1 << 15), False),
        ("pcm_s32le", bytes(1 << 21), False),
        ("opus", bytes(5 << 20), True),
    ],
)
def test_what_an_encoder_never_writes(codec: str, content: bytes, expected: bool) -> None:
    class Packet(bytes):
        size = len(content)

    packet: Any = Packet(content)
    assert is_stuffed(packet, codec) is expected


@pytest.mark.parametrize(("name", "size"), [("a.wma", 60_000), ("a.avi", 3_000_000)])
def test_blocks_of_one_byte(tmp_path: Path, name: str, size: int) -> None:
    """60 kB of WMA took 1.2 GB, 3 MB of AVI 7.5 GB."""
    write_blocks(tmp_path / name, size)
    assert megabytes(tmp_path / name) < 200
