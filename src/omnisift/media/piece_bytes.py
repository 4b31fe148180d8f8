"""Pieces of a stream as bytes: what the page of `omnisift ui` and `examples/live_server.py` receive.

A message is a header of nine bytes and its content. The header is the time in seconds (float64) and the kind (one
byte), both little-endian. The content is a JPEG or PNG image, or int16 samples of one channel at 16 kHz.
"""

from __future__ import annotations

import math
import struct
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from omnisift.errors import Damaged, TooBig
from omnisift.media.pieces import Piece
from omnisift.media.units import SAMPLE_RATE

IMAGE, SAMPLES = 0, 1
"""Kinds of content."""
MAX_PIXELS = 1280 * 720
"""Largest area of an image, unless the caller says otherwise."""
MAX_SECONDS = 10.0
"""Most seconds of samples in one message."""
MAX_BYTES = 1 << 20
"""Maximum size of a message."""

_HEADER = struct.Struct("<dB")
_FULL_SCALE = 32768.0
# What Pillow raises over broken files, besides its own error for unknown ones, which is an OSError.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def image_message(time: float, image: bytes) -> bytes:
    """Return the message of a JPEG or PNG file that is shown from ``time`` (seconds) on."""
    return _HEADER.pack(time, IMAGE) + image


def samples_message(time: float, samples: npt.NDArray[np.float32]) -> bytes:
    """Return the message of samples.

    Args:
        time: seconds at which the first sample is heard.
        samples: [N] of one channel at 16 kHz; what is outside [-1, 1] is cut off.
    """
    scaled = np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1)
    data: bytes = scaled.astype("<i2").tobytes()
    return _HEADER.pack(time, SAMPLES) + data


def message_time(message: bytes) -> float:
    """Return the time of a message in seconds, without decoding its content.

    Raises:
        Damaged: the header is incomplete, or its time is no time.
        TooBig: the message exceeds `MAX_BYTES`.
    """
    if len(message) > MAX_BYTES:
        raise TooBig(f"a piece has {len(message):,} bytes; the maximum is {MAX_BYTES:,}, so send smaller images")
    if len(message) <= _HEADER.size:
        raise Damaged(f"a piece has {len(message)} bytes; send a header of {_HEADER.size} bytes, then the content")
    time: float = _HEADER.unpack_from(message)[0]
    if not math.isfinite(time) or time < 0:
        raise Damaged(f"the time of a piece must be a number of seconds from 0 on, got {time}")
    return time


def piece_from_bytes(message: bytes, max_pixels: int = MAX_PIXELS) -> Piece:
    """Decode a message; its size and the area of its image are checked before anything is decoded.

    The orientation that a camera stores beside its image is ignored.

    Args:
        message: header and content.
        max_pixels: largest area of an image.

    Raises:
        Damaged: the header is incomplete, its time or kind is wrong, or the content can't be decoded.
        TooBig: the message, its image or its samples exceed a limit.
    """
    time, kind = message_time(message), message[_HEADER.size - 1]
    content = message[_HEADER.size :]
    if kind == IMAGE:
        return Piece(time, image=decode_image(content, max_pixels))
    if kind == SAMPLES:
        return Piece(time, samples=_samples(content))
    raise Damaged(f"the kind of a piece is {IMAGE} for an image or {SAMPLES} for samples, got {kind}")


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode a JPEG or PNG file.

    Args:
        data: the file.
        max_pixels: largest area of the image.

    Returns:
        [H, W, 3] RGB.

    Raises:
        Damaged: the data is neither JPEG nor PNG, or is broken.
        TooBig: the image has more than ``max_pixels``.
    """
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > max_pixels:
                raise TooBig(
                    f"the image has {image.width} x {image.height} pixels; the maximum is {max_pixels:,}, so scale it"
                )
            return np.array(image.convert("RGB"), np.uint8)
    except Image.DecompressionBombError:
        raise TooBig(f"the image has far more pixels than the maximum of {max_pixels:,}; scale it") from None
    except _BROKEN as error:
        raise Damaged(f"the image is not a readable JPEG or PNG file ({type(error).__name__}); send another") from error


def _samples(content: bytes) -> npt.NDArray[np.float32]:
    if len(content) % 2:
        raise Damaged(f"samples have two bytes each, got {len(content)} bytes; send int16")
    count = len(content) // 2
    if count > MAX_SECONDS * SAMPLE_RATE:
        raise TooBig(f"a piece has {count / SAMPLE_RATE:.1f} s of samples; the maximum is {MAX_SECONDS:.0f} s")
    samples: npt.NDArray[np.float32] = np.frombuffer(content, "<i2").astype(np.float32) / np.float32(_FULL_SCALE)
    return samples
