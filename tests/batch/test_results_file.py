"""The ledger: one row an item whatever happens, one writer, one set of settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.batch.fakes import SETTINGS, Fake, items, rows, start

from omnisift.batch import Ledger, Question, run
from omnisift.errors import UsageError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def fill(out: Path, count: int, **how: object) -> Fake:
    engine = Fake(**how)
    with Ledger(out, SETTINGS) as ledger:
        run(items(count), Question(), engine, ledger)
    return engine


def test_a_row_for_each_item_and_nothing_is_asked_twice(out: Path) -> None:
    fill(out, 3)
    first = out.read_bytes()
    assert fill(out, 5).asked == ["003.mp4", "004.mp4"]
    assert out.read_bytes().startswith(first)
    assert [row["id"] for row in rows(out)] == [item.id for item in items(5)]
    assert rows(out)[0] == {
        "id": "000.mp4", "clip": "000.mp4", "question": "What is é0?", "answer": "To What is é0?",
        "tokens": {"video": 96, "video_kept": 24, "audio": 150, "audio_kept": 39, "prompt": 260},
        "seconds": {"total": 0.5}, "source": {"seconds": 6.0}, "notices": ["a notice"],
    }  # fmt: skip
    assert "é" in out.read_text(encoding="utf-8")  # plain for grep, not escaped


def test_cut_anywhere_the_file_comes_out_the_same(out: Path) -> None:
    fill(out, 3)
    whole = out.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    near = {end + step for end in (0, *ends) for step in (-1, 0, 1, 2)}
    for length in sorted(near & set(range(len(whole))) | set(range(7, len(whole), 11))):
        out.write_bytes(whole[:length])
        engine = fill(out, 3)
        assert out.read_bytes() == whole, length
        assert len(engine.asked) == 3 - sum(end <= length for end in ends), length


def test_other_settings_are_refused_and_named(out: Path) -> None:
    fill(out, 1)
    before = out.read_bytes()
    with pytest.raises(UsageError, match=r"model 'fake' \(now 'other'\)"):
        Ledger(out, SETTINGS | {"model": "other"})
    assert out.read_bytes() == before
    fill(out, 2)  # the refusal left no lock


def test_a_run_without_rows_leaves_nothing_and_settles_nothing(out: Path) -> None:
    Ledger(out, SETTINGS | {"model": "other"}).__exit__(None, None, None)
    assert list(out.parent.iterdir()) == []
    start(out, count=1, bad={"0": "deadly"}).wait(60)
    assert out.read_bytes() == b""
    with Ledger(out, SETTINGS | {"model": "other"}) as ledger:
        run(items(1), Question(), Fake(), ledger)
    assert len(rows(out)) == 1


def test_another_question_about_a_clip_with_a_row_is_refused(out: Path) -> None:
    fill(out, 1)
    changed = [type(item)(item.id, item.clip, item.path, "Else?") for item in items(1)]
    with Ledger(out, SETTINGS) as ledger, pytest.raises(UsageError, match=r"another question about 000\.mp4"):
        run(changed, Question(), Fake(), ledger)


def test_a_second_writer_is_refused_until_the_first_is_gone(out: Path) -> None:
    with Ledger(out, SETTINGS), pytest.raises(UsageError, match="another process"):
        Ledger(out, SETTINGS)
    Ledger(out, SETTINGS).__exit__(None, None, None)


def test_the_lock_dies_with_its_process(out: Path) -> None:
    holder = start(out, count=50, seconds=0.05)
    while not (out.exists() and out.stat().st_size):
        assert holder.poll() is None, holder.stderr.read()
    with pytest.raises(UsageError, match="another process"):
        Ledger(out, SETTINGS)
    holder.kill()
    holder.wait()
    Ledger(out, SETTINGS).__exit__(None, None, None)


def test_the_same_id_never_gets_a_second_row(out: Path) -> None:
    with Ledger(out, SETTINGS) as ledger:
        run(items(1), Question(), Fake(), ledger)
        with pytest.raises(ValueError, match="has a row"):
            ledger.add(rows(out)[0])
    out.write_bytes(out.read_bytes() * 2)
    with pytest.raises(UsageError, match="two rows"):
        Ledger(out, SETTINGS)


@pytest.mark.parametrize("line", ["nonsense", "[1]", "{}", '{"id": "a"}', '{"id": "a", "seconds": 3}'])
def test_a_whole_line_that_is_no_row_is_named(out: Path, line: str) -> None:
    fill(out, 1)
    out.write_text(out.read_text() + line + "\n")
    with pytest.raises(UsageError, match=r"results\.jsonl:2: not a row"):
        Ledger(out, SETTINGS)


def test_a_file_of_someone_else_stays(out: Path) -> None:
    out.write_text("dear diary\n")
    with pytest.raises(UsageError, match="not begun"):
        Ledger(out, SETTINGS)
    assert out.read_text() == "dear diary\n"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("name", ["", "missing/results.jsonl"])
def test_no_place_to_write(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="folder"):
        Ledger(tmp_path / name, SETTINGS)


def test_a_device_is_no_place_for_results(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="no file"):
        Ledger(pipe, SETTINGS)
    assert list(tmp_path.iterdir()) == [pipe]


def test_errors_can_be_tried_again(out: Path) -> None:
    fill(out, 4, bad={1: "typed", 2: "untyped"})
    assert fill(out, 4).asked == []
    with Ledger(out, SETTINGS, retry_errors=True) as ledger:
        assert ledger.summary.failed == 0
        run(items(4), Question(), Fake(), ledger)
    assert sorted(row["id"] for row in rows(out)) == [item.id for item in items(4)]
    assert all("answer" in row for row in rows(out))
    assert sorted(path.name for path in out.parent.iterdir()) == ["results.jsonl", "results.jsonl.run"]


def test_a_full_disk_leaves_whole_rows_and_one_line(out: Path) -> None:
    fill(out, 5)
    whole = out.read_bytes()
    out.unlink()
    full = start(out, count=5, limit=len(whole) * 7 // 10)
    assert full.wait(60) != 0
    said = full.stderr.read().decode().strip().splitlines()[-1]
    assert said.startswith("omnisift.errors.UsageError: can't write")
    assert out.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])  # not the part of the fourth that fitted
    fill(out, 5)
    assert out.read_bytes() == whole


def test_a_name_that_is_not_utf8_comes_back(out: Path) -> None:
    name = b"\xff.mp4".decode(errors="surrogateescape")
    item = type(items(1)[0])(name, name, Path("/001.mp4"), "What?")
    for asked in (1, 0):
        engine = Fake()
        with Ledger(out, SETTINGS) as ledger:
            run([item], Question(), engine, ledger)
        assert len(engine.asked) == asked
    assert rows(out)[0]["id"] == name
