"""Pieces as bytes: they arrive as sent, and what is broken or too large is refused before it is decoded."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from omnisift.errors import Damaged, MediaError, TooBig
from omnisift.media.piece_bytes import MAX_BYTES, decode_image, image_message, piece_from_bytes, samples_message


def picture(height: int = 36, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, form: str = "PNG") -> bytes:
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form)
    return file.getvalue()


def test_an_image_arrives_as_sent() -> None:
    piece = piece_from_bytes(image_message(1.5, encoded(picture())))
    assert piece.time == 1.5
    assert piece.samples is None
    np.testing.assert_array_equal(piece.image, picture())
    rough = piece_from_bytes(image_message(0.0, encoded(picture(), "JPEG"))).image
    assert rough.shape == (36, 64, 3)
    assert np.corrcoef(rough.ravel(), picture().ravel())[0, 1] > 0.5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_other_colour_models_become_rgb(mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    assert decode_image(encoded(image)).shape == (36, 64, 3)


def test_samples_arrive_as_sent() -> None:
    samples = np.array([0, 0.5, -1, 1, 2, -2, 1e-9], np.float32)
    piece = piece_from_bytes(samples_message(0.25, samples))
    top = 32767 / 32768
    assert (piece.time, piece.image) == (0.25, None)
    assert piece.samples.dtype == np.float32
    np.testing.assert_array_equal(piece.samples, np.array([0, 0.5, -1, top, top, -1, 0], np.float32))


def header(time: float, kind: int) -> bytes:
    return struct.pack("<dB", time, kind)


@pytest.mark.parametrize(
    ("message", "kind", "says"),
    [
        (b"", Damaged, "0 bytes"),
        (header(0, 1), Damaged, "9 bytes"),
        (header(0, 2) + b"xx", Damaged, "got 2"),
        (header(-1, 1) + b"xx", Damaged, "got -1"),
        (header(float("nan"), 1) + b"xx", Damaged, "got nan"),
        (header(float("inf"), 1) + b"xx", Damaged, "got inf"),
        (header(0, 1) + b"xxx", Damaged, "two bytes each"),
        (header(0, 0) + b"not an image", Damaged, "JPEG or PNG"),
        (header(0, 0) + encoded(picture(), "GIF"), Damaged, "JPEG or PNG"),
        (header(0, 1) + bytes(2 * 160001), TooBig, "10.0 s"),
        (header(0, 1) + bytes(MAX_BYTES), TooBig, "bytes"),
        (header(0, 0) + encoded(Image.new("RGB", (1281, 720))), TooBig, "1281 x 720"),
    ],
)
def test_what_is_refused(message: bytes, kind: type[MediaError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        piece_from_bytes(message)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def png_of(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that announces this size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_a_bomb_is_not_decoded() -> None:
    for side in (4000, 60000):
        with pytest.raises(TooBig, match="pixels"):
            decode_image(png_of(side, side))
    with pytest.raises(Damaged):
        decode_image(png_of(100, 100))  # too few bytes of content


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_broken_file_is_damaged_or_an_image(form: str) -> None:
    """Bytes cut off, changed and inserted at random: never an error of another type."""
    rng, whole = np.random.default_rng(1), encoded(picture(), form)
    kinds = set()
    for number in range(300):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 8))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        if number % 3 == 0:
            del data[int(rng.integers(len(data))) :]
        try:
            kinds.add(decode_image(bytes(data)).shape[2])
        except MediaError as error:
            kinds.add(type(error).__name__)
    assert "Damaged" in kinds
