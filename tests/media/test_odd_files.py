"""Odd files that people have give the images and the sound that a player shows, or say what could not be had."""

from __future__ import annotations

from pathlib import Path

import av
import numbered
import numpy as np
import odd_files
import pytest
from corpus import made
from odd_files import FILES, OddFile

from omnisift.errors import NotMedia, NoVideo
from omnisift.media import Media, read

SMALL = {"min_pixels": 28 * 28, "max_pixels": 64 * 28 * 28}


def numbers(media: Media) -> list[int]:
    return [] if media.images is None else [numbered.number(image) for image in media.images]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_images_and_sound(file: OddFile, folder: Path) -> None:
    assert odd_files.find_faults(file, made(file, folder)) == []


def test_a_turned_image_has_the_turned_shape(tmp_path: Path) -> None:
    odd_files.oriented("transposed")(tmp_path / "a.mp4")
    assert read(tmp_path / "a.mp4", **SMALL).images.shape == (4, 252, 140, 3)


@pytest.mark.skipif(not hasattr(av.Packet, "has_sidedata"), reason="PyAV 15 does not tell")
def test_encrypted_tracks_are_named(tmp_path: Path) -> None:
    numbered.write(tmp_path / "a.mp4", options=odd_files.CENC)
    with pytest.raises(NotMedia, match=r"video track 0 \(h264, encrypted\) and audio track 1 \(aac, encrypted\) can't"):
        read(tmp_path / "a.mp4")


def test_an_unknown_codec_is_named_where_video_is_required(folder: Path) -> None:
    file = next(f for f in FILES if f.name == "unknown-video.mp4")
    with pytest.raises(NoVideo, match=r"has no video; video track 0 \(xyz1, unknown codec\) can't be decoded"):
        read(made(file, folder), require_video=True)


def test_images_that_could_not_be_had_are_counted(tmp_path: Path) -> None:
    """A broadcast that begins in the middle of a group: nothing is shown until the next key frame."""
    numbered.write(tmp_path / "a.ts", gop=50, count=200, audio=None, codec_options={"sc_threshold": "0"})
    data = tmp_path.joinpath("a.ts").read_bytes()
    starts = [at for at, pid, payload in numbered.ts_packets(bytearray(data)) if pid == 256 and data[at + 1] & 0x40]
    tmp_path.joinpath("b.ts").write_bytes(data[: 188 * 3] + data[starts[10] :])
    media = read(tmp_path / "b.ts", **SMALL)
    assert numbers(media)[:6] == [60, 60, 60, 60, 60, 72]
    assert "4 of 16 images can't be decoded" in " ".join(media.warnings)


def test_display_order_from_the_decoder_where_times_contradict_it(tmp_path: Path) -> None:
    """Stamps in decoding order, as some writers of Matroska store them for B frames."""

    def wrong(packets: list) -> None:
        for packet in packets:
            packet.pts = packet.dts

    numbered.write(tmp_path / "a.mkv", codec_options={"bf": "3"}, change=wrong)
    media = read(tmp_path / "a.mkv", **SMALL)
    assert numbers(media) == odd_files.FOUR
    assert (np.diff(media.times) > 0).all()


def test_without_any_image_there_are_no_times(tmp_path: Path) -> None:
    """The header is whole and no frame decodes: audio alone is the result."""
    numbered.write(tmp_path / "a.mkv", video="ffv1")
    data = bytearray((tmp_path / "a.mkv").read_bytes())
    with av.open(str(tmp_path / "a.mkv")) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in packets:
        data[position + 8 : position + size] = bytes(size - 8)
    (tmp_path / "a.mkv").write_bytes(data)
    media = read(tmp_path / "a.mkv", **SMALL)
    assert media.images is None
    assert media.has_audio
    assert len(media.times) == len(media.indices) == 0
    assert "no image can be decoded" in media.warnings
