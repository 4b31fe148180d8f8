"""Runs read back, and the table that is drawn of them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.evaluation.public.runs import caption_rows, choice_rows, write_run

from omnisift.errors import UsageError
from omnisift.evaluation.public.eval_run import judge_captions, read_run
from omnisift.evaluation.public.llm_judge import WordJudge
from omnisift.evaluation.public.report import NAMES, PUBLISHED, as_csv, as_markdown, cells, lines, published


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Eight questions about four videos: all tokens get six right, ours five, at a quarter."""
    rows = choice_rows(8)
    full = write_run(tmp_path / "full", rows, ["B"] * 6 + ["A", "C"], "none", request={"flops": 4.0})
    ours = write_run(tmp_path / "ours", rows, ["B"] * 5 + ["A", "c", "D"], request={"flops": 1.0})
    return [ours, full]


def test_the_columns_of_the_table(runs: list[Path]) -> None:
    full, ours = (cells(line) for line in lines([read_run(run) for run in runs]))
    assert (full["method"], full["score"], full["of_full"], full["p"]) == ("all tokens", "75.0", "100.0", "-")
    assert (ours["method"], ours["kept_video"], ours["kept_audio"], ours["kept"]) == ("omnisift", *["25.0"] * 3)
    assert (ours["score"], ours["of_full"], ours["flops"]) == ("62.5", "83.3", "25.0")
    assert (ours["prefill"], ours["end_to_end"], ours["memory"]) == ("0.85", "1.25", "1")
    # One of eight differs: clips differ by 0, 0, -1, 0; z = 1, p = 0.317.
    assert ours["p"] == "0.317"


def test_errors_are_clustered_by_video(runs: list[Path]) -> None:
    line = lines([read_run(runs[1])])[0]
    # Residuals of the four videos: 0.5, 0.5, 0.5, -1.5; root of their squares over 8 questions.
    assert line.error == pytest.approx((3 * 0.25 + 2.25) ** 0.5 / 8)


def test_groups_and_csv(runs: list[Path]) -> None:
    result = lines([read_run(run) for run in runs])
    text = as_markdown(result)
    assert "| method | kept, % | G (4) | M (4) | all |" in text
    assert "| all tokens | 100.0 | 75.0 | 75.0 | 75.0 |" in text
    assert "published" not in text
    rows = list(csv.DictReader(io.StringIO(as_csv(result))))
    assert [row["score"] for row in rows] == ["75.0", "62.5"]
    assert list(rows[0]) == list(NAMES)


def test_published_numbers_stand_in_a_column_of_their_own(runs: list[Path]) -> None:
    result = lines([read_run(run) for run in runs], size="7b")
    assert [cells(line)["published"] for line in result] == ["49.7", "49.9"]
    assert "quoted from the paper" in as_markdown(result)


def test_published_is_the_papers_table() -> None:
    assert len(PUBLISHED) == 18
    assert published("7b", "omnisift", 35, "dailyomni") == 73.2
    assert published("3b", "none", 100, "video_salmonn2") == 53.6
    assert published("7b", "omnisift", 30, "dailyomni") is None
    assert published("7b", "evs", 35, "dailyomni") is None


def test_another_rule_scores_the_same_answers_again(runs: list[Path]) -> None:
    run = read_run(runs[0])
    assert sum(one.right for one in run.graded("official")) == 5
    assert sum(one.right for one in run.graded("strict")) == 5
    with pytest.raises(UsageError, match="no answer rule"):
        run.graded("mine")


def test_the_reference_is_scored_by_the_rule_of_the_run(tmp_path: Path) -> None:
    full = write_run(tmp_path / "full", choice_rows(4), ["Answer: B"] * 4, "none")
    ours = write_run(tmp_path / "ours", choice_rows(4), ["B"] * 4)
    settings = json.loads((ours / "run.json").read_text())
    (ours / "run.json").write_text(json.dumps(settings | {"rule": "official"}))
    assert [line.of_full for line in lines([read_run(run) for run in (full, ours)])] == [1.0, 1.0]
    (ours / "run.json").write_text(json.dumps(settings | {"rule": "strict"}))
    result = lines([read_run(run) for run in (full, ours)])
    assert [line.value for line in result] == [1.0, 1.0]
    assert result[1].of_full is None  # by the strict rule the full run has nothing right
    assert result[1].p == 0.0


