"""Results files, settings files and lists that are linked, foreign, torn or hostile: one line, and nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest
from tests.batch.fakes import SETTINGS, Fake, items, rows, start

from omnisift.batch import QuestionAnswering, ResultsFile, items_of, run
from omnisift.batch.tasks import read_rules
from omnisift.errors import UsageError

DEEP, DIGITS = "[" * 100_000, "9" * 5000


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def fill(out: Path, count: int, retry_errors: bool = False, **options: object) -> None:
    with ResultsFile(out, SETTINGS, retry_errors) as results:
        run(items(count), QuestionAnswering(), Fake(**options), results)


def other_name(out: Path, kind: str) -> Path:
    """Another name of the results file ``out``, which exists."""
    folder = out.parent / "folder"
    folder.mkdir()
    name = folder / out.name if kind.endswith("folder") else out.with_name("other.jsonl")
    if kind.startswith("hard"):
        name.hardlink_to(out)
    elif kind == "dots":
        return folder / ".." / out.name
    elif kind == "link to link":
        name.symlink_to(out)
        name = out.with_name("third.jsonl")
        name.symlink_to("other.jsonl")
    elif kind == "linked folder":
        linked = out.parent / "linked"
        linked.symlink_to(".")
        return linked / out.name
    else:
        name.symlink_to(out if kind.endswith("folder") else out.name)
    return name


KINDS = ["link", "hard link", "link in folder", "hard link in folder", "link to link", "dots", "linked folder"]


@pytest.mark.parametrize("first", ["name", "other name"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_writer_under_another_name_is_refused(out: Path, kind: str, first: str) -> None:
    out.touch()
    names = [out, other_name(out, kind)]
    writer, second = names if first == "name" else names[::-1]
    with ResultsFile(writer, SETTINGS) as results:
        run(items(2), QuestionAnswering(), Fake(), results)
        before = sorted(out.parent.rglob("*"))
        with pytest.raises(UsageError, match="another process is writing"):
            ResultsFile(second, SETTINGS)
        assert sorted(out.parent.rglob("*")) == before
        run(items(4), QuestionAnswering(), Fake(), results)
    assert [row["id"] for row in rows(out)] == [item.id for item in items(4)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_two_processes_at_once_under_two_names(out: Path, kind: str) -> None:
    out.touch()
    processes = [start(name, count=60, seconds=0.002, piecemeal=True) for name in (out, other_name(out, kind))]
    assert sorted(process.wait(60) for process in processes) == [0, 1]
    assert [row["id"] for row in rows(out)] == [item.id for item in items(60)]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_named(out: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UsageError, match=r"results\.jsonl can't be locked .*; name a file on a local disk"):
        ResultsFile(out, SETTINGS)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "link in folder", "link to link", "linked folder"])
def test_errors_are_retried_through_a_link(out: Path, kind: str) -> None:
    out.touch()
    name = other_name(out, kind)
    fill(name, 4, bad={1: "typed"})
    fill(name, 4, retry_errors=True)
    assert name.is_symlink() or kind == "linked folder"
    assert not out.is_symlink()
    assert all("answer" in row for row in rows(out))
    fill(out, 4)  # the settings lie next to the file, whatever its name was


def test_a_file_with_two_names_is_not_split(out: Path) -> None:
    fill(out, 2, bad={1: "typed"})
    out.with_name("other.jsonl").hardlink_to(out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="has another name"):
        fill(out, 2, retry_errors=True)
    assert out.read_bytes() == before


def test_settings_beside_a_link_are_still_found(tmp_path: Path) -> None:
    """An earlier version wrote them there."""
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    fill(real, 1)
    (tmp_path / "real.jsonl.run").rename(tmp_path / "link.jsonl.run")
    link.symlink_to(real)
    fill(link, 2)
    assert len(rows(real)) == 2


CHANGES = {
    "deleted": lambda out: out.unlink(),
    "renamed": lambda out: out.rename(out.with_name("moved.jsonl")),
    "replaced": lambda out: (out.unlink(), out.write_text("mine\n")),
    "moved over": lambda out: (out.with_name("new").write_text("mine\n"), out.with_name("new").replace(out)),
    "emptied": lambda out: os.truncate(out, 0),
    "cut": lambda out: os.truncate(out, out.stat().st_size - 5),
    "appended": lambda out: out.open("a").write("mine\n"),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_under_a_run_is_noticed(out: Path, change: str, last: bool) -> None:
    """Also after the last row; the next command doesn't take the file for complete."""
    seen: list[str] = []

    def on_row(row: dict) -> None:
        seen.append(row["id"])
        if len(seen) == (4 if last else 2):
            CHANGES[change](out)

    with pytest.raises(UsageError, match="while it was written") as caught, ResultsFile(out, SETTINGS) as results:
        run(items(4), QuestionAnswering(), Fake(), results, on_row)
    assert "run again" in str(caught.value)
    assert len(seen) == (4 if last else 2)
    with ResultsFile(out.with_name("fresh.jsonl"), SETTINGS):
        pass  # the locks are free


