"""SIGKILL at any moment: at most one clip is done again, none is lost, none is doubled."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.batch.fakes import Fake, items, rows, start

COUNT = 400


def survive(out: Path, log: Path, kills: int, seed: int, together: int = 1) -> int:
    """Run, kill at a random moment, check, again; then to the end. Returns how many kills tore a line.

    Every other kill waits for a new row: a slow machine would spend all its time on starting, and a clip over which the
    process died three times would rightly be given up.
    """
    draw, torn = random.Random(seed), 0
    for number in range(kills):
        asked, had = lines(log), whole_lines(out)
        process = start(out, count=COUNT, seconds=0.004, log=str(log), piecemeal=True, together=together)
        while number % 2 and whole_lines(out) == had and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.3))
        process.kill()
        process.wait()
        before = whole_lines(out)
        torn += out.exists() and len(out.read_bytes()) > len(before)
        ids = {line.split(b'"')[3].decode() for line in before.splitlines()}
        new = log.read_text().splitlines()[asked:] if log.exists() else []
        assert len(set(new) - ids) <= together, "more clips were in hand"
        assert len(new) == len(set(new)), "a clip was done twice in one process"
    last = start(out, count=COUNT)
    assert last.wait(60) == 0, last.stderr.read()
    assert out.read_bytes().startswith(before)
    return torn


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def whole_lines(path: Path) -> bytes:
    found = path.read_bytes() if path.exists() else b""
    return found[: found.rfind(b"\n") + 1]


def check(out: Path, reference: Path) -> None:
    done = start(reference, count=COUNT)
    assert done.wait(60) == 0, done.stderr.read()
    assert out.read_bytes() == reference.read_bytes()
    assert [row["id"] for row in rows(out)] == [item.id for item in items(COUNT)]


def test_fifty_random_kills_leave_the_file_of_an_uninterrupted_run(tmp_path: Path) -> None:
    out, log = tmp_path / "a.jsonl", tmp_path / "log"
    torn = survive(out, log, kills=50, seed=0)
    assert torn >= 3, "the kills were to hit the middle of a line as well"
    assert len(log.read_text().splitlines()) <= COUNT + 50
    check(out, tmp_path / "b.jsonl")


def test_the_same_with_several_clips_in_hand(tmp_path: Path) -> None:
    out, log = tmp_path / "a.jsonl", tmp_path / "log"
    survive(out, log, kills=20, seed=1, together=5)
    check(out, tmp_path / "b.jsonl")


def test_of_several_in_hand_the_deadly_one_alone_is_given_up(tmp_path: Path) -> None:
    """The first kill may be any of the four, so each is done alone, and only one dies again."""
    out = tmp_path / "a.jsonl"
    for done in (0, 2, 2, 2):
        process = start(out, count=8, bad={"2": "deadly"}, together=4)
        assert process.wait(60) == -9
        assert len(rows(out)) == done
    process = start(out, count=8, bad={"2": "deadly"}, together=4)
    assert process.wait(60) == 0, process.stderr.read()
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, None, "ProcessDied"] + [None] * 5


def test_the_first_clip_of_all_is_given_up_too(tmp_path: Path) -> None:
    """Nothing is in the file yet, and the kills are remembered all the same."""
    out = tmp_path / "a.jsonl"
    for _ in range(3):
        assert start(out, count=3, bad={"0": "deadly"}).wait(60) == -9
    assert start(out, count=3, bad={"0": "deadly"}).wait(60) == 0
    assert [row.get("error", {}).get("type") for row in rows(out)] == ["ProcessDied", None, None]


def test_a_clip_that_kills_the_process_is_given_up_after_three(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    for _ in range(3):
        process = start(out, count=6, bad={"2": "deadly"})
        assert process.wait(60) == -9
        assert len(rows(out)) == 2
    process = start(out, count=6, bad={"2": "deadly"})
    assert process.wait(60) == 0, process.stderr.read()
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, None, "ProcessDied", None, None, None]


def test_kills_before_a_clip_is_begun_are_not_held_against_it(tmp_path: Path) -> None:
    from tests.batch.fakes import SETTINGS

    from omnisift.batch import Ledger, Question, run

    out = tmp_path / "a.jsonl"
    start(out, count=3, bad={"1": "deadly"}).wait(60)
    for _ in range(5):  # killed while it loads the model: the claim is opened, nothing is taken in hand
        code = f"import os; from pathlib import Path; from omnisift.batch import Ledger; Ledger(Path({str(out)!r}), "
        code += f"{SETTINGS!r}); os.kill(os.getpid(), 9)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Ledger(out, SETTINGS) as ledger:
        assert ledger.claim.deaths("001.mp4") == 1
        run(items(3), Question(), Fake(), ledger)
        assert ledger.summary.done == 3


@pytest.mark.slow
def test_fifty_random_kills_of_the_command_with_nano(tmp_path: Path) -> None:
    from omnisift.cli.dataset import write_dataset

    clips, out, draw = tmp_path / "clips", tmp_path / "a.jsonl", random.Random(1)
    write_dataset(clips, 200, 0, 0, lambda: None)
    (clips / "clip-000003.mp4").write_bytes((clips / "clip-000003.mp4").read_bytes()[:2000])  # one that is broken
    command = [sys.executable, "-m", "omnisift.cli", "run", str(clips), "--task", "caption", "--out"]
    grown, before = 0, b""
    for number in range(50):
        process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while number % 2 and lines(out) == before.count(b"\n") and process.poll() is None:
            time.sleep(0.02)  # until it answers; the other kills come while it starts, or whenever
        time.sleep(draw.uniform(0.0, 2.0) if number % 2 else draw.uniform(0.0, 8.0))
        process.kill()
        process.wait()
        found = whole_lines(out)
        assert found.startswith(before), "a row was lost"
        grown, before = grown + (len(found) > len(before)), found
    assert grown >= 20, "the kills were to come while clips are answered"
    for path in (out, tmp_path / "b.jsonl"):
        subprocess.run([*command, str(path)], check=True, capture_output=True)
    ours, reference = (
        [{name: row.get(name) for name in ("id", "answer", "tokens", "error")} for row in rows(path)]
        for path in (out, tmp_path / "b.jsonl")
    )
    assert ours == reference
    assert len(ours) == 200
    assert sum(row["error"] is not None for row in ours) == 1
