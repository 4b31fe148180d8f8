"""A run over a local Ray cluster writes equal rows, also when a worker, a machine or the driver is killed.

Needs the extra `ray`: `nox -s extras` runs this. Each test starts its own cluster, which takes ten seconds and more.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.batch.fakes import items, rows, start

from omnisift.world.dataset import write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
CLIPS = 60
WORKER = re.compile(r"ray::MapWorker")


@pytest.fixture(autouse=True)
def own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes of a cluster need the same token; without one Ray writes one to the home folder."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "clips"
    write_dataset(folder, CLIPS, 0, 0, lambda: None)
    (folder / "bad.mp4").write_bytes(b"not a video")
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[dict]:
    """The rows of one process."""
    out = folder.parent / "alone.jsonl"
    assert command(folder, out).wait(300) == 0
    return plain(out)


def command(folder: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "omnisift.cli", "run", str(folder), "--task", "caption", "--out", str(out), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def plain(out: Path) -> list[dict]:
    """Rows without their times, by id."""
    return sorted(
        ({name: part for name, part in row.items() if name != "seconds"} for row in rows(out)),
        key=lambda row: row["id"],
    )


def wait_for(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 900  # a bound for a hung run on a machine under load
    while not (out.exists() and out.read_bytes().count(b"\n") >= count):
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.05)


def workers_of(pid: int) -> list[psutil.Process]:
    result = psutil.Process(pid).children(recursive=True)
    return [process for process in result if WORKER.match(" ".join(process.cmdline()))]


def test_two_workers_one_killed_midway_answer_as_one_process(folder: Path, alone: list[dict], tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    process = command(folder, out, "--ray", "local", "--workers", "2", "--json")
    wait_for(out, 8, process)
    before = workers_of(process.pid)
    assert len(before) == 2
    before[0].kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert json.loads(output)["rows"] == CLIPS + 1  # one JSON object and nothing else, whatever Ray says
    assert plain(out) == alone
    assert sum("error" in row for row in alone) == 1


def test_a_killed_run_resumes(folder: Path, alone: list[dict], tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    first = command(folder, out, "--ray", "local")
    wait_for(out, 5, first)
    first.kill()
    first.wait()
    before = out.read_bytes()
    second = command(folder, out, "--ray", "local")
    wait_for(out, before.count(b"\n") + 3, second)
    second.send_signal(signal.SIGTERM)  # Ray has a handler of its own for it
    assert second.wait(120) == 143
    assert len(rows(out)) < CLIPS
    assert command(folder, out).wait(300) == 0  # with or without a cluster it is the same run
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert plain(out) == alone


@pytest.fixture
def two_machines(own_token: None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a head node without workers, and one of the two nodes with a worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    call = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    head = ["--head", f"--port={address.split(':')[1]}", "--num-cpus=2", "--include-dashboard=false"]
    node = [f"--address={address}", "--num-cpus=1"]
    nodes = []
    try:
        for more in (head, node, node):
            nodes.append(subprocess.Popen([*call, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(8)
        yield address, nodes[2]
    finally:
        for process in reversed(nodes):
            end(process)


def end(node: subprocess.Popen[bytes]) -> None:
    """A machine goes down: all its processes at once."""
    if node.poll() is not None:
        return
    processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
    for process in processes:
        if process.is_running():
            process.kill()
    node.wait()


def test_a_machine_that_goes_down_loses_no_row(two_machines, tmp_path: Path) -> None:
    address, node = two_machines
    out, count = tmp_path / "a.jsonl", 60
    process = start(out, count=count, seconds=0.2, ray=address)
    wait_for(out, 10, process)
    end(node)
    assert process.wait(300) == 0, process.stderr.read()
    assert sorted(row["id"] for row in rows(out)) == [item.id for item in items(count)]
    assert all("answer" in row for row in rows(out))


def test_a_clip_that_kills_workers_is_skipped_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    process = start(out, count=30, seconds=0.1, ray="local", bad={"4": "deadly", "6": "untyped", "9": "lost"})
    assert process.wait(300) == 0, process.stderr.read()
    result = {row["id"]: row.get("error", {}).get("type") for row in rows(out)}
    assert len(result) == len(rows(out)) == 30
    assert {name: kind for name, kind in result.items() if kind} == {
        "004.mp4": "WorkerDied",
        "006.mp4": "ZeroDivisionError",
        "009.mp4": "WorkerDied",
    }


def test_deadly_clips_that_are_left_last_get_rows_too(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    assert start(out, count=1).wait(60) == 0
    again = start(out, count=4, bad={"1": "deadly", "2": "deadly", "3": "deadly"}, ray="local")  # more than workers
    assert again.wait(300) == 0, again.stderr.read()
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, *["WorkerDied"] * 3]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ray", "local", "--model", "no/such"], "error (CheckpointError): can't load a model named 'no/such'"),
        (["--ray", "local", "--device", "cuda"], "error (UsageError): no machine of this Ray cluster has a GPU"),
        (["--ray", "127.0.0.1:9"], "error (UsageError): no Ray cluster at '127.0.0.1:9'"),
        (["--ray", "nonsense"], "error (UsageError): --ray takes local, auto or HOST:PORT"),
    ],
)
def test_an_impossible_run_ends_with_one_line(folder: Path, tmp_path: Path, more: list[str], message: str) -> None:
    words = [sys.executable, "-m", "omnisift.cli", "run", str(folder), "--task", "caption", "-o", str(tmp_path / "a")]
    done = subprocess.run([*words, *more], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(message)
    assert list(tmp_path.iterdir()) == []
