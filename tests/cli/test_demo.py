"""The demo's default clip shows what the choice of tokens is worth; other seeds show whatever comes out."""

from __future__ import annotations

import io

from rich.console import Console

from omnisift.cli.demo_commands import run_demo, show_demo


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
