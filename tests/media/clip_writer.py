"""Writes the clips of the corpus: a grey clip with one white flash and one beep, both at `EVENT` seconds.

Frame i has the grey value ``grey(i)``, so a test can tell neighbouring frames apart. It needs PyAV and NumPy only.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SECONDS = 4.0
EVENT = 3.0
FLASH = 0.2
SIZE = (64, 48)


def grey(number: int) -> int:
    return 30 + 20 * (number % 7)


def image(number: int, time: float, size=SIZE, flash=EVENT) -> np.ndarray:
    """[H, W, 3] uint8; the upper left quarter is darker, so that a rotation shows."""
    level = 255 if flash is not None and flash - 1e-6 <= time < flash + FLASH - 1e-6 else grey(number)
    pixels = np.full((size[1], size[0], 3), level, np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] //= 2
    return pixels


def beep(seconds=SECONDS, rate=48_000, channels=1, event=EVENT, volume=0.5) -> np.ndarray:
    """[channels, S] float32: silence with 0.2 s of 1 kHz at ``event``."""
    time = np.arange(round(seconds * rate)) / rate
    inside = (time >= event) & (time < event + FLASH) if event is not None else np.zeros(len(time), bool)
    tone = np.where(inside, volume * np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)
    return np.repeat(tone[None], channels, axis=0)


def write(
    path: Path,
    *,
    container: str | None = None,
    options: dict[str, str] | None = None,
    video: str | None = "libx264",
    audio: str | None = "aac",
    fps: int = 25,
    times: list[float] | None = None,
    seconds: float = SECONDS,
    size=SIZE,
    pixels: str = "yuv420p",
    codec_options: dict[str, str] | None = None,
    gop: int = 12,
    flash: float | None = EVENT,
    video_at: float = 0.0,
    waveform: np.ndarray | None = None,
    rate: int = 48_000,
    layout: str = "mono",
    audio_at: float = 0.0,
    extra_audio: int = 0,
    cover: str | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Write one clip. ``times``: when each frame is shown (else ``fps``); ``*_at``: seconds added to all stamps."""
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        packets: list = []
        output.metadata.update(tags or {})
        if cover == "before":
            packets += _cover(output)
        if video is not None:
            packets += _video(output, video, fps, times, seconds, size, pixels, codec_options, gop, flash, video_at)
        if audio is not None:
            waveform = beep(seconds, rate, _channels(layout)) if waveform is None else waveform
            packets += _audio(output, audio, waveform, rate, layout, audio_at)
        for _ in range(extra_audio):
            packets += _audio(output, audio, np.zeros_like(waveform), rate, layout, audio_at)
        if cover == "after":
            packets += _cover(output)
        for packet in sorted(packets, key=lambda p: float((p.dts if p.dts is not None else p.pts) * p.time_base)):
            output.mux(packet)


def _channels(layout: str) -> int:
    return av.AudioLayout(layout).nb_channels


def _video(output, codec, fps, times, seconds, size, pixels, codec_options, gop, flash, at) -> list:
    stream = output.add_stream(codec, rate=fps)
    stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, pixels, gop
    if codec == "libx264":
        stream.options = {"preset": "ultrafast", "crf": "20", **(codec_options or {})}
    elif codec_options:
        stream.options = codec_options
    if codec.startswith("mpeg") and codec != "mpeg4":  # their default rate blurs the flash
        stream.bit_rate = 4_000_000
    tick = Fraction(1, fps) if times is None else Fraction(1, 1000)
    stream.codec_context.time_base = tick
    out = []
    for number, time in enumerate(np.arange(round(seconds * fps)) / fps if times is None else times):
        frame = av.VideoFrame.from_ndarray(image(number, float(time), size, flash), format="rgb24")
        frame.pts, frame.time_base = round((time + at) / tick), tick
        out += stream.encode(frame)
    return out + list(stream.encode(None))


def _audio(output, codec, waveform, rate, layout, at) -> list:
    stream = output.add_stream(codec, rate=rate, layout=layout)
    if codec.startswith("wma"):  # it has no default
        stream.bit_rate = 128_000
    kind = stream.codec_context.format.name
    step = stream.codec_context.frame_size or 1024
    out, start = [], round(at * rate)
    for begin in range(0, waveform.shape[1], step):
        piece = np.ascontiguousarray(waveform[:, begin : begin + step])
        frame = av.AudioFrame.from_ndarray(as_format(piece, kind), format=kind, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start + begin, Fraction(1, rate)
        out += stream.encode(frame)
    return out + list(stream.encode(None))


def as_format(waveform: np.ndarray, kind: str) -> np.ndarray:
    """[channels, S] float to what `AudioFrame.from_ndarray` wants for sample format ``kind``."""
    base = kind.rstrip("p")
    if base in ("s16", "s32"):
        top = 2.0 ** (8 * int(base[1:]) // 8 - 1) - 1
        waveform = np.round(np.clip(waveform, -1, 1).astype(np.float64) * top).astype(
            {"s16": np.int16, "s32": np.int32}[base]
        )
    elif base == "u8":
        waveform = np.round(waveform * 127 + 128).astype(np.uint8)
    return np.ascontiguousarray(waveform if kind.endswith("p") else waveform.T.reshape(1, -1))


def _cover(output) -> list:
    stream = output.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
    stream.disposition = av.stream.Disposition.attached_pic.value
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8), format="rgb24")
    frame.pts = 0
    return list(stream.encode(frame)) + list(stream.encode(None))


def wav(samples: np.ndarray, rate: int = 16_000, *, size: int | None = None, real_rate: int | None = None) -> bytes:
    """A mono float32 .wav by hand, so that any bits can be in it. ``size``: stated in the header, in bytes."""
    data = np.asarray(samples, "<f4").tobytes()
    size = len(data) if size is None else size
    rate = rate if real_rate is None else real_rate
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, rate * 4, 4, 32)
    body = b"WAVE" + head + struct.pack("<4sI", b"data", size) + data
    return b"RIFF" + struct.pack("<I", min(size + 36, 2**32 - 1)) + body


def find_boxes(data: bytes, name: bytes) -> list[int]:
    """Offsets of an mp4 output's content (after its name)."""
    offsets, offset = [], data.find(name)
    while offset >= 0:
        offsets.append(offset + 4)
        offset = data.find(name, offset + 4)
    return offsets


def patch(path: Path, offset: int, new: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(new)] = new
    path.write_bytes(data)


def rotate(path: Path, degrees: int) -> None:
    """Write a display matrix into the first track: players then rotate the image clockwise by ``degrees``."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    unit = 1 << 16
    matrix = struct.pack(">9i", cos * unit, sin * unit, 0, -sin * unit, cos * unit, 0, 0, 0, 1 << 30)
    data = path.read_bytes()
    patch(path, find_boxes(data, b"tkhd")[0] + 40, matrix)
