"""The demo's default clip shows what the choice of tokens is worth; other seeds show whatever comes out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from omnisift.cli.demo_commands import run_demo, show_demo
from omnisift.cli.live_demo import (
    LIVE_SEED,
    LiveRow,
    planned_questions,
    run_live_demo,
    show_live_end,
    show_live_row,
)
from omnisift.world import SceneConfig, make_scene


def test_random_fails_where_omnisift_does_not() -> None:
    result = run_demo(0, 0.25, None, quiet=True, console=Console(quiet=True))
    answers = [(row.truth, row.full.text, row.cut.text, row.random.text) for row in result.rows]
    assert [full == cut == truth for truth, full, cut, _ in answers] == [True] * 3
    assert any(random != truth for truth, _, _, random in answers)
    for row in result.rows:
        assert row.random.report.tokens.video_kept == row.cut.report.tokens.video_kept
        assert row.random.report.tokens.audio_kept == row.cut.report.tokens.audio_kept
    console = Console(width=120, record=True, file=io.StringIO())
    show_demo(console, result)
    assert "(wrong)" in console.export_text()


def test_any_other_seed() -> None:
    assert len(run_demo(2, 0.5, None, quiet=True, console=Console(quiet=True)).rows) == 3


def test_the_live_demo_answers_while_the_stream_runs() -> None:
    begun: list[str] = []
    told: list[LiveRow] = []
    result = run_live_demo(LIVE_SEED, 0.25, None, None, begun.append, told.append)
    assert begun == [result.caption]
    assert told == result.rows
    assert [row.answer for row in result.rows] == [row.truth for row in result.rows]
    times = [row.time for row in result.rows]
    assert times == [11.0, 58.0, 118.0]
    assert [row.age for row in result.rows] == [2.0, 2.0, 109.0]
    assert max(row.held_tokens for row in result.rows) < 130
    assert result.dropped_seconds == 0
    console = Console(width=120, record=True, file=io.StringIO())
    for row in result.rows:
        show_live_row(console, row)
    show_live_end(console, result)
    text = console.export_text()
    assert "00:58.0  " in text
    assert "nothing was left out" in text
    assert "first token after" in text


def test_questions_of_other_live_clips_have_an_event_before_them() -> None:
    for seed in range(20):
        scene = make_scene(seed, "test", SceneConfig(seconds=120, shapes=(4, 4), distractors=(0, 0)))
        for time, question, over in planned_questions(scene):
            assert over <= time <= 120
            assert [scene.shapes[shape].end for shape in question.shapes] == [over]


def test_the_live_demo_refuses_wrong_paths(omnisift: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, _, errors = omnisift("demo", "--live", "--out", tmp_path / "a.mkv")
    assert (code, "must end in .mp4" in errors) == (2, True)
    code, _, errors = omnisift("demo", "--live", "--seed", "-1")
    assert (code, errors.startswith("error (UsageError): ")) == (2, True)
