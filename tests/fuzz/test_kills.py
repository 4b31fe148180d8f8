"""Signals at random moments, two writers and small disks: commands come out as if nothing had happened.

A case is one seed: its kills come at moments and with signals drawn from the seed, then the command runs to its end.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.batch.fakes import start
from tests.batch.test_kills import check, survive
from tests.fuzz.conftest import Fuzz

from omnisift.world.dataset import write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]
ROOT = Path(__file__).parents[2]
SOFT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SECONDS = 300
"""A command that takes longer hangs."""
RECIPE = """name: small
title: small
about: small
protocol: training-free
backbone: nano
settings: [base]
clips: 16
retain: [0.25]
seeds: [0]
rows:
  - {group: a, method: random}
  - {group: a, method: uniform}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips, of which one is broken, and a recipe."""
    folder = tmp_path_factory.mktemp("kills") / "world"
    write_dataset(folder, 4, 0, 1, lambda: None)
    (folder / "small.yaml").write_text(RECIPE)
    (folder / "bad").mkdir()
    for number in range(12):
        (folder / "bad" / f"{number:02d}.mp4").symlink_to(folder / f"clip-{number % 4:06d}.mp4")
    (folder / "bad" / "05.mp4").unlink()
    (folder / "bad" / "05.mp4").write_bytes((folder / "clip-000000.mp4").read_bytes()[:2000])
    return folder


def arguments(name: str, data: Path, out: Path) -> list[str]:
    train = {"data": f"[{data}]", "max_steps": 4, "save_steps": 1, "selector": "null", "estimator": "straight_through"}
    return [
        str(part)
        for part in {
            "run": ["run", data / "bad", "--task", "caption", "--out", out / "rows.jsonl"],
            "inspect": ["inspect", data / "clip-000000.mp4", "-o", out / "a.html", "--svg", out / "a.svg", "--force"],
            "train": ["train", ROOT / "recipes/train/nano.yaml", "--out", out,
                      *(word for pair in train.items() for word in ("--set", f"{pair[0]}={pair[1]}"))],
            "distill": ["distill", "--media", data, "--steps", 20, "--questions", 1, "-o", out / "selector", "--force"],
            "bench-quality": ["bench-quality", data / "small.yaml", "--out", out, "--work", out, "--workers", 1],
        }[name]
    ]  # fmt: skip


def result(name: str, out: Path) -> Any:
    """What must not depend on kills: all but times and provenance."""
    if name == "run":
        lines = json_lines(out / "rows.jsonl")
        return [{key: line.get(key) for key in ("id", "answer", "tokens", "error")} for line in lines]
    if name == "inspect":  # its pages hold times
        return (out / "a.html").read_text().rstrip()[-7:], (out / "a.svg").read_text().rstrip()[-6:]
    if name == "train":
        return (out / "model/model.safetensors").read_bytes(), [line["loss"] for line in json_lines(out / "log.jsonl")]
    if name == "distill":
        return (out / "selector/model.safetensors").read_bytes()
    lines = [line for line in json_lines(out / "small.jsonl") if "row" in line]
    return sorted((line["row"], line["first"], line["right"], json.dumps(line["kept"])) for line in lines)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def begin(command: list[str], limit: int | None = None) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "omnisift.cli", *command],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if limit is None else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"hangs: {process.args}") from None
    return process.returncode, err


def finish(command: list[str]) -> None:
    code, err = end(begin(command))
    assert code == 0, err[-2000:]


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, float]]:
    """The result of a command without kills, and its seconds."""
    known: dict[str, tuple[Any, float]] = {}

    def of(name: str) -> tuple[Any, float]:
        if name not in known:
            out, begun = tmp_path_factory.mktemp(name), time.monotonic()
            finish(arguments(name, data, out))
            known[name] = result(name, out), time.monotonic() - begun
        return known[name]

    return of


def check_left(out: Path, name: str) -> None:
    """After any signal: old or complete, and every line but the last one whole."""
    for path in out.rglob("*.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True)[:-1]:
            json.loads(line)
    if name == "inspect":
        for path, ending in ((out / "a.html", "</html>"), (out / "a.svg", "</svg>")):
            text = path.read_text().rstrip()
            assert text == "old" or text.endswith(ending), f"{path.name} is torn"


COMMANDS = ["run", "inspect", "train", "distill", "bench-quality"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_comes_out_the_same(name: str, fuzz: Fuzz, data: Path, reference: Any, tmp_path: Path) -> None:
    expected, seconds = reference(name)
    for seed in fuzz:
        draw, out = random.Random(seed), tmp_path / str(seed)
        out.mkdir()
        if name == "inspect":
            for suffix in ("html", "svg"):
                (out / f"a.{suffix}").write_text("old")
        command = arguments(name, data, out)
        for kill in range(draw.randint(1, 3)):
            number = draw.choice((signal.SIGKILL, *SOFT))
            with fuzz.case(f"seed {seed} kill {kill} {signal.Signals(number).name}"):
                process = begin(command)
                time.sleep(draw.uniform(0, 1.1 * seconds))
                process.send_signal(number)
                code, err = end(process)
                assert code in (-number, 128 + number, 0), f"exit {code}: {err[-300:]}"
                check_left(out, name)
                if number in SOFT and code != -number:
                    assert not list(out.rglob(".omnisift-*")), "a temporary folder stays"
        with fuzz.case(f"seed {seed} end"):
            finish(command)
            assert result(name, out) == expected
            assert not list(out.rglob(".omnisift-*")), "a temporary folder stays"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_small_disk_is_one_line(name: str, fuzz: Fuzz, data: Path, reference: Any, tmp_path: Path) -> None:
    expected, _ = reference(name)
    for seed in fuzz:
        draw, out = random.Random(seed), tmp_path / str(seed)
        out.mkdir()
        limit = int(2 ** draw.uniform(0, 23))
        with fuzz.case(f"seed {seed} limit {limit}"):
            code, err = end(begin(arguments(name, data, out), limit))
            last = err.strip().splitlines()[-1:]
            assert "Traceback" not in err, err[-300:]
            assert (code == 0) or (code == 2 and last[0].startswith("error (")), f"exit {code}: {last}"
            assert not list(out.rglob(".omnisift-*")), "a temporary folder stays"
            finish(arguments(name, data, out))
            assert result(name, out) == expected


def test_random_kills_of_a_run(fuzz: Fuzz, tmp_path: Path) -> None:
    """The kill test of `tests/batch`, with other seeds."""
    for seed in fuzz:
        with fuzz.case(f"seed {seed}"):
            out = tmp_path / f"{seed}.jsonl"
            survive(out, tmp_path / f"{seed}.log", kills=8, seed=seed, batch_size=1 + 4 * (seed % 2))
            check(out, tmp_path / f"{seed}-whole.jsonl")


def test_writers_under_several_names(fuzz: Fuzz, tmp_path: Path) -> None:
    """Of several processes one writes at a time, under whatever name; some are killed."""
    for seed in fuzz:
        draw, folder = random.Random(seed), tmp_path / str(seed)
        folder.mkdir()
        out, names = folder / "a.jsonl", ["a.jsonl", "link.jsonl", "hard.jsonl"]
        out.touch()
        (folder / "link.jsonl").symlink_to("a.jsonl")
        (folder / "hard.jsonl").hardlink_to(out)
        with fuzz.case(f"seed {seed}"):
            processes = []
            for _ in range(4):
                processes.append(start(folder / draw.choice(names[:2]), count=80, seconds=0.003, piecemeal=True))
                processes.append(start(folder / "hard.jsonl", count=80, seconds=0.003, piecemeal=True))
                time.sleep(draw.uniform(0, 0.3))
                draw.choice(processes).kill()
            for process in processes:
                process.wait(SECONDS)
            ids = [line["id"] for line in json_lines(out) if out.read_bytes().endswith(b"\n")]
            assert len(ids) == len(set(ids)), "a clip has two rows"
            for line in out.read_bytes().splitlines(keepends=True)[:-1]:
                json.loads(line)
