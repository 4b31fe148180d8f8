"""Metadata in the five formats, and what is wrong with other files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.public import metadata_samples as samples

from omnisift.errors import UsageError
from omnisift.evaluation.public.metadata import BENCHMARKS, convert, split_options
from omnisift.evaluation.public.rows import PROMPTS, prompt, read_rows, write_rows

WHERE = {
    "dailyomni": "seven/seven_video.mp4",
    "worldsense": "videos_and_audios/seven/seven.mp4",
    "videomme": "videos/data/seven.mp4",
    "omnivideobench": "videos/seven.mp4",
}


def file_of(folder: Path, items: list[Any], lines: bool = True) -> Path:
    path = folder / ("data.jsonl" if lines else "data.json")
    path.write_text("\n".join(map(json.dumps, items)) if lines else json.dumps(items), encoding="utf-8")
    return path


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("name", sorted(samples.CHOICE))
def test_a_choice_is_read(tmp_path: Path, name: str, lines: bool) -> None:
    item = samples.CHOICE[name]("seven", "A colour?", "B", kind="this")
    (row,) = convert(name, file_of(tmp_path, [item], lines), tmp_path / "v")
    assert (row.video, row.question, row.answer) == ("seven", "A colour?", "B")
    assert row.options == tuple(samples.OPTIONS)
    assert next(iter(row.groups.values())) == "this"
    assert row.path == str(tmp_path / "v" / WHERE[name])


@pytest.mark.parametrize("name", ["dailyomni", "videomme", "worldsense"])
def test_the_papers_wording_is_the_prompt_of_its_files(tmp_path: Path, name: str) -> None:
    item = samples.CHOICE[name]("seven", "Which colour?", "B")
    (row,) = convert(name, file_of(tmp_path, [item]), tmp_path)
    assert prompt(row) == item["prompt"]


def test_omnivideobench_is_asked_as_its_file_does(tmp_path: Path) -> None:
    item = samples.omnivideobench("seven", "Which colour? ", "B")
    (row,) = convert("omnivideobench", file_of(tmp_path, [item]), tmp_path)
    assert prompt(row) == item["conversations"][0]["value"]


def test_a_description_is_read(tmp_path: Path) -> None:
    item = samples.video_salmonn2("0", "Describe it.", "A red circle.", ["A circle appears", "A bell rings"])
    (row,) = convert("video_salmonn2", file_of(tmp_path, [item]), tmp_path)
    assert (row.question, row.answer, row.options) == ("Describe it.", "A red circle.", ())
    assert row.events == ("A circle appears", "A bell rings")
    assert prompt(row) == "Describe it."


def test_the_authors_own_forms_are_read(tmp_path: Path) -> None:
    task = {"question": "Q?", "candidates": samples.OPTIONS, "answer": "C", "task_type": "Counting"}
    worldsense = {"abc": {"domain": "Music", "duration": 6, "task0": task, "task1": task | {"question": "R?"}}}
    path = tmp_path / "worldsense_qa.json"
    path.write_text(json.dumps(worldsense), encoding="utf-8")
    rows = convert("worldsense", path, tmp_path)
    assert [(row.video, row.question) for row in rows] == [("abc", "Q?"), ("abc", "R?")]

    asked = {"question": "Q?", "question_type": "counting", "audio_type": "Music", "options": samples.OPTIONS}
    video = {"video": "video_1", "questions": [asked | {"correct_option": "D", "answer": "None of them."}]}
    (row,) = convert("omnivideobench", file_of(tmp_path, [video], lines=False), tmp_path)
    assert (row.answer, Path(row.path).name) == ("D", "video_1.mp4")

    complete = {"videoID": "x", "duration": "long", "domain": "K", "task_type": "T", "question": "Q?", "answer": "A"}
    (row,) = convert("videomme", file_of(tmp_path, [complete | {"options": samples.OPTIONS}]), tmp_path)
    assert (row.question, row.groups["duration"], Path(row.path).name) == ("Q?", "long", "x.mp4")


def test_the_official_wordings_hold_question_and_options(tmp_path: Path) -> None:
    for name, item in samples.CHOICE.items():
        (row,) = convert(name, file_of(tmp_path, [item("seven", "Which colour?", "B")]), tmp_path)
        told = prompt(row, "official")
        assert told.index("Which colour?") < told.index("A. Red.") < told.index("D. None of them.")
        assert (told == prompt(row, "paper")) == (name == "videomme")
        assert prompt(row, "question") == "Which colour?"
    assert PROMPTS["paper"].keys() == PROMPTS["official"].keys() == BENCHMARKS.keys()
    with pytest.raises(UsageError, match="known: paper, official, question"):
        prompt(row, "mine")


def test_options_without_a_dot_and_named_twice() -> None:
    text = "A man speaks. What next?\nA. One\nB Two\nA. Three\n(D) Four\n"
    assert split_options(text) == ("A man speaks. What next?", ["A. One", "B Two", "A. Three", "(D) Four"])
    with pytest.raises(ValueError, match="no options"):
        split_options("Which colour?")


def test_rows_come_back(tmp_path: Path) -> None:
    items = [samples.dailyomni(str(number), "Où?", "B") for number in range(3)]
    rows = convert("dailyomni", file_of(tmp_path, items), tmp_path)
    assert len({row.id for row in rows}) == 3
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("daily", "[]", "no benchmark named 'daily'"),
        ("dailyomni", "[]", "has no questions"),
        ("dailyomni", "{nonsense", r"data\.json:1: not JSON"),
        ("dailyomni", "[1]", "does not hold JSON objects"),
        ("dailyomni", json.dumps([samples.worldsense("s", "Q?", "A")]), "item 0 is not an item of dailyomni"),
        ("dailyomni", json.dumps([samples.dailyomni("s", "Q?", "E")]), "'E' is not one of its 4 options"),
        ("worldsense", json.dumps([samples.worldsense("s", "Q?", "A", [])]), "it has no options after the question"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, content: str, says: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=says) as error:
        convert(name, path, tmp_path)
    assert "\n" not in str(error.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        convert("dailyomni", tmp_path / "none.jsonl", tmp_path)
    with pytest.raises(UsageError, match="convert the metadata again"):
        read_rows(tmp_path / "none.jsonl")
