"""Folders, lists, questions and rules: what becomes an item, and what is refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from omnisift.batch import Caption, EngineAnswer, Moderate, items_of, make_task
from omnisift.batch.sources import clips_of, describe_left_out, left_out_of
from omnisift.batch.tasks import parse_yes_no, read_rules
from omnisift.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "sub/c.wav", "notes.txt", ".hidden.mp4", "._a.mp4", ".git/d.mp4", "e.12.part.mp4"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "clips" / "z.mp4").symlink_to("nowhere")
    os.mkfifo(tmp_path / "clips" / "y.mp4")
    (tmp_path / "clips" / "folder.mp4").mkdir()
    return tmp_path / "clips"


def test_a_folder_gives_every_clip(folder: Path) -> None:
    assert clips_of(folder) == (folder, ["a.MKV", "b.mp4", "sub/c.wav", "y.mp4", "z.mp4"])
    first = items_of(folder)[0]
    assert (first.id, first.clip, first.path, first.question) == ("a.MKV", "a.MKV", folder / "a.MKV", None)


def test_paths_are_absolute_so_that_a_worker_elsewhere_finds_them(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert items_of(Path("clips"))[1].path == folder / "b.mp4"


def test_a_list_may_name_any_file(folder: Path) -> None:
    listed = folder / "list.txt"
    listed.write_text("﻿sub/c.wav\n\n /somewhere/else.mp4 \r\nmissing.mp4\n", encoding="utf-8")
    items = items_of(listed)
    assert [item.id for item in items] == ["sub/c.wav", "/somewhere/else.mp4", "missing.mp4"]
    assert [item.path for item in items] == [folder / "sub/c.wav", Path("/somewhere/else.mp4"), folder / "missing.mp4"]


def test_comments_in_a_list(folder: Path) -> None:
    listed = folder / "list.m3u"
    listed.write_text("#EXTM3U\n#EXTINF:4,\na.MKV\n  # b.mp4\n\n./#odd.mp4\n#\n")
    assert clips_of(listed)[1] == ["a.MKV", "./#odd.mp4"]


def test_files_that_look_like_media_are_named(folder: Path) -> None:
    """By content, or by a suffix that the reader refuses; not text, images, hidden or unfinished files."""
    contents = {
        "talk.mp4.bak": b"\0\0\0\x20ftypisom", "sub/recording": b"OggS\0\2", "old.APE": b"",
        "tv.bin": (b"G" + b"\0" * 187) * 3, "a.avi.1": b"RIFF\0\0\0\0AVI ", "photo.webp": b"RIFF\0\0\0\0WEBP",
        "photo.heic": b"\0\0\0\x20ftypheic", "photo.jpg": b"\xff\xd8\xff\xe0", "empty.dat": b"",
        ".hidden": b"OggS\0\2", "x.part.dat": b"OggS\0\2", "list.m3u8": b"#EXTM3U\n", ".git/x": b"OggS\0\2",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.dat")
    (folder / "gone.dat").symlink_to("nowhere")
    names = left_out_of(folder)
    assert names == ["a.avi.1", "old.APE", "sub/recording", "talk.mp4.bak", "tv.bin"]
    assert left_out_of(folder / "a.MKV") == []
    assert describe_left_out(names[:1]).endswith("(1): a.avi.1")
    assert describe_left_out([*names, "z"]).endswith("(6): a.avi.1, old.APE, sub/recording, talk.mp4.bak, tv.bin, ...")


def test_a_folder_of_other_media_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.ape").write_bytes(b"MAC ")
    with pytest.raises(UsageError, match=r"no clips in .* \(.* \(1\): a\.ape\); known suffixes"):
        clips_of(tmp_path)


def test_a_single_clip_is_a_list_of_one(folder: Path) -> None:
    """By its suffix, whatever it holds."""
    assert clips_of(folder / "a.MKV") == (folder, ["a.MKV"])
    assert [item.path for item in items_of(folder / "sub" / "c.wav")] == [folder / "sub" / "c.wav"]


def test_bad_sources_are_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "twice.txt").write_text("a.mp4\nb.mp4\na.mp4\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    (tmp_path / ".clip.part.mp4").write_bytes(b"\xff\xfe")
    for name, what in {
        "twice.txt": r"twice\.txt:3 names a\.mp4 again \(line 1\)",
        "empty.txt": "no clips",
        "binary.txt": "not UTF-8",
        "missing": "nothing at",
        ".clip.part.mp4": "not UTF-8",
        "clips/.git/..": None,
    }.items():
        if what is not None:
            with pytest.raises(UsageError, match=what):
                items_of(tmp_path / name)


def test_questions_belong_to_clips(folder: Path) -> None:
    listed, questions = folder / "list.txt", folder / "questions.jsonl"
    listed.write_text("a.MKV\nb.mp4\n")
    rows = [
        {"clip": "b.mp4", "question": "Who?"},
        {"file_name": "a.MKV", "caption": "-", "qa": [{"question": "What?", "answer": "-"}, {"question": "When?"}]},
        {"clip": "b.mp4", "question": "Where?\u2028Here?"},
    ]
    questions.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert [(item.id, item.clip, item.question) for item in items_of(listed, None, questions)] == [
        ("a.MKV", "a.MKV", "What?"),
        ("a.MKV#2", "a.MKV", "When?"),
        ("b.mp4", "b.mp4", "Who?"),
        ("b.mp4#2", "b.mp4", "Where?\u2028Here?"),
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"clip": "a.MKV", "question": "What?"}', "no question for 1 clips, first b.mp4"),
        ('{"clip": "q.mp4", "question": "What?"}', "1: 'clip' is 'q.mp4', which is not among"),
        ('{"clip": ["a.MKV"], "question": "What?"}', "not among"),
        ('{"clip": "a.MKV", "question": " "}', "needs a 'question'"),
        ('{"clip": "a.MKV"}', "needs a 'question'"),
        ('{"clip": "a.MKV", "qa": []}', "needs a 'question'"),
        ('{"clip": "a.MKV", "qa": 3}', "needs a 'question'"),
        ('["a.MKV"]', "not an object"),
        ("a.MKV: What?", "1: not JSON"),
    ],
)
def test_bad_questions_are_one_line(folder: Path, text: str, what: str) -> None:
    listed, questions = folder / "list.txt", folder / "questions.jsonl"
    listed.write_text("a.MKV\nb.mp4\n")
    questions.write_text(text)
    with pytest.raises(UsageError, match=what):
        items_of(listed, None, questions)


def answer(text: str) -> EngineAnswer:
    return EngineAnswer(text, {}, {}, {})


def test_only_a_yes_is_a_hit() -> None:
    task = Moderate({"fire": "Is there fire?", "smoke": "Is there smoke?", "knife": "Is there a knife?"})
    assert task.result([answer("Yes, a big one."), answer("no"), answer("Hard to say; yes?")]) == {
        "hits": ["fire"],
        "unclear": ["knife"],
        "answers": {"fire": "Yes, a big one.", "smoke": "no", "knife": "Hard to say; yes?"},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[(text, True) for text in ("yes", "**Yes**.", "Yes: a dog")],
        *[(text, False) for text in ("No", " NO!", "no, none")],
        *[(text, None) for text in ("", "yesterday", "nothing", "I think yes", "0")],
    ],
)
def test_parse_yes_no(text: str, expected: bool | None) -> None:
    assert parse_yes_no(text) is expected


def test_rules_are_read_from_text_and_from_yaml(tmp_path: Path) -> None:
    plain, yaml = tmp_path / "rules.txt", tmp_path / "rules.yaml"
    plain.write_text("# what we look for\nfire: Is there fire: flames or sparks?\n\nno smoke:Is there smoke?\n")
    yaml.write_text("fire: 'Is there fire: flames or sparks?'\nno smoke: >\n  Is there\n  smoke?\n")
    assert read_rules(plain) == read_rules(yaml) == {
        "fire": "Is there fire: flames or sparks?",
        "no smoke": "Is there smoke?",
    }  # fmt: skip
    assert make_task("moderate", plain) == Moderate(read_rules(plain))


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.txt", "fire\n", "without a colon"),
        ("a.txt", "fire:\n", "rule 'fire' with question ''"),
        ("a.txt", "fire: a?\nfire: b?\n", "two rules are named 'fire'"),
        ("a.txt", "# none\n", "holds no rule"),
        ("a.yaml", "fire: a?\nfire: b?\n", "two rules are named 'fire'"),
        ("a.yaml", "fire: [a, b]\n", "plain pairs"),
        ("a.yaml", "- fire\n", "plain pairs"),
        ("a.yaml", "fire\n", "plain pairs"),
        ("a.yaml", "", "holds no rule"),
        ("a.yaml", "a: b: c\n", "not YAML"),
        ("a.yaml", "fire: !!python/object/apply:os.system [true]\n", "plain pairs"),
    ],
)
def test_bad_rules_are_one_line(tmp_path: Path, name: str, text: str, what: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=what) as error:
        read_rules(tmp_path / name)
    assert "\n" not in str(error.value)


def test_tasks_by_name(tmp_path: Path) -> None:
    assert make_task("caption") == Caption()
    with pytest.raises(UsageError, match="caption, qa, moderate"):
        make_task("summarise")
    with pytest.raises(UsageError, match="needs --rules"):
        make_task("moderate")
    with pytest.raises(UsageError, match="no other task"):
        make_task("caption", tmp_path)
