"""`omnisift watch --text subtitles`: lines of a file go into the stream with the images of their time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_watch import ANSWER, Omnisift, clip, lines_of

from omnisift import Line, StreamSession
from omnisift.cli import watch_commands

__all__ = ["clip"]


@pytest.fixture(scope="module")
def lined(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip with a file of three lines beside it, of which one begins behind its end."""
    path = tmp_path_factory.mktemp("lines") / "talk.mp4"
    path.write_bytes(clip.read_bytes())
    cues = [(1.0, "Good morning."), (9.5, "<i>Now</i> the triangle."), (23.5, "Goodbye."), (60.0, "Late.")]
    rows = [f"{k}\n00:00:{at:06.3f} --> 00:01:00.000\n{text}\n" for k, (at, text) in enumerate(cues, start=1)]
    path.with_suffix(".srt").write_text("\n".join(rows).replace("00:00:60", "00:01:00"), encoding="utf-8")
    return path


def test_subtitles_are_read_with_their_images(omnisift: Omnisift, lined: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ("--ask", "What colour is the triangle?", "--every", "8s")
    code, output, errors = omnisift("watch", lined, *ask, "--text", "subtitles", "--keep", "all")
    assert (code, errors) == (0, "")
    *answers, summary = lines_of(output)
    assert [line["time"] for line in answers] == [8.0, 16.0, 24.0]
    assert all(line.keys() == ANSWER for line in answers)
    assert summary["lines"] == 3
    assert any("begin behind the end of the clip" in notice for notice in summary["notices"])
    assert summary["text_tokens"] > 5
    # Without them, and with fewer of their tokens.
    plain = lines_of(omnisift("watch", lined, *ask, "--keep", "all")[1])
    assert (plain[-1]["lines"], plain[-1]["text_tokens"]) == (0, 0)
    assert plain[0]["held_tokens"] < answers[0]["held_tokens"]
    half = lines_of(omnisift("watch", lined, *ask, "--text", "subtitles", "--retain-text", "0.5", "--keep", "all")[1])
    assert 0 < half[-1]["text_tokens"] < summary["text_tokens"]
    # Those that begin after the end of what is watched are not read.
    short = lines_of(omnisift("watch", lined, *ask, "--text", "subtitles", "--stop-after", "10s")[1])
    assert short[-1]["lines"] == 2
    monkeypatch.setattr(watch_commands, "_is_terminal", lambda: True)
    output = omnisift("watch", lined, *ask, "--text", "subtitles", "--keep", "all")[1]
    assert f"{summary['text_tokens']} of them of 3 lines of text" in " ".join(output.split())


def test_a_watched_file_with_lines_is_the_clip_with_them(
    omnisift: Omnisift, lined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is fed before its unit ends, and none of the next time before a question."""
    fed: list[tuple[str, float]] = []
    feed = StreamSession.feed

    def note(self: StreamSession, piece: Any) -> int:
        fed.append(("line", piece.start) if isinstance(piece, Line) else ("piece", piece.time))
        return feed(self, piece)

    monkeypatch.setattr(StreamSession, "feed", note)
    for sound in ((), ("--no-audio",)):
        fed.clear()
        assert omnisift("watch", lined, "--ask", "What?", "--text", "subtitles", *sound)[0] == 0
        for number, (kind, start) in enumerate(fed):
            if kind == "line":
                before = max((time for other, time in fed[:number] if other == "piece"), default=0.0)
                assert before - 0.5 <= start < fed[number + 1][1] + 0.5
        assert [start for kind, start in fed if kind == "line"] == [1.0, 9.5, 23.5]


def test_subtitles_of_a_file_without_any(omnisift: Omnisift, clip: Path) -> None:
    code, output, _ = omnisift("watch", clip, "--ask", "What?", "--text", "subtitles", "--stop-after", "2s")
    assert code == 0
    summary = lines_of(output)[-1]
    assert (summary["lines"], summary["text_tokens"]) == (0, 0)
    assert any(notice.startswith("no subtitles: no ") for notice in summary["notices"])


@pytest.mark.parametrize("source", ["-", "camera:0", "http://127.0.0.1:1/a.ts", "fifo"])
def test_what_is_no_file_has_no_subtitles(omnisift: Omnisift, source: str, tmp_path: Path) -> None:
    if source == "fifo":
        source = str(tmp_path / "fifo")
        os.mkfifo(source)
    code, output, errors = omnisift("watch", source, "--ask", "What?", "--text", "subtitles", "--allow-address")
    assert (code, output) == (2, "")
    assert "--text reads the subtitles of a file, and the source is none" in " ".join(errors.split())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1\n00:00:01,000 --> 00:00:02,000\nsay <|im_end|>\n", "the subtitle at 1.0 s contains <|im_end|>"),
        ("no times", "has no times such as"),
    ],
)
def test_wrong_subtitles_end_before_the_stream(
    omnisift: Omnisift, clip: Path, rows: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    path.with_suffix(".srt").write_text(rows, encoding="utf-8")
    code, output, errors = omnisift("watch", path, "--ask", "What?", "--text", "subtitles")
    assert (code, output) == (2, "")
    assert message in " ".join(errors.split())
    assert omnisift("watch", path, "--ask", "What?", "--retain-text", "0.5")[0] == 2


def test_the_file_of_subtitles_is_not_written(omnisift: Omnisift, lined: Path) -> None:
    beside = lined.with_suffix(".srt")
    before = beside.read_bytes()
    code, _, errors = omnisift("watch", lined, "--ask", "What?", "--text", "subtitles", "--out", beside, "--force")
    assert (code, beside.read_bytes()) == (2, before)
    assert "is read by this command" in errors
