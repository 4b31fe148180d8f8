"""Clips whose images carry their number as nine bars and whose audio beeps at x.5 s, and reading both back.

Bar b is white if bit b of the number is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clip_writer import as_format

WIDTH, HEIGHT, BITS = 288, 128, 9
RATE = 48_000


def image(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """[H, W, 3] uint8."""
    bits = (number >> np.arange(BITS)) & 1
    row = np.repeat(bits * 235 + 10, width // BITS).astype(np.uint8)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : len(row)] = row[None, :, None]
    return pixels


def number(pixels: np.ndarray) -> int:
    """Read the number of an image [H, W, 3] of any size."""
    height, width = pixels.shape[:2]
    bar = width / BITS
    rows = slice(height // 4, 3 * height // 4)
    middle = [pixels[rows, int((b + 0.3) * bar) : int((b + 0.7) * bar)].mean() for b in range(BITS)]
    return int(sum(int(value > 128) << b for b, value in enumerate(middle)))


def beeping(seconds: float, first: float = 0.5) -> np.ndarray:
    """[1, S] float32: 20 ms of 1 kHz each second, from ``first`` on."""
    time = np.arange(round(seconds * RATE)) / RATE
    inside = ((time - first) % 1.0 < 0.02) & (time >= first - 1e-9)
    return np.where(inside, 0.5 * np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)[None]


def beeps(waveform: np.ndarray | None, rate: int = 16_000) -> list[float]:
    """Seconds at which beeps begin."""
    if waveform is None:
        return []
    loud = np.flatnonzero(np.abs(waveform) > 0.1) / rate
    return [float(t) for i, t in enumerate(loud) if i == 0 or t - loud[i - 1] > 0.2]


def write(
    path: Path,
    *,
    container: str | None = None,
    options: dict[str, str] | None = None,
    video: str | None = "libx264",
    count: int = 100,
    first: int = 0,
    fps: int = 25,
    times: list[float] | None = None,
    codec_options: dict[str, str] | None = None,
    gop: int = 12,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pixels: str = "yuv420p",
    audio: str | None = "aac",
    seconds: float | None = None,
    shift: float = 0.0,
    extra_video: str | None = None,
    last_duration: float | None = None,
    change: Callable[[list], None] | None = None,
) -> None:
    """Write one clip.

    ``times``: when each image is shown (else ``fps``); ``shift``: seconds added to all stamps; ``seconds``: length of
    the audio; ``extra_video``: codec of a first video track with one image; ``last_duration``: seconds that the last
    image states; ``change`` edits the list of video packets.
    """
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        packets = []
        if extra_video is not None:
            packets += encode(output, extra_video, [511], [0.0], 25, None, 1, size, "yuvj420p", shift)
        if video is not None:
            times = [n / fps for n in range(count)] if times is None else times
            numbers = list(range(first, first + len(times)))
            coded = encode(output, video, numbers, times, fps, codec_options, gop, size, pixels, shift)
            if last_duration is not None:
                last = max(coded, key=lambda p: p.pts)
                last.duration = round(last_duration / last.time_base)
            if change is not None:
                change(coded)
            packets += coded
        if audio is not None:
            length = (times[-1] + 1 / fps if times else 4.0) if seconds is None else seconds
            packets += _encode_audio(output, audio, beeping(length), shift)
        packets.sort(key=lambda p: float((p.dts if p.dts is not None else p.pts) * p.time_base))
        for packet in packets:
            output.mux(packet)


def encode(
    output, codec, numbers, times, fps=25, options=None, gop=12, size=(WIDTH, HEIGHT), pixels="yuv420p", shift=0.0
) -> list:
    """Encode images of these numbers as a new track of an open file; returns its packets."""
    stream = output.add_stream(codec, rate=fps)
    stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, pixels, gop
    tick = Fraction(1, 1000) if any(abs(t * fps - round(t * fps)) > 1e-6 for t in times) else Fraction(1, fps)
    stream.codec_context.time_base = tick
    defaults = {"preset": "veryfast", "bf": "0", "crf": "18"} if codec == "libx264" else {}
    stream.options = {**defaults, **(options or {})}
    packets = []
    for n, time in zip(numbers, times, strict=True):
        frame = av.VideoFrame.from_ndarray(image(n, *size), format="rgb24")
        frame.pts, frame.time_base = round((time + shift) / tick), tick
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def _encode_audio(output, codec, waveform, shift) -> list:
    stream = output.add_stream(codec, rate=RATE, layout="mono")
    kind = stream.codec_context.format.name
    step = stream.codec_context.frame_size or 1024
    packets = []
    for begin in range(0, waveform.shape[1], step):
        piece = as_format(np.ascontiguousarray(waveform[:, begin : begin + step]), kind)
        frame = av.AudioFrame.from_ndarray(piece, format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, round(shift * RATE) + begin, Fraction(1, RATE)
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def ts_packets(data: bytearray) -> Iterator[tuple[int, int, int]]:
    """(offset of the packet, its PID, offset of its payload) of the packets of a transport stream that have one."""
    for at in range(0, len(data) - 187, 188):
        pid = (data[at + 1] & 31) << 8 | data[at + 2]
        has_field, has_payload = data[at + 3] & 0x20, data[at + 3] & 0x10
        if has_payload:
            yield at, pid, at + 4 + (data[at + 4] + 1 if has_field else 0)


def forget_stamps(data: bytearray, keep_every: int, stream_id: int = 0xE0) -> None:
    """Remove the time stamps of a transport stream's video, except those of every n-th packet with a start."""
    number = 0
    for at, _, payload in ts_packets(data):
        starts = data[at + 1] & 0x40 and data[payload : payload + 3] == b"\0\0\1" and data[payload + 3] == stream_id
        if starts:
            if number % keep_every:
                length = data[payload + 8]
                data[payload + 7] &= 0x3F
                data[payload + 9 : payload + 9 + length] = b"\xff" * length
            number += 1


def move_stamps(data: bytearray, which: list[int], seconds: float, stream_id: int = 0xE0) -> None:
    """Add seconds to some time stamps of a transport stream: of the n-th units of its video, or of another track."""
    mark = b"\0\0\1" + bytes([stream_id])
    units = [p for at, _, p in ts_packets(data) if data[at + 1] & 0x40 and data[p : p + 4] == mark]
    for payload in (units[number] for number in which):
        # Each stamp has 33 bits, in five bytes with marks in between; the second one is that of decoding.
        for at in (payload + 9, payload + 14)[: {2: 1, 3: 2}.get(data[payload + 7] >> 6, 0)]:
            b = data[at : at + 5]
            stamp = (b[0] >> 1 & 7) << 30 | b[1] << 22 | b[2] >> 1 << 15 | b[3] << 7 | b[4] >> 1
            stamp = (stamp + round(seconds * 90_000)) % 2**33
            data[at : at + 5] = bytes([
                b[0] & 0xF0 | stamp >> 30 << 1 | 1,
                stamp >> 22 & 255,
                (stamp >> 15 & 127) << 1 | 1,
                stamp >> 7 & 255,
                (stamp & 127) << 1 | 1,
            ])  # fmt: skip
