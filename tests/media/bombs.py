"""Writes small files that cost much: one key frame, and then the same frame without changes again and again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

VP9 = {"cpu-used": "8", "deadline": "realtime", "lag-in-frames": "0", "auto-alt-ref": "0", "error-resilient": "1"}
H264 = {"preset": "ultrafast", "tune": "zerolatency"}


def write_bomb(
    path: Path,
    frames: int,
    size: tuple[int, int] = (8192, 4320),
    codec: str = "libvpx-vp9",
    container: str | None = None,
) -> None:
    """Write ``frames`` frames of a few hundred bytes each, all in one group of pictures."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 10**6
        stream.options = VP9 if codec == "libvpx-vp9" else H264
        frame = av.VideoFrame(*size, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        encoded = []
        for number in range(3):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            encoded += [bytes(packet) for packet in stream.encode(frame)]
        encoded += [bytes(packet) for packet in stream.encode(None)]
        for number in range(frames):
            packet = av.Packet(encoded[0] if number == 0 else encoded[-1])
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), number == 0
            packet.pts = packet.dts = number
            output.mux(packet)
