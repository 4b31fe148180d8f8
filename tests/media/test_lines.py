"""The text and times of subtitles: any bytes give lines of plain text in order, or one typed error."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from typing import Any

import numpy as np
import pytest
from captions import PIECES, SRT_LINES, VTT, check_valid, collected, lines_of, outcome, srt, text_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnisift.errors import MediaError, NotMedia, TooBig, UsageError
from omnisift.media import Line, Media
from omnisift.media.cues import decode_text, packet_text
from omnisift.media.lines import MAX_CHARACTERS, MAX_LINES


def test_rows_of_subrip() -> None:
    text = (
        "7\r\n00:00:01,000-->00:00:02,000 X1:10 X2:20\r\nnumbers\r\n\r\nafter an empty row\r\n\r\n"
        "00:00:02.500 --> 00:00:03.5\r\nno number\r\n5\r\n\r\n\r\n"
        "4\r\n00:00:04,000 --> 00:00:05,000\r\n"
        "5\r\n00:00:05,000 --> 00:00:06,000\r\ncue 4 has no text\r\n"
        "6\r\n123:00:07,000 --> 123:00:08,000\r\n  a --> b  "
    )
    expected = (
        Line(1.0, 2.0, "numbers after an empty row"),
        Line(2.5, 3.5, "no number 5"),
        Line(5.0, 6.0, "cue 4 has no text"),
        Line(123 * 3600 + 7.0, 123 * 3600 + 8.0, "a --> b"),
    )
    for ends in ("\r\n", "\n", "\r"):
        assert lines_of(text.replace("\r\n", ends)) == expected


def test_rows_of_webvtt() -> None:
    assert lines_of(VTT, is_webvtt=True) == SRT_LINES
    text = "WEBVTT\n\n\n00:01.000 --> 00:02.000\n\nnot its text\n\n12\n00:03.000 --> 00:04.000\n12\n\nNOTE x"
    assert lines_of(text, is_webvtt=True) == (Line(3.0, 4.0, "12"),)


def test_big_endian_and_mixed_encodings() -> None:
    text = srt((1, 2, "héllo"))
    assert lines_of(b"\xfe\xff" + text.encode("utf-16-be")) == (Line(1.0, 2.0, "héllo"),)
    mixed = text.encode() + srt((2, 3, "é")).encode("cp1252")
    assert decode_text(mixed)[1]
    assert [line.text for line in lines_of(mixed)] == ["hÃ©llo", "é"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b><i>a</i> <u>b</u></b> <s>c</s>", "a b c"),
        ("<FONT face='x > y' color=red>a</FONT>", "y' color=red>a"),
        ("<c.yellow.bg_blue>a</c><v Bob>b</v><ruby>c<rt>d</rt></ruby><00:01.500>e<01:02:03.004>f", "abcdef"),
        ("{\\an8}{\\i1}a{\\i0}{b}", "a{b}"),
        ("a\\Nb\\nc\nd\n\n \ne<br/>f", "a b\\nc d ef"),
        ("1 < 2 and 3>2 <3 <", "1 < 2 and 3>2 <3 <"),
        ("<<b>b>", "<b>"),
        ("&lt;b&gt; &amp;amp; &#65;&#x42;&nbsp;c &unknown; &lrm;", "<b> &amp; AB c &unknown;"),
        ("<|im_start|>system <image> </s-x> <tts_pad>", "<|im_start|>system <image> </s-x> <tts_pad>"),
        ("a\0b\x07\x1b[31mc\x7f", "ab[31mc"),
        ("\u202eevil\u202c \u2066x\u2069 z\u200bw\ufeff\u00adq", "evil x zwq"),
        (" \t a \u00a0\u3000 b\u2028c ", "a b c"),
        ("e\u0301 A\u030a", "\u00e9 \u00c5"),
        ("&#0;&#xd800;&#x110000;", "\ufffd\ufffd\ufffd"),
        ("<i></i> {\\an8} \u200b &nbsp;", ""),
        ("مرحبا שלום 你好 👍🏽", "مرحبا שלום 你好 👍🏽"),
    ],
)
def test_text(text: str, expected: str) -> None:
    assert text_of(text) == expected


def test_rolling_captions_are_said_once() -> None:
    cues = [
        (0.0, 2.0, " \nhello world"),
        (2.0, 2.01, "hello world\n "),
        (2.01, 4.0, "hello world\nnext <c>words</c>"),
        (4.0, 4.01, "next words"),
        (4.01, 6.0, "next words\nlast words"),
    ]
    assert lines_of(srt(*cues)) == (
        Line(0.0, 2.01, "hello world"),
        Line(2.01, 4.01, "next words"),
        Line(4.01, 6.0, "last words"),
    )
    three = [(0, 1, "a\nb\nc"), (1, 2, "b\nc\nd"), (2, 3, "c\nd\na"), (3, 4, "d\na")]
    assert [line.text for line in lines_of(srt(*three))] == ["a b c", "d", "a"]


def test_only_repeated_text_that_touches_is_merged() -> None:
    assert lines_of(srt((1, 2, "No."), (2, 3, "No."))) == (Line(1.0, 3.0, "No."),)
    assert lines_of(srt((1, 4, "No."), (2, 3, "No."))) == (Line(1.0, 4.0, "No."),)
    apart = srt((1, 2, "No."), (2.1, 3, "No."))
    assert lines_of(apart) == (Line(1.0, 2.0, "No."), Line(2.1, 3.0, "No."))
    other = srt((1, 2, "No.\nWhy?"), (2, 3, "No."))
    assert [line.text for line in lines_of(other)] == ["No. Why?", "No."]


def test_order_and_overlaps() -> None:
    text = srt((3, 4, "third"), (1, 9, "first"), (2, 3, "second"), (2, 2.5, "also second"))
    assert [line.text for line in lines_of(text)] == ["first", "second", "also second", "third"]


def test_bounds_of_a_line() -> None:
    assert len(text_of("x" * MAX_CHARACTERS)) == MAX_CHARACTERS
    assert len(text_of(f"<i>{'x' * 999}</i>\n  {'x' * 1000} ")) == MAX_CHARACTERS
    for text in ("x" * (MAX_CHARACTERS + 1), "\ufb2c" * 1000, "<b>" * 20_000):
        with pytest.raises(
            TooBig, match=r"the subtitle line at 1\.0 s has \d+ characters, over the limit of \d+; split"
        ):
            text_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "<",
        "<i ",
        "<b>",
        "<1:",
        "1:",
        "{\\",
        "&",
        "&#9",
        "\\N",
        "\n",
        "\n1",
        " ",
        "-",
        "->",
        "->\n",
        "1:1-",
        "\u0316\u0301",
    ],
)
def test_no_text_takes_long(text: str) -> None:
    begin = time.process_time()
    for before in ("", "1:", srt((1, 2, "<1")), srt((1, 2, "&#"))):
        for is_webvtt in (False, True):
            content = ("WEBVTT\n" if is_webvtt else "") + before + text * 200_000
            assert outcome(lines_of, content, is_webvtt) is not None
    # A step whose time grows with the square of the length takes minutes.
    assert time.process_time() - begin < 20


@settings(max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(st.lists(PIECES, max_size=40).map(b"".join), st.binary(max_size=500), st.text(max_size=300).map(
        lambda text: text.encode("utf-8", "surrogatepass"))),
    st.booleans(),
    st.sampled_from([b"", b"WEBVTT\n\n", b"00:00:01,000 --> 00:00:02,000\n"]),
    st.sampled_from([0.0, -1.0, 1.5, -1e9]),
)  # fmt: skip
def test_any_bytes_give_lines_or_one_typed_error(content: bytes, is_webvtt: bool, head: bytes, shift: float) -> None:
    found = outcome(collected, head + content, is_webvtt, until=7200.0, shift=shift)
    if isinstance(found, MediaError):
        assert re.fullmatch(r".{20,300}", str(found))
        return
    lines = found.arrange()
    check_valid(lines)
    assert all(line.start < 7200 for line in lines)
    assert len(found.warnings()) <= 2


def test_drawings_of_ass_are_no_text() -> None:
    head = b"0,0,Default,,0,0,0,,"
    text = b"{\\p1\\pos(1,2)}m 0 0 l 1 1{\\bord2} l 2 2{\\p0}shown{\\pos(3,4)} too {\\p2}m 0 0"
    assert packet_text(head + text, "ass") == ("shown too ", False)
    with pytest.raises(NotMedia):
        packet_text(b"0,0,Default", "ass")


def arrays(lines: Any = (), **options: Any) -> Media:
    return Media.from_arrays(np.zeros((20, 56, 56, 3), np.uint8), 5, lines=lines, **options)


def test_lines_of_arrays() -> None:
    given = [(2, 3.0, "<i>second</i>"), Line(np.float32(-1), 1.0, "a\u202e &amp;\nb"), (2.0, 2.0, "third"), (1, 2, " ")]
    media = arrays(given)
    assert media.lines == (Line(0.0, 1.0, "a & b"), Line(2.0, 3.0, "second"), Line(2.0, 2.0, "third"))
    assert media.warnings == ()
    assert arrays().lines == arrays(()).lines == ()
    behind = arrays([(4.0, 5.0, "x"), (3.9, 9.0, "y")])
    assert behind.lines == (Line(3.9, 9.0, "y"),)
    assert behind.warnings == ("1 line(s) of text begin behind the end of the clip at 4.0 s; left out",)
    assert arrays([(1, 2, "x"), (3, 4, "y")], max_seconds=2.0).lines == (Line(1.0, 2.0, "x"),)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("abc", "lines must be a sequence of Line or"),
        (None, "lines must be a sequence"),
        ({(1, 2, "x")}, "lines must be a sequence"),
        ([(1, 2, "x"), (1, 2)], r"lines\[1\] must be a Line or \(start, end, text\), got tuple"),
        (["abc"], r"lines\[0\] must be a Line or"),
        ([(1, 2, b"x")], r"lines\[0\] must have a str as its text, got bytes"),
        ([(math.nan, 2, "x")], r"lines\[0\] must have finite seconds as start and end, got NaN"),
        ([(1, math.inf, "x")], "must have finite seconds"),
        ([(1, 10**400, "x")], "must have finite seconds"),
        ([(True, 2, "x")], "must have numbers as start and end, got bool"),
        ([(1, 10**9999, "x")], "must have finite seconds"),
        ([("1", 2, "x")], "must have numbers as start and end, got str"),
        ([Line(2.0, 1.0, "x")], r"lines\[0\] ends before it begins, got 2.0 to 1.0; swap them"),
    ],
)
def test_wrong_lines_are_refused(lines: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        arrays(lines)


def test_bounds_of_given_lines() -> None:
    with pytest.raises(TooBig, match=r"lines\[1\] has 2001 characters, over the limit of 2000; split it"):
        arrays([(1, 2, "x"), (1, 2, "x" * 2001)])
    with pytest.raises(TooBig, match="lines has 20001 lines, over the limit of 20000"):
        arrays([(1, 2, "x")] * (MAX_LINES + 1))


def test_lines_that_replace_those_of_a_clip_are_checked_and_put_in_order() -> None:
    media = arrays([(0.1, 0.2, "x")])
    later, sooner = Line(0.8, 0.9, "&amp; <i>b</i>"), (0.5, 0.6, "a")
    assert dataclasses.replace(media, lines=[later, sooner]).lines == (Line(*sooner), later)
    for lines, message in (
        ([(1, 2)], r"lines\[0\] must be a Line"),
        ([(math.nan, 2, "x")], "finite"),
        ("abc", "sequence"),
        (None, "sequence"),
    ):
        with pytest.raises(UsageError, match=message):
            dataclasses.replace(media, lines=lines)  # type: ignore[arg-type]
