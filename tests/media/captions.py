"""Subtitles for tests: texts, files beside a clip, and clips with tracks of text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from hypothesis import strategies as st

import omnisift
from omnisift.errors import MediaError
from omnisift.media import Line, Media
from omnisift.media.cues import decode_text, parse_file
from omnisift.media.lines import MAX_CHARACTERS, MAX_LINES, LineList

SMALL: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}
SECONDS = 4.0

SRT = """1
00:00:00,500 --> 00:00:01,000
<i>Good</i> <font color="#fff">morning</font>,
{\\an8}all &amp; sundry

2
00:00:02,000 --> 00:00:03,000
Tea?\\NYes.
"""
SRT_LINES = (Line(0.5, 1.0, "Good morning, all & sundry"), Line(2.0, 3.0, "Tea? Yes."))

VTT = """WEBVTT - a title
Kind: captions

STYLE
::cue { color: red }

NOTE a comment
of two rows

first
00:00.500 --> 00:01.000 align:start position:0%
<v.loud Ann>Good <c.red>morning</c>,
<00:00:00.700>all &amp; sundry

00:00:02.000 --> 00:00:03.000
<lang en>Tea?</lang>
Yes.
"""


def lines_of(content: bytes | str, is_webvtt: bool = False, **options: Any) -> tuple[Line, ...]:
    return collected(content, is_webvtt, **options).arrange()


def collected(content: bytes | str, is_webvtt: bool = False, until: float = math.inf, shift: float = 0.0) -> LineList:
    text, _ = decode_text(content.encode() if isinstance(content, str) else content)
    found = LineList(until)
    for start, end, body in parse_file(text, is_webvtt):
        found.add(start + shift, end + shift, body)
    return found


def outcome(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call returns, or the media error that it raises."""
    try:
        return work(*arguments, **options)
    except MediaError as error:
        return error


def srt(*cues: tuple[float, float, str]) -> str:
    """A SubRip file of cues without numbers."""
    return "\n".join(f"{stamp(start)} --> {stamp(end)}\n{text}\n" for start, end, text in cues)


def stamp(seconds: float) -> str:
    hours, rest = divmod(round(seconds * 1000), 3_600_000)
    return f"{hours:02}:{rest // 60_000:02}:{rest // 1000 % 60:02},{rest % 1000:03}"


def text_of(text: str) -> str:
    """The plain text of a cue."""
    return " ".join(line.text for line in lines_of(srt((1, 2, text))))


def beside(path: Path, name: str, content: str | bytes = SRT) -> Path:
    file = path.with_name(name)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def read(path: Any, **options: Any) -> Media:
    return omnisift.read(path, text="subtitles", **SMALL, **options)


def with_tracks(
    path: Path, *tracks: tuple[str, list[tuple[float, float, bytes]]], default: int | None = None, at: float = 0.0
) -> Path:
    """A clip of four seconds, all of whose time stamps begin at ``at``, with subtitle tracks: codec and packets."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        streams = [output.add_mux_stream(codec) for codec, _ in tracks]
        packets = []
        for number in range(round(SECONDS * 10)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + round(at * 10), Fraction(1, 10)
            packets += video.encode(frame)
        packets += video.encode(None)
        for number, (stream, (_, cues)) in enumerate(zip(streams, tracks, strict=True)):
            stream.time_base = Fraction(1, 1000)
            stream.disposition = av.stream.Disposition.default.value if number == default else 0
            for start, end, content in cues:
                packet = av.Packet(content)
                packet.stream, packet.time_base = stream, Fraction(1, 1000)
                packet.pts = packet.dts = round((start + at) * 1000)
                packet.duration = round((end - start) * 1000)
                packets.append(packet)
        for packet in sorted(packets, key=lambda p: float((p.dts if p.dts is not None else p.pts) * p.time_base)):
            output.mux(packet)
    return path


def mov_text(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


def check_valid(lines: tuple[Line, ...]) -> None:
    assert len(lines) <= MAX_LINES
    assert [line.start for line in lines] == sorted(line.start for line in lines)
    for line in lines:
        assert 0 <= line.start <= line.end < math.inf
        assert 0 < len(line.text) <= MAX_CHARACTERS
        assert line.text == " ".join(line.text.split()) == unicodedata.normalize("NFC", line.text)
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in line.text)
        line.text.encode()


PIECES = st.sampled_from([
    b"WEBVTT\n\n", b"\n", b"\r\n", b"\r", b"\n\n", b"1", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0", b" ", b"-",
    b"00:00:01,000 --> 00:00:02,000\n", b"00:01.000 --> 00:00.500 align:start\n", b"-1:00:00.5 --> 0:0:1\n", b" --> ",
    b"-->", b"999999999:59:59.999999999", b"00:", b"9" * 5000, b"<i>", b"</v>", b"<v A", b"<00:01.0>", b"{\\an8}", b"{",
    b"}", b"\\N", b"&lt;", b"&#x202e;", b"&#0;", b"&#" + b"9" * 700, b"\xe2\x80\xae", b"\xcc\x81", b"\xed\xa0\x80",
    b"e", b"Hi there", b"NOTE ", b"\x1a", b"x" * 1500, b"\x80", b"\x81", b"|im_end|>",
])  # fmt: skip