FOREIGN = {
    "text": "dear diary\n",
    "list": "[1]\n",
    "ledger": '{"id": "a", "clip": "a", "answer": "b"}\n{"id": "b", "clip": "b", "answer": "b"}\n',
    "one object": '{"name": "holiday"}\n',
    "no end": '{"task": "qa"}',
    "binary": b"\x00\xff\x00\n",
    "deep": DEEP + "\n",
    "digits": f'{{"task": {DIGITS}}}\n',
    "utf-16": '{"task": "qa"}\n'.encode("utf-16"),
}


@pytest.mark.parametrize("kind", [*FOREIGN, "folder", "pipe"])
def test_a_foreign_file_named_like_the_settings_stays(out: Path, kind: str) -> None:
    mine = out.with_name("results.jsonl.run")
    if kind == "folder":
        mine.mkdir()
    elif kind == "pipe":
        os.mkfifo(mine)
    else:
        content = FOREIGN[kind]
        mine.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = mine.read_bytes() if mine.is_file() else None
    with pytest.raises(UsageError, match=r"results\.jsonl") as caught:
        ResultsFile(out, SETTINGS)
    assert len(str(caught.value)) < 500 + len(str(mine))
    assert "\n" not in str(caught.value)
    assert (mine.read_bytes() if mine.is_file() else None) == before
    assert list(out.parent.iterdir()) == [mine]


@pytest.mark.parametrize(
    "line",
    [
        '{"hand": ["a"], "deaths": "x"}', '{"hand": ["a"], "deaths": null}', '{"hand": ["a"], "deaths": -1}',
        '{"hand": ["a"], "deaths": 1.5}', '{"hand": ["a"], "deaths": []}', '{"hand": "a"}', '{"hand": {}}',
        '{"hand": [[]]}', '{"hand": [1]}', '{"hand": null}', '{"deaths": 1}', "{}", '{"hand": ["a"], "crashes": true}',
    ],
)  # fmt: skip
def test_a_wrong_line_of_items_in_progress_is_named(out: Path, line: str) -> None:
    fill(out, 1)
    settings = out.with_name("results.jsonl.run")
    settings.write_text(settings.read_text() + line + "\n")
    before = settings.read_bytes()
    with pytest.raises(UsageError, match=r"results\.jsonl\.run:2: .*delete this line"):
        ResultsFile(out, SETTINGS)
    assert settings.read_bytes() == before


@pytest.mark.parametrize("line", ["nonsense", '{"hand": ["0', DEEP, '{"hand": [], "deaths": 0, "oom_kills": 7}'])
def test_a_torn_line_of_items_in_progress_is_ignored(out: Path, line: str) -> None:
    fill(out, 1)
    settings = out.with_name("results.jsonl.run")
    settings.write_text(settings.read_text() + line)
    fill(out, 2)
    assert len(rows(out)) == 2


