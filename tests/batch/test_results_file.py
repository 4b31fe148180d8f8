"""The results file: one row per item whatever happens, one writer, one set of settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.batch.fakes import SETTINGS, Fake, items, rows, start

from omnisift.batch import Caption, ModelSettings, QuestionAnswering, ResultsFile, run
from omnisift.errors import UsageError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def fill(out: Path, count: int, **options: object) -> Fake:
    engine = Fake(**options)
    with ResultsFile(out, SETTINGS) as results:
        run(items(count), QuestionAnswering(), engine, results)
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
    assert "é" in out.read_text(encoding="utf-8")  # not escaped, so that grep finds it


def test_cut_anywhere_the_file_comes_out_the_same(out: Path) -> None:
    fill(out, 3)
    complete = out.read_bytes()
    ends = [offset + 1 for offset, byte in enumerate(complete) if byte == ord("\n")]
    near = {end + step for end in (0, *ends) for step in (-1, 0, 1, 2)}
    for length in sorted(near & set(range(len(complete))) | set(range(7, len(complete), 11))):
        out.write_bytes(complete[:length])
        engine = fill(out, 3)
        assert out.read_bytes() == complete, length
        assert len(engine.asked) == 3 - sum(end <= length for end in ends), length


def test_other_settings_are_refused_and_named(out: Path) -> None:
    fill(out, 1)
    before = out.read_bytes()
    with pytest.raises(UsageError, match=r"model 'fake' \(now 'other'\)"):
        ResultsFile(out, SETTINGS | {"model": "other"})
    assert out.read_bytes() == before
    fill(out, 2)  # the refusal left no lock


def test_a_run_without_rows_leaves_no_files_and_fixes_no_settings(out: Path) -> None:
    ResultsFile(out, SETTINGS | {"model": "other"}).__exit__(None, None, None)
    assert list(out.parent.iterdir()) == []
    start(out, count=1, bad={"0": "deadly"}).wait(60)
    assert out.read_bytes() == b""
    with ResultsFile(out, SETTINGS | {"model": "other"}) as results:
        run(items(1), QuestionAnswering(), Fake(), results)
    assert len(rows(out)) == 1


def test_another_question_about_a_clip_with_a_row_is_refused(out: Path) -> None:
    fill(out, 1)
    changed = [type(item)(item.id, item.clip, item.path, "Else?") for item in items(1)]
    with ResultsFile(out, SETTINGS) as results, pytest.raises(UsageError, match=r"another question about 000\.mp4"):
        run(changed, QuestionAnswering(), Fake(), results)


def test_a_second_writer_is_refused_until_the_first_is_gone(out: Path) -> None:
    with ResultsFile(out, SETTINGS), pytest.raises(UsageError, match="another process"):
        ResultsFile(out, SETTINGS)
    ResultsFile(out, SETTINGS).__exit__(None, None, None)


def test_the_lock_dies_with_its_process(out: Path) -> None:
    holder = start(out, count=50, seconds=0.05)
    while not (out.exists() and out.stat().st_size):
        assert holder.poll() is None, holder.stderr.read()
    with pytest.raises(UsageError, match="another process"):
        ResultsFile(out, SETTINGS)
    holder.kill()
    holder.wait()
    ResultsFile(out, SETTINGS).__exit__(None, None, None)


def test_the_same_id_never_gets_a_second_row(out: Path) -> None:
    with ResultsFile(out, SETTINGS) as results:
        run(items(1), QuestionAnswering(), Fake(), results)
        with pytest.raises(ValueError, match="has a row"):
            results.add(rows(out)[0])
    out.write_bytes(out.read_bytes() * 2)
    with pytest.raises(UsageError, match="two rows"):
        ResultsFile(out, SETTINGS)


@pytest.mark.parametrize("line", ["nonsense", "[1]", "{}", '{"id": "a"}', '{"id": "a", "seconds": 3}'])
def test_a_line_that_is_not_a_row_is_named(out: Path, line: str) -> None:
    fill(out, 1)
    out.write_text(out.read_text() + line + "\n")
    with pytest.raises(UsageError, match=r"results\.jsonl:2: not (a row|JSON)"):
        ResultsFile(out, SETTINGS)


def test_a_file_that_is_not_a_results_file_stays(out: Path) -> None:
    out.write_text("dear diary\n")
    with pytest.raises(UsageError, match="not started"):
        ResultsFile(out, SETTINGS)
    assert out.read_text() == "dear diary\n"
    assert list(out.parent.iterdir()) == [out]


def test_wrong_paths_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder; name a \.jsonl file in it"):
        ResultsFile(tmp_path, SETTINGS)
    with pytest.raises(UsageError, match=r"folder .*missing does not exist; create it first"):
        ResultsFile(tmp_path / "missing" / "a.jsonl", SETTINGS)
    with pytest.raises(UsageError, match=r"JSON lines, got a\.csv; name a file"):
        ResultsFile(tmp_path / "a.csv", SETTINGS)
    assert list(tmp_path.iterdir()) == []


OLD_SETTINGS = (
    '{"omnisift": "0.1.0", "task": "caption", "root": "/clips", "request": "Describe what is seen and heard in this '
    'clip.", "model": "nano", "compressor": "omnisift", "retain": null, "retain_video": null, "retain_audio": null, '
    '"selector": null, "device": "cpu", "dtype": null, "attn": null, "seed": 0, "fps": 2.0, "max_frames": 256, '
    '"max_pixels": null, "sampling": "time", "max_new_tokens": 256, "engine": "transformers"}\n'
)
OLD_IN_PROGRESS = '{"hand": ["2.mp4"], "deaths": 1}\n'
OLD_ROWS = (
    '{"id": "0.mp4", "clip": "0.mp4", "answer": "at 0 red square .", "tokens": {"video": 96, "video_kept": 24, '
    '"audio": 150, "audio_kept": 39, "prompt": 265, "generated": 29, "prompt_kept": 82}, "seconds": {"read": 0.14, '
    '"total": 0.63}, "source": {"seconds": 6.0, "images": 12, "fps": 2.0}, "notices": []}\n'
    '{"id": "1.mp4", "clip": "1.mp4", "error": {"type": "ProcessDied", "message": "3 processes in a row ended without '
    'a word while they had this clip in hand; it was left out"}, "seconds": {"total": 0.0}}\n'
)


def test_files_written_under_old_names_are_resumed(out: Path) -> None:
    """Settings, rows and crashes of an earlier version, in which ``attn_implementation`` was ``attn``."""
    out.write_text(OLD_ROWS)
    lock = out.with_name("results.jsonl.run")
    lock.write_text(OLD_SETTINGS + OLD_IN_PROGRESS)
    settings = {"omnisift": "0.1.0", "task": "caption", "root": "/clips", **Caption().settings}
    settings |= ModelSettings(device="cpu", compressor="omnisift").to_dict()
    with ResultsFile(out, settings) as results:
        assert results.summary.done == 1
        assert dict(results.summary.errors) == {"ProcessDied": 1}
        assert "0.mp4" in results
        assert results.lock.is_suspect("2.mp4")
        assert results.lock.crashes("2.mp4") == 2
    assert out.read_text() == OLD_ROWS
    assert lock.read_text() == OLD_SETTINGS
    with pytest.raises(UsageError, match=r"attn_implementation None \(now 'eager'\)"):
        ResultsFile(out, settings | {"attn_implementation": "eager"})
    with pytest.raises(UsageError, match=r"other settings: compressor 'omnisift' \(now 'resift'\); give those"):
        ResultsFile(out, settings | ModelSettings(device="cpu").to_dict())
    with ResultsFile(out, settings | {"retain": 0.25}) as results:  # the default, said
        assert results.summary.done == 1
    with pytest.raises(UsageError, match=r"other settings: retain 0.25 \(now 0.1\); give those"):
        ResultsFile(out, settings | {"retain": 0.1})
    assert out.read_text() == OLD_ROWS


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="not a regular file"):
        ResultsFile(pipe, SETTINGS)
    assert list(tmp_path.iterdir()) == [pipe]


def test_errors_can_be_tried_again(out: Path) -> None:
    fill(out, 4, bad={1: "typed", 2: "untyped"})
    assert fill(out, 4).asked == []
    with ResultsFile(out, SETTINGS, retry_errors=True) as results:
        assert results.summary.failed == 0
        run(items(4), QuestionAnswering(), Fake(), results)
    assert sorted(row["id"] for row in rows(out)) == [item.id for item in items(4)]
    assert all("answer" in row for row in rows(out))
    assert sorted(path.name for path in out.parent.iterdir()) == ["results.jsonl", "results.jsonl.run"]


def test_a_full_disk_leaves_whole_rows_and_one_line(out: Path) -> None:
    fill(out, 5)
    complete = out.read_bytes()
    out.unlink()
    full = start(out, count=5, limit=len(complete) * 7 // 10)
    assert full.wait(60) != 0
    message = full.stderr.read().decode().strip().splitlines()[-1]
    assert message.startswith("omnisift.errors.UsageError: can't write")
    assert out.read_bytes() == b"".join(complete.splitlines(keepends=True)[:3])  # not a part of the fourth
    fill(out, 5)
    assert out.read_bytes() == complete


def test_a_name_that_is_not_utf8_comes_back(out: Path) -> None:
    name = b"\xff.mp4".decode(errors="surrogateescape")
    item = type(items(1)[0])(name, name, Path("/001.mp4"), "What?")
    for expected in (1, 0):
        engine = Fake()
        with ResultsFile(out, SETTINGS) as results:
            run([item], QuestionAnswering(), engine, results)
        assert len(engine.asked) == expected
    assert rows(out)[0]["id"] == name