def test_without_a_full_run_nothing_is_compared(runs: list[Path]) -> None:
    row = cells(lines([read_run(runs[0])])[0])
    assert (row["of_full"], row["p"], row["flops"]) == ("-", "-", "-")


def test_a_full_run_under_another_protocol_is_no_reference(runs: list[Path]) -> None:
    settings = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps(settings | {"wording": "official"}))
    assert [line.of_full for line in lines([read_run(run) for run in runs])] == [1.0, None]


def test_two_full_runs_are_refused(runs: list[Path], tmp_path: Path) -> None:
    again = write_run(tmp_path / "again", choice_rows(8), ["B"] * 8, "none")
    with pytest.raises(UsageError, match="two full-token runs"):
        lines([read_run(run) for run in [*runs, again]])


def test_captions_wait_for_a_judge_and_are_then_compared(tmp_path: Path) -> None:
    rows = caption_rows(3)
    good, bad = "A red circle appears. A bell rings.", "A dog barks."
    full = write_run(tmp_path / "full", rows, [good] * 3, "none")
    ours = write_run(tmp_path / "ours", rows, [good, bad, bad])
    assert lines([read_run(ours)])[0].value is None
    for run in (full, ours):
        judge_captions(read_run(run), WordJudge())
    result = lines([read_run(run) for run in (full, ours)])
    assert [line.value for line in result] == [0.0, 1.0]  # 4 of 6 missed, 2 invented
    text = as_markdown(result)
    assert "| omnisift | 25.0 | words | 66.7 | 33.3 | 100.0 |" in text
    assert "lower is better" in text
    assert result[1].p is not None
    assert result[1].p < 0.1
    assert result[1].error is not None


def test_judging_goes_on_where_it_stopped_and_judges_do_not_mix(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", caption_rows(3), ["A bell rings."] * 3)
    asked: list[str] = []

    class Breaks(WordJudge):
        def count(self, events, caption):
            asked.append(caption)
            if len(asked) == 2:
                raise UsageError("no answer")
            return super().count(events, caption)

    with pytest.raises(UsageError, match="no answer"):
        judge_captions(read_run(run), Breaks())
    assert len(read_run(run).counts) == 1
    judge_captions(read_run(run), Breaks())
    assert len(asked) == 4
    other = WordJudge()
    other.name = "other"
    with pytest.raises(UsageError, match="counts by the judge 'words'"):
        judge_captions(read_run(run), other)
    letters = write_run(tmp_path / "letters", choice_rows(2), ["B", "B"])
    with pytest.raises(UsageError, match="only captions need a judge"):
        judge_captions(read_run(letters), other)


def test_unfinished_and_foreign_folders_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished run"):
        read_run(tmp_path)
    settings = json.loads((runs[0] / "run.json").read_text())
    (runs[0] / "run.json").write_text(json.dumps(settings | {"rows": 9}))
    with pytest.raises(UsageError, match="8 answers to 9 questions"):
        read_run(runs[0])


def test_the_plot_is_drawn(runs: list[Path], tmp_path: Path) -> None:
    from omnisift.evaluation.public.report import draw

    draw(lines([read_run(run) for run in runs]), tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert "WorldSense" in text
    assert "accuracy, %" in text


def test_seconds_are_those_of_questions_that_run_the_encoders(runs: list[Path]) -> None:
    run = read_run(runs[0])
    expected = run.seconds("decode"), run.seconds("prefill")
    reusing = [{**line, "seconds": {**line["seconds"], "encode": 0.0, "prefill": 99.0}} for line in run.requests]
    mixed = replace(run, requests=[*run.requests, *reusing])
    assert (mixed.seconds("decode"), mixed.seconds("prefill")) == expected