GOOD = {
    "id": "a",
    "clip": "a",
    "answer": "b",
    "tokens": dict.fromkeys(("video", "audio", "video_kept", "audio_kept"), 1),
}
GOOD |= {"seconds": {"total": 1.0}}
WRONG_ROWS: dict[str, object] = {
    "id list": {"id": []}, "id object": {"id": {}}, "id number": {"id": 5}, "id null": {"id": None},
    "seconds text": {"seconds": {"total": "1"}}, "seconds NaN": {"seconds": {"total": float("nan")}},
    "seconds infinite": {"seconds": {"total": float("inf")}}, "seconds negative": {"seconds": {"total": -1}},
    "seconds list": {"seconds": []}, "tokens list": {"tokens": []}, "tokens none": {"tokens": {}},
    "tokens huge": {"tokens": {**GOOD["tokens"], "video": 10**400}},
    "tokens text": {"tokens": {**GOOD["tokens"], "video": "1"}},
    "hits text": {"hits": "abc"}, "hits lists": {"hits": [[]]}, "hits number": {"hits": 3},
    "error text": {"error": "x"}, "error type list": {"error": {"type": [], "message": "x"}},
    "error message number": {"error": {"type": "x", "message": 7}}, "error empty": {"error": {}},
}  # fmt: skip
WRONG_LINES = {
    "deep": DEEP, "deep object": '{"id": ' * 50_000, "digits": f'{{"id": {DIGITS}}}', "nonsense": "nonsense",
    "half": '{"id": "a"', "two": '{"id": "a"}{"id": "b"}', "list": "[]", "null": "null",
    "utf-16": "{}\n".encode("utf-16"),
    "latin-1": b'{"id": "\xe9"}', "nul": b"\0\0\0", "BOM": b"\xef\xbb\xbf{}",
    **{name: json.dumps({**GOOD, **change}) for name, change in WRONG_ROWS.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_wrong_row_is_named_and_nothing_changes(out: Path, name: str) -> None:
    fill(out, 1)
    line = WRONG_LINES[name]
    out.write_bytes(out.read_bytes() + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    with pytest.raises(UsageError, match=r"results\.jsonl:2: not (a row|JSON)") as caught:
        ResultsFile(out, SETTINGS)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before


QUESTIONS = {
    "deep": DEEP, "deep value": f'{{"clip": {DEEP}', "list": "[]",
    "digits": f'{{"clip": "a.mp4", "question": {DIGITS}}}',
    "null": "null", "torn": '{"clip": "a.mp4", "question": "Wh', "clip list": '{"clip": [], "question": "What?"}',
    "clip object": '{"clip": {}, "question": "What?"}', "question list": '{"clip": "a.mp4", "question": []}',
    "question empty": '{"clip": "a.mp4", "question": " "}', "question missing": '{"clip": "a.mp4"}',
    "qa text": '{"clip": "a.mp4", "qa": "What?"}', "qa empty": '{"clip": "a.mp4", "qa": []}',
    "qa numbers": '{"clip": "a.mp4", "qa": [1]}', "qa null": '{"clip": "a.mp4", "qa": null}',
    "surrogate": '{"clip": "a.mp4", "question": "\\ud800"}',
    "qa surrogate": '{"clip": "a.mp4", "qa": [{"question": "\\udfff?"}]}',
    "utf-16": "{}".encode("utf-16"), "latin-1": b'{"clip": "a.mp4", "question": "caf\xe9?"}', "nul": b"\0", "empty": "",
    "unknown": '{"clip": "b.mp4", "question": "What?"}',
}  # fmt: skip


@pytest.mark.parametrize("name", QUESTIONS)
def test_wrong_questions_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.mp4").touch()
    path, content = tmp_path / "questions.jsonl", QUESTIONS[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=r"questions\.jsonl") as caught:
        items_of(tmp_path / "a.mp4", questions=path)
    assert "\n" not in str(caught.value)


RULES = {
    "deep": "{" * 100_000, "deep list": "[" * 100_000, "surrogate": 'a: "\\ud800"',
    "huge character": 'a: "\\UFFFFFFFF"',
    "nul": b"\0", "utf-16": "a: b".encode("utf-16"), "latin-1": b"a: caf\xe9", "alias": "a: &a [*a]",
    "tag": "a: !!python/name:os.x",
    "nested": "a: {b: c}", "empty": "", "twice": "a: b\na: c", "no question": "a:", "tab": "a:\t- b\n\t\tc",
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_wrong_rules_are_one_line(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / "rules.yaml", RULES[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=r"rules\.yaml") as caught:
        read_rules(path)
    assert "\n" not in str(caught.value)


LISTS = {
    "nul": "a\0b.mp4",
    "long": "x" * 5000 + ".mp4",
    "dots": "../" * 2000 + "a.mp4",
    "control": "\x1b[31m.mp4",
    "url": "http://x/a.mp4",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_strange_name_in_a_list_is_a_row(tmp_path: Path, name: str) -> None:
    from omnisift.batch import ModelSettings

    listed = tmp_path / "list.txt"
    listed.write_text(LISTS[name] + "\n")
    if name == "nul":
        with pytest.raises(UsageError, match="NUL character"):
            items_of(listed, "What?")
        return
    engine = ModelSettings(device="cpu").load()
    with ResultsFile(tmp_path / "a.jsonl", SETTINGS) as results:
        run(items_of(listed, "What?"), QuestionAnswering(), engine, results)
    assert "where" not in rows(tmp_path / "a.jsonl")[0]["error"], rows(tmp_path / "a.jsonl")
