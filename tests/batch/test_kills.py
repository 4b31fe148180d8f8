"""SIGKILL at any moment: at most one clip is done again, no row is lost, none is written twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.batch.fakes import Fake, items, rows, start

from omnisift.batch import run_lock
from omnisift.batch.run_lock import MAX_DEATHS

COUNT = 400


def survive(out: Path, log: Path, kills: int, seed: int, batch_size: int = 1) -> int:
    """Kill a run at a random moment, check, repeat, then run to the end. Returns how many kills cut a line off.

    Every other kill waits for a new row: otherwise a slow machine would spend all its time on starting, and a clip on
    which the process died three times would be skipped.
    """
    draw, torn = random.Random(seed), 0
    for number in range(kills):
        asked, had = lines(log), whole_lines(out)
        process = start(out, count=COUNT, seconds=0.004, log=str(log), piecemeal=True, batch_size=batch_size)
        while number % 2 and whole_lines(out) == had and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.3))
        process.kill()
        process.wait()
        before = whole_lines(out)
        torn += out.exists() and len(out.read_bytes()) > len(before)
        ids = {line.split(b'"')[3].decode() for line in before.splitlines()}
        new = log.read_text().splitlines()[asked:] if log.exists() else []
        assert len(set(new) - ids) <= batch_size, "more clips were in progress"
        assert len(new) == len(set(new)), "a clip was done twice in one process"
    last = start(out, count=COUNT)
    assert last.wait(60) == 0, last.stderr.read()
    assert out.read_bytes().startswith(before)
    return torn


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def whole_lines(path: Path) -> bytes:
    result = path.read_bytes() if path.exists() else b""
    return result[: result.rfind(b"\n") + 1]


def check(out: Path, reference: Path) -> None:
    done = start(reference, count=COUNT)
    assert done.wait(60) == 0, done.stderr.read()
    assert out.read_bytes() == reference.read_bytes()
    assert [row["id"] for row in rows(out)] == [item.id for item in items(COUNT)]


@pytest.mark.parametrize(
    ("kills", "torn_at_least"), [(12, 0), pytest.param(50, 3, marks=pytest.mark.slow)], ids=lambda value: str(value)
)
def test_random_kills_leave_the_file_of_an_uninterrupted_run(kills: int, torn_at_least: int, tmp_path: Path) -> None:
    out, log = tmp_path / "a.jsonl", tmp_path / "log"
    torn = survive(out, log, kills=kills, seed=0)
    assert torn >= torn_at_least, "too few kills hit the middle of a line"
    assert len(log.read_text().splitlines()) <= COUNT + kills
    check(out, tmp_path / "b.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_the_same_with_several_clips_in_progress(kills: int, tmp_path: Path) -> None:
    out, log = tmp_path / "a.jsonl", tmp_path / "log"
    survive(out, log, kills=kills, seed=1, batch_size=5)
    check(out, tmp_path / "b.jsonl")


def test_of_several_in_progress_only_the_deadly_one_is_skipped(tmp_path: Path) -> None:
    """The first crash may be due to any of the four, so each is done alone, and only one crashes again."""
    out = tmp_path / "a.jsonl"
    for done in (0, 2, 2, 2):
        process = start(out, count=8, bad={"2": "crash"}, batch_size=4)
        assert process.wait(60) == -signal.SIGSEGV
        assert len(rows(out)) == done
    process = start(out, count=8, bad={"2": "crash"}, batch_size=4)
    assert process.wait(60) == 0, process.stderr.read()
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, None, "ProcessDied"] + [None] * 5


def test_the_first_clip_is_skipped_too(tmp_path: Path) -> None:
    """The crashes are counted although no row was written yet."""
    out = tmp_path / "a.jsonl"
    for _ in range(3):
        assert start(out, count=3, bad={"0": "crash"}).wait(60) == -signal.SIGSEGV
    assert start(out, count=3, bad={"0": "crash"}).wait(60) == 0
    assert [row.get("error", {}).get("type") for row in rows(out)] == ["ProcessDied", None, None]


def test_a_clip_that_crashes_the_process_three_times_is_skipped(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    for _ in range(3):
        process = start(out, count=6, bad={"2": "crash"})
        assert process.wait(60) == -signal.SIGSEGV
        assert len(rows(out)) == 2
    process = start(out, count=6, bad={"2": "crash"})
    assert process.wait(60) == 0, process.stderr.read()
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, None, "ProcessDied", None, None, None]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(MAX_DEATHS - 1, marks=pytest.mark.slow)])
def test_a_clip_is_not_blamed_for_a_few_kills_from_outside(kills: int, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    for _ in range(kills):
        assert start(out, count=3, bad={"1": "deadly"}).wait(60) == -signal.SIGKILL
    assert start(out, count=3).wait(60) == 0
    assert all("answer" in row for row in rows(out))


@pytest.mark.slow
def test_no_clip_blocks_a_run_for_ever(tmp_path: Path) -> None:
    """What only SIGKILL ends, as where the kernel tells no counts, is skipped after ten deaths."""
    out = tmp_path / "a.jsonl"
    for _ in range(MAX_DEATHS):
        assert start(out, count=3, bad={"1": "deadly"}).wait(60) == -signal.SIGKILL
    assert start(out, count=3, bad={"1": "deadly"}).wait(60) == 0
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, "ProcessDied", None]
    assert rows(out)[1]["error"]["message"] == "Skipped: 10 processes in a row died on this clip."


def test_what_the_out_of_memory_killer_ends_counts_as_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's count has grown since the clip was started; after a restart of the machine it says nothing."""
    out, vmstat, boot = (tmp_path / name for name in ("a.jsonl", "vmstat", "boot"))
    boot.write_text("one\n")
    monkeypatch.setattr(run_lock, "_VMSTAT", vmstat)
    monkeypatch.setattr(run_lock, "_BOOT", boot)
    for death, (machine, count) in enumerate([("one", 4), ("one", 5), ("one", 6), ("two", 9), ("two", 10)]):
        boot.write_text(f"{machine}\n")
        vmstat.write_text(f"pgfault 7\noom_kill {count}\n")
        lock = run_lock.RunLock(out.with_name("a.jsonl.run"), out)
        if lock.settings is None:
            lock.write_settings({"task": "qa"})
        assert lock.crashes("1") == death
        assert lock.is_deadly("1") == (death == 4)  # of four deaths the one at the change of machines is unknown
        lock.set_in_progress(["1"])
        lock.close(keep_in_progress=True)


