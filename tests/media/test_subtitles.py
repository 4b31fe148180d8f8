"""Which subtitles of a clip are read, on which clock, within which bounds, and what stands in for a file."""

from __future__ import annotations

import io
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import clip_writer
import numpy as np
import pytest
from captions import (
    PIECES,
    SECONDS,
    SMALL,
    SRT,
    SRT_LINES,
    VTT,
    beside,
    check_valid,
    mov_text,
    outcome,
    read,
    srt,
    with_tracks,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import omnisift
from omnisift.errors import Damaged, MediaError, MediaTimeout, NotMedia, NotReadable, TooBig, UsageError
from omnisift.media import Line, Media, read_lines, subtitles
from omnisift.media.lines import MAX_LINES, LineList
from omnisift.media.windows import open_windows, read_or_open
from omnisift.media.work import WorkBudget

writes_tracks = pytest.mark.skipif(
    not hasattr(av.container.OutputContainer, "add_mux_stream"), reason="PyAV 15 writes no tracks of text"
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Four seconds of video."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clip_writer.write(path, audio=None, fps=10, seconds=SECONDS)
    return path.read_bytes()


@pytest.fixture
def path(clip: bytes, tmp_path: Path) -> Path:
    """A clip with nothing beside it."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip)
    return path


def test_nothing_is_read_unless_it_is_asked_for(path: Path) -> None:
    beside(path, "clip.srt", b"\0broken")
    media = omnisift.read(path, **SMALL)
    assert (media.lines, media.warnings) == ((), ())
    with pytest.raises(NotMedia):
        read(path)


@pytest.mark.parametrize("text", ["subtitle", "", True, 1, ["subtitles"], np.zeros(2), b"subtitles"])
def test_other_values_are_refused(path: Path, text: Any) -> None:
    with pytest.raises(UsageError, match="text must be None or 'subtitles', got"):
        omnisift.read(path, text=text)


@pytest.mark.parametrize(("name", "content"), [("clip.srt", SRT), ("clip.vtt", VTT)])
def test_the_file_beside_a_clip(path: Path, name: str, content: str) -> None:
    beside(path, name, content)
    media = read(path)
    assert (media.lines, media.warnings) == (SRT_LINES, ())
    assert read_lines(path) == (SRT_LINES, ())
    assert read_lines(path, start=1.0, seconds=0.9) == ((), ())


def test_suffixes_of_cameras_and_names_with_dots(clip: bytes, tmp_path: Path) -> None:
    path = tmp_path / "talk.part.1.MP4"
    path.write_bytes(clip)
    beside(path, "talk.part.SRT", VTT)
    beside(path, "talk.part.1.SRT")
    assert read(path).lines == SRT_LINES


def test_the_order_of_files(path: Path) -> None:
    names = ["clip.srt", "clip.vtt", "clip.de.srt", "clip.en.vtt", "clip.pt-BR.srt"]
    for name in names:
        beside(path, name, srt((1, 2, name)) if name.endswith("srt") else f"WEBVTT\n\n00:01.000 --> 00:02.000\n{name}")
    beside(path, "clip.srt.txt", "no")
    beside(path, "clip2.srt", "no")
    for number, name in enumerate(names):
        media = read(path)
        assert [line.text for line in media.lines] == [name]
        if name in ("clip.de.srt", "clip.en.vtt"):
            listed = ", ".join(names[number:])
            assert media.warnings == (f"{len(names) - number} files of subtitles ({listed}); {name} was read",)
        else:
            assert media.warnings == ()
        path.with_name(name).unlink()


def test_a_warning_names_few_files(path: Path) -> None:
    for letter in "abcdefghijklmnop":
        beside(path, f"clip.x{letter}.srt", srt((1, 2, letter)))
    media = read(path)
    assert media.lines[0].text == "a"
    assert re.match(r"16 files of subtitles \(clip\.xa\.srt, .*, \.\.\.\); clip\.xa\.srt was read", media.warnings[0])
    assert len(media.warnings[0]) < 200


def test_a_clip_without_subtitles(path: Path, clip: bytes) -> None:
    assert read(path).warnings == (
        "no subtitles: no clip.srt, clip.vtt or clip.LANGUAGE.srt lies beside it, and no track holds text",
    )
    media = read(io.BytesIO(clip))
    assert (media.lines, media.warnings) == ((), ("no subtitles: no track holds text",))


@writes_tracks
def test_nothing_is_looked_for_beside_a_file_object(path: Path, tmp_path: Path) -> None:
    beside(path, "clip.srt")
    with path.open("rb") as file:
        assert read(file).lines == ()
    track = with_tracks(tmp_path / "track.mkv", ("subrip", [(0.5, 1.0, b"inside")]))
    beside(track, "track.srt")
    with track.open("rb") as file:
        assert read(file).lines == (Line(0.5, 1.0, "inside"),)
    assert read(track).lines == SRT_LINES


def test_what_is_no_regular_file_is_not_opened(path: Path) -> None:
    os.mkfifo(path.with_name("clip.srt"))
    path.with_name("clip.vtt").mkdir()
    path.with_name("clip.aa.srt").symlink_to("/dev/zero")
    path.with_name("clip.bb.srt").symlink_to("clip.bb.srt")
    path.with_name("clip.cc.srt").symlink_to("nowhere")
    media = read(path)
    names = "clip.aa.srt, clip.bb.srt, clip.cc.srt, clip.srt, clip.vtt"
    assert media.warnings[0] == f"not read because it is no regular file: {names}"
    assert media.warnings[1].startswith("no subtitles: ")
    # What is a file is read instead, also through a link.
    path.with_name("clip.dd.srt").symlink_to(beside(path, "elsewhere"))
    media = read(path)
    assert (media.lines, media.warnings[1:]) == (SRT_LINES, ())


def test_a_pipe_that_comes_in_between_does_not_block(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(path.with_name("clip.srt"))
    monkeypatch.setattr(subtitles, "_is_regular", lambda _path: True)
    with pytest.raises(NotReadable, match=r"clip\.mp4: its subtitles clip\.srt: is no regular file"):
        read(path)


def test_a_file_without_permission(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside(path, "clip.srt")
    monkeypatch.setattr(os, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(NotReadable, match=r"clip\.srt: can't be read \(Permission denied\); check its permissions"):
        read(path)


def test_a_folder_that_cannot_be_listed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert "its folder can't be listed (PermissionError)" in read(path).warnings[0]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("clip.srt", b"no subtitles at all", NotMedia, "has no times such as 00:00:01,000"),
        ("clip.srt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff", NotMedia, "is no text in UTF-8, UTF-16 or Windows-1252"),
        ("clip.srt", b"\x81\x8d", NotMedia, "is no text in UTF-8"),
        ("clip.srt", SRT.encode("utf-16-le"), NotMedia, "has no times"),
        ("clip.srt", SRT.encode("utf-16") + b"\0", NotMedia, "has broken UTF-16"),
        ("clip.srt", b"1\n00:00:01,000 --> 00:00:0x,000\nHi", Damaged, "row 2 states times that can't be read"),
        ("clip.srt", b"1\n00:00:01,000 -> 00:00:02,000\nHi", Damaged, "row 2 states times"),
        ("clip.srt", b"9999999999:00:01,000 --> 9999999999:00:02,000\nHi", Damaged, "row 1 states times"),
        ("clip.srt", b"00:00:01,nan --> 00:00:02,000\nHi", Damaged, "row 1 states times"),
        ("clip.vtt", SRT.encode(), NotMedia, "does not begin with WEBVTT"),
        ("clip.vtt", b"WEBVTTX\n\n00:01.000 --> 00:02.000\nx", NotMedia, "does not begin with WEBVTT"),
        ("clip.vtt", b"WEBVTT\n\n00:01.000 --> later\nx", Damaged, "row 3 states times"),
        ("clip.vtt", b"", NotMedia, "does not begin with WEBVTT"),
    ],
)
def test_a_broken_file_is_one_typed_error(path: Path, name: str, content: bytes, error: type, message: str) -> None:
    beside(path, name, content)
    with pytest.raises(MediaError) as caught:
        read(path)
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{path}: its subtitles {name}: {message}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "content"), [("clip.srt", b""), ("clip.srt", b"\xef\xbb\xbf\r\n"), ("clip.vtt", b"WEBVTT")]
)
def test_a_file_without_lines_is_legal(path: Path, name: str, content: bytes) -> None:
    beside(path, name, content)
    media = read(path)
    assert (media.lines, media.warnings) == ((), (f"no subtitles: {name} has no lines",))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(path: Path, encoding: str) -> None:
    beside(path, "clip.srt", srt((1, 2, "Café für 5 €")).encode(encoding))
    media = read(path)
    assert media.lines == (Line(1.0, 2.0, "Café für 5 €"),)
    is_guess = encoding == "cp1252"
    assert media.warnings == (("clip.srt is not UTF-8; it was read as Windows-1252",) if is_guess else ())


def test_times_that_cannot_be(path: Path) -> None:
    beside(
        path,
        "clip.srt",
        "-00:00:02,000 --> 00:00:01,000\nbegins before\n\n-00:00:03,000 --> -00:00:02,000\nis before\n\n"
        "00:00:02,000 --> 00:00:01,000\nreversed\n\n00:00:04,000 --> 00:00:05,000\nbehind\n\n"
        "999999999:00:00,000 --> 999999999:00:01,000\nnever\n",
    )
    media = read(path)
    assert media.lines == (Line(0.0, 1.0, "begins before"), Line(2.0, 2.0, "reversed"))
    assert media.warnings == (
        "1 subtitle line(s) end before they begin; their start was taken as their end",
        "1 subtitle line(s) end before the clip begins; left out",
        "1 line(s) of text begin behind the end of the clip at 4.0 s; left out",
    )


def test_a_part_of_a_clip(path: Path) -> None:
    beside(path, "clip.srt", srt((0, 0.5, "before"), (0.5, 1.5, "into"), (2, 2.5, "inside"), (3.5, 4, "after")))
    media = read(path, start=1.0, end=3.0)
    assert (media.lines, media.warnings) == ((Line(0.0, 0.5, "into"), Line(1.0, 1.5, "inside")), ())
    media = read(path, max_seconds=1.0)
    assert [line.text for line in media.lines] == ["before", "into"]
    assert media.warnings == ("longer than max_seconds=1; the rest was left out",)
    assert read_lines(path, start=1.0, seconds=2.0)[0] == (Line(0.0, 0.5, "into"), Line(1.0, 1.5, "inside"))


def test_bounds_of_a_file(path: Path) -> None:
    with beside(path, "clip.srt").open("r+b") as file:
        file.truncate(1 << 40)  # holds nothing: a terabyte takes no space
    with pytest.raises(TooBig, match=r"clip\.srt: has more than 16777216 bytes; give"):
        read(path)
    many = srt((1, 2, "x")) * 100_000
    beside(path, "clip.srt", many)
    with pytest.raises(TooBig, match=f"more than {MAX_LINES} subtitle lines; read a part"):
        read(path)
    # Those of other parts don't count.
    beside(path, "clip.srt", "\n".join(srt((n / 2, n / 2 + 0.1, f"line {n}")) for n in range(100_000)))
    assert len(read(path, end=3.0).lines) == 6
    assert len(read(path).lines) == 8
    beside(path, "clip.srt", srt((1, 2, "y" * 2001)))
    with pytest.raises(TooBig, match=r"clip\.srt: the subtitle line at 1\.0 s has 2001 characters"):
        read(path)


def test_reading_has_a_timeout(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside(path, "clip.srt")
    budget = WorkBudget(seconds=1e-9)
    with pytest.raises(MediaTimeout):
        subtitles.find_beside(omnisift.media.source.check_source(path), budget)
    monkeypatch.setattr(subtitles, "find_beside", lambda *_: (path.with_name("clip.srt"), []))
    with pytest.raises(MediaTimeout, match=r"its subtitles clip\.srt: can't be read within read_timeout"):
        subtitles.read_subtitles(omnisift.media.source.check_source(path), budget, zero=0, start=0, until=9)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(PIECES, max_size=20).map(b"".join), suffix=st.sampled_from(["srt", "vtt"]))
def test_any_file_gives_a_clip_or_one_typed_error(path: Path, content: bytes, suffix: str) -> None:
    for old in path.parent.glob("clip.[sv][rt]t"):
        old.unlink()
    beside(path, f"clip.{suffix}", content)
    found = outcome(read_lines, path)
    if isinstance(found, MediaError):
        assert re.match(rf".*clip\.mp4: its subtitles clip\.{suffix}: .*; ", str(found))
        return
    lines, warnings = found
    check_valid(lines)
    assert all(line.start < SECONDS for line in lines)
    assert all(warning.isprintable() for warning in warnings)


ASS = b"0,0,Default,,0,0,0,,{\\i1}Good{\\i0}\\hmorning,\\nall{a note} &amp; more, you"


@writes_tracks
@pytest.mark.parametrize(
    ("name", "codec", "content", "expected"),
    [
        ("clip.mp4", "mov_text", mov_text("Good <b>morning</b>\rall") + b"\0\0\0\x0cstyl\0\0\0\0", "Good morning all"),
        ("clip.mov", "mov_text", b"\0\x0c\xfe\xff" + "wide!".encode("utf-16-be"), "wide!"),
        ("clip.mkv", "subrip", b"<i>Good</i> morning\r\n{\\an8}all &amp; you", "Good morning all & you"),
        ("clip.mkv", "ass", ASS, "Good morning, all & more, you"),
        ("clip.mkv", "webvtt", b"<v Bob>Good <c.red>morning</c>\n<00:01.000>all", "Good morning all"),
        ("clip.webm", "webvtt", b"Good &lt;morning&gt;", "Good <morning>"),
    ],
)
def test_a_track_of_text(tmp_path: Path, name: str, codec: str, content: bytes, expected: str) -> None:
    cues = [(0.5, 1.5, content), (2.0, 3.0, content.replace(b"Good", b"Fine"))]
    path = with_tracks(tmp_path / name, (codec, cues))
    media = read(path)
    assert media.lines == (Line(0.5, 1.5, expected), Line(2.0, 3.0, expected.replace("Good", "Fine")))
    assert media.warnings == ()
    assert read(io.BytesIO(path.read_bytes())).lines == media.lines
    assert read_lines(path) == (media.lines, ())


@writes_tracks
@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_a_track_has_the_clock_of_the_images(tmp_path: Path, name: str) -> None:
    content = (lambda text: text.encode()) if name.endswith("mkv") else mov_text
    codec = "subrip" if name.endswith("mkv") else "mov_text"
    cues = [(-1.0, -0.5, content("before")), (-0.5, 0.5, content("into")), (1.0, 2.0, content("inside"))]
    path = with_tracks(tmp_path / name, (codec, cues), at=5.0)
    media = read(path)
    assert media.times[0] == 0
    assert media.lines == (Line(0.0, 0.5, "into"), Line(1.0, 2.0, "inside"))
    assert media.warnings == ("1 subtitle line(s) end before the clip begins; left out",)
    assert read(path, start=0.9).lines == (Line(pytest.approx(0.1), pytest.approx(1.1), "inside"),)


@writes_tracks
def test_the_default_track_is_read_else_the_first(tmp_path: Path) -> None:
    tracks = [("subrip", [(1.0, 2.0, text)]) for text in (b"one", b"two", b"three")]
    media = read(with_tracks(tmp_path / "a.mkv", *tracks, default=1))
    assert (media.lines[0].text, media.warnings) == ("two", ("3 subtitle tracks; the default one was read",))
    media = read(with_tracks(tmp_path / "b.mkv", *tracks))
    assert (media.lines[0].text, media.warnings) == ("one", ("3 subtitle tracks; track 1 was read",))


@writes_tracks
def test_tracks_of_images_are_not_read(tmp_path: Path) -> None:
    images = ("dvd_subtitle", [(1.0, 2.0, b"\0\4\0\2")])
    expected = "subtitle track 1 (dvd_subtitle) holds no text; it was not read"
    media = read(with_tracks(tmp_path / "a.mkv", images))
    assert (media.lines, media.warnings[0]) == ((), expected)
    assert media.warnings[1].startswith("no subtitles: ")
    media = read(with_tracks(tmp_path / "b.mkv", images, ("subrip", [(1.0, 2.0, b"text")]), default=0))
    assert (media.lines, media.warnings) == ((Line(1.0, 2.0, "text"),), (expected,))


def test_one_packet_that_is_late_ends_nothing() -> None:
    times = {"first": 0, "late": 5, "second": 1, "unread": 1}
    packets = []
    for name in ["first", *["late"] * 7, "second", *["late"] * 8, "unread"]:
        packets.append(av.Packet(name.encode()))
        packets[-1].pts, packets[-1].time_base = times[name], Fraction(1)
    found = LineList(until=2.0)
    assert subtitles._read_packets(iter(packets), "subrip", found, 0.0, strict=False) == []
    assert [cue.rows for cue in found.cues] == [("first",), ("second",)]


@writes_tracks
def test_bad_packets_of_a_track(tmp_path: Path) -> None:
    cues = [(1.0, 1.5, b"\0\x81\xff"), (2.0, 2.5, b"caf\xe9"), (3.0, 3.5, b"fine"), (3.6, 3.7, b"<i></i>")]
    path = with_tracks(tmp_path / "a.mkv", ("subrip", cues))
    media = read(path)
    assert [line.text for line in media.lines] == ["café", "fine"]
    assert media.warnings == (
        "1 damaged packet(s) of subtitles left out",
        "1 packet(s) of subtitles are not UTF-8; they were read as Windows-1252",
    )
    with pytest.raises(Damaged, match=r"a\.mkv: its subtitle track 1: 1 packets can't be read"):
        read(path, strict=True)
    media = read(with_tracks(tmp_path / "b.mp4", ("mov_text", [(1.0, 2.0, mov_text(" "))])))
    assert media.warnings == ("no subtitles: the track of text has no lines",)


@writes_tracks
def test_bounds_of_a_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_tracks(tmp_path / "a.mkv", ("subrip", [(n / 10, n / 10 + 0.1, b"x" * 50) for n in range(30)]))
    monkeypatch.setattr(subtitles, "MAX_BYTES", 1499)
    with pytest.raises(TooBig, match=r"a\.mkv: its subtitle track 1: has more than 1499 bytes of text"):
        read(path)
    assert len(read(path, end=1.0).lines) == 1  # equal lines that touch
    long = with_tracks(tmp_path / "b.mkv", ("subrip", [(1.0, 2.0, b"x" * 1400)]))
    monkeypatch.setattr("omnisift.media.lines.MAX_CHARACTERS", 1399)
    with pytest.raises(TooBig, match=r"b\.mkv: its subtitle track 1: the subtitle line at 1\.0 s has 1400 characters"):
        read(long)


def test_a_clip_in_windows_has_its_lines(path: Path) -> None:
    beside(path, "clip.srt", SRT + "\n3\n00:00:05,000 --> 00:00:06,000\nbehind\n")
    expected = read(path)
    assert len(expected.warnings) == 1
    with open_windows(path, text="subtitles", **SMALL) as windows:
        assert windows.lines == windows.media.lines == expected.lines == SRT_LINES
        final = windows.finish()
    assert (final.lines, final.warnings) == (expected.lines, expected.warnings)
    short = read_or_open(path, 100, text="subtitles", **SMALL)
    assert isinstance(short, Media)
    assert (short.lines, short.warnings) == (expected.lines, expected.warnings)
    opened = read_or_open(path, 2, text="subtitles", **SMALL)
    assert opened.lines == expected.lines
    opened.close()
    with pytest.raises(UsageError, match="text must be"):
        read_or_open(path, 2, text="speech", **SMALL)
