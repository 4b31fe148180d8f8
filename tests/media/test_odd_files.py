"""Odd files that people have give the images and the sound that a player shows, or say what could not be had."""

from __future__ import annotations

from pathlib import Path

import numbered
import numpy as np
import odd_files
import pytest
from odd_files import FILES, MATRICES, OddFile

from omnisift.errors import NotMedia, NoVideo
from omnisift.media import Media, read

SMALL = {"min_pixels": 28 * 28, "max_pixels": 64 * 28 * 28}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


def make(file: OddFile, folder: Path) -> Path:
    path = folder / file.name
    if not path.exists():
        file.make(path)
    return path


def numbers(media: Media) -> list[int]:
    return [] if media.images is None else [numbered.number(image) for image in media.images]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_images_and_beeps(file: OddFile, folder: Path) -> None:
    media = read(make(file, folder), **SMALL, **file.read)
    assert numbers(media) == file.images
    if file.beeps is not None:
        # A lossy codec delays by up to 30 ms, and so does the padding of each joined part.
        assert numbered.beeps(media.waveform) == pytest.approx(file.beeps, abs=0.06)
    assert len(media.warnings) == len(file.warns), media.warnings
    for text in file.warns:
        assert text in " | ".join(media.warnings)


@pytest.mark.parametrize("fps", [0.5, 0.2])
@pytest.mark.parametrize("file", [f for f in FILES if len(f.images) > 8], ids=lambda f: f.name)
def test_sparse_sampling_gives_the_same_images(file: OddFile, fps: float, folder: Path) -> None:
    media = read(make(file, folder), **SMALL, **{**file.read, "fps": fps})
    expected = file.images[:: round(2 / fps)]
    found = numbers(media)  # their number is even
    assert len(found) >= len(expected) - 1
    assert found[: len(expected)] == expected[: len(found)]


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("name", MATRICES)
def test_display_matrix(name: str, suffix: str, tmp_path: Path) -> None:
    odd_files.oriented(name)(tmp_path / f"a.{suffix}")
    media = read(tmp_path / f"a.{suffix}", **SMALL)
    assert [odd_files.corners(image) for image in media.images] == [MATRICES[name][1]] * 4
    assert (media.images.shape[1] > media.images.shape[2]) == (MATRICES[name][0][0] == 0)


@pytest.mark.parametrize(
    ("told", "shown"),
    [("rotate=90", "three-quarters"), ("flip=horizontal", "mirrored"), ("rotate=90:flip=horizontal", "transposed")],
)
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_orientation_told_inside_the_stream(told: str, shown: str, start: float, tmp_path: Path) -> None:
    """Only the first frame carries it; a part read from the middle needs it as well."""
    path = tmp_path / "a.ts"
    odd_files.oriented("as-coded", inside=told)(path)
    media = read(path, **SMALL, start=start)
    assert [odd_files.corners(image) for image in media.images] == [MATRICES[shown][1]] * len(media.images)


def test_encrypted_tracks_are_named(tmp_path: Path) -> None:
    numbered.write(tmp_path / "a.mp4", options=odd_files.CENC)
    with pytest.raises(NotMedia, match=r"video track 0 \(h264, encrypted\) and audio track 1 \(aac, encrypted\) can't"):
        read(tmp_path / "a.mp4")


def test_an_unknown_codec_is_named_where_video_is_required(folder: Path) -> None:
    file = next(f for f in FILES if f.name == "unknown-video.mp4")
    with pytest.raises(NoVideo, match=r"has no video; video track 0 \(xyz1, unknown codec\) can't be decoded"):
        read(make(file, folder), require_video=True)


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