@pytest.mark.slow
def test_kills_before_a_clip_is_started_do_not_count_for_it(tmp_path: Path) -> None:
    from tests.batch.fakes import SETTINGS

    from omnisift.batch import QuestionAnswering, ResultsFile, run

    out = tmp_path / "a.jsonl"
    start(out, count=3, bad={"1": "deadly"}).wait(60)
    for _ in range(5):  # killed while it loads the model: the lock is open, no item is in progress
        code = "import os; from pathlib import Path; from omnisift.batch import ResultsFile; "
        code += f"ResultsFile(Path({str(out)!r}), {SETTINGS!r}); os.kill(os.getpid(), 9)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with ResultsFile(out, SETTINGS) as results:
        assert results.lock.crashes("001.mp4") == 1
        run(items(3), QuestionAnswering(), Fake(), results)
        assert results.summary.done == 3


@pytest.mark.slow
def test_fifty_random_kills_of_the_command_with_nano(tmp_path: Path) -> None:
    from omnisift.world.dataset import write_dataset

    clips, out, draw = tmp_path / "clips", tmp_path / "a.jsonl", random.Random(1)
    write_dataset(clips, 200, 0, 0, lambda: None)
    (clips / "clip-000003.mp4").write_bytes((clips / "clip-000003.mp4").read_bytes()[:2000])  # one that is broken
    command = [sys.executable, "-m", "omnisift.cli", "run", str(clips), "--task", "caption", "--out"]
    grown, before = 0, b""
    for number in range(50):
        process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while number % 2 and lines(out) == before.count(b"\n") and process.poll() is None:
            time.sleep(0.02)  # until it answers; the other kills come at any time, also during the start
        time.sleep(draw.uniform(0.0, 2.0) if number % 2 else draw.uniform(0.0, 8.0))
        process.kill()
        process.wait()
        result = whole_lines(out)
        assert result.startswith(before), "a row was lost"
        grown, before = grown + (len(result) > len(before)), result
    assert grown >= 20, "too few kills came while clips were answered"
    for path in (out, tmp_path / "b.jsonl"):
        subprocess.run([*command, str(path)], check=True, capture_output=True)
    ours, reference = (
        [{name: row.get(name) for name in ("id", "answer", "tokens", "error")} for row in rows(path)]
        for path in (out, tmp_path / "b.jsonl")
    )
    assert ours == reference
    assert len(ours) == 200
    assert sum(row["error"] is not None for row in ours) == 1
