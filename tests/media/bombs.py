"""Writes small files that cost much: one key frame, and then the same frame without changes again and again."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

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


def write_stuffed(path: Path, frames: int, codec: str, layout: str = "5.1", container: str | None = None) -> None:
    """Write audio of two packets, of which the second holds all but one of ``frames`` frames of silence."""
    options = {"frame_size": "65535"} if codec == "flac" else {}
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=48_000, layout=layout, options=options)
        stream.codec_context.open()
        kind, step, channels = stream.codec_context.format.name, stream.codec_context.frame_size, stream.channels
        shape = (channels, step) if kind.endswith("p") else (1, channels * step)
        silence = np.zeros(shape, {"flt": np.float32, "s16": np.int16, "s32": np.int32}[kind.rstrip("p")])
        encoded = []
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(silence, format=kind, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = 48_000, number * step, Fraction(1, 48_000)
            encoded += [bytes(packet) for packet in stream.encode(frame)]
        stream.encode(None)
        for number, data in enumerate((encoded[0], encoded[-1] * (frames - 1))):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 48_000), True
            packet.pts = packet.dts = number * step
            output.mux(packet)


def write_blocks(path: Path, size: int) -> None:
    """Write WMA of two packets of zeros, ``size`` bytes each, whose header states that a frame has one byte."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("wmav2", rate=44_100, layout="stereo")
        stream.bit_rate = 128_000
        stream.codec_context.open()
        for number in range(3):
            packet = av.Packet(bytes(size if number else 743))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 44_100), True
            packet.pts = packet.dts = number * 2048
            output.mux(packet)
    data = bytearray(path.read_bytes())
    place = data.find(struct.pack("<HHI", 0x161, 2, 44_100))  # the tag of WMA 2, channels and rate; later the block
    data[place + 12 : place + 14] = struct.pack("<H", 1)
    path.write_bytes(data)


def write_hidden_frames(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Write AV1 of two packets, of which the second holds all but one of ``frames`` frames."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libsvtav1", rate=25, options={"preset": "12"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 10**6
        frame = av.VideoFrame(*size, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        encoded = []
        for number in range(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            encoded += [bytes(packet) for packet in stream.encode(frame)]
        encoded += [bytes(packet) for packet in stream.encode(None)]
        for number, data in enumerate((encoded[0], b"".join(encoded[1:]))):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), number == 0
            packet.pts = packet.dts = number
            output.mux(packet)
