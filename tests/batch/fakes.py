"""An engine without a model, and runs in processes that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from omnisift.batch import Engine, EngineAnswer, Item, QuestionAnswering, ResultsFile, run
from omnisift.errors import EngineLost, NotMedia
from omnisift.utils import jsonl

SETTINGS = {"task": "qa", "model": "fake"}
ROOT = Path(__file__).parents[2]


def items(count: int) -> list[Item]:
    return [Item(f"{n:03d}.mp4", f"{n:03d}.mp4", Path(f"/{n:03d}.mp4"), f"What is é{n}?") for n in range(count)]


class Fake(Engine):
    """Answers with the question; ``bad`` maps the number of a clip to what goes wrong with it."""

    def __init__(self, log: Path | None = None, seconds: float = 0.0, bad: dict[int, str] | None = None) -> None:
        self.log, self.seconds, self.bad = log, seconds, bad or {}
        self.asked: list[str] = []

    def ask(self, clip: Path, questions: Sequence[str]) -> list[EngineAnswer]:
        self.asked.append(clip.name)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(clip.name + "\n")
        time.sleep(self.seconds)
        self._misbehave(clip)
        tokens = {"video": 96, "video_kept": 24, "audio": 150, "audio_kept": 39, "prompt": 260}
        return [
            EngineAnswer(f"To {text}", tokens, {"total": 0.5}, {"seconds": 6.0}, ("a notice",)) for text in questions
        ]

    def _misbehave(self, clip: Path) -> None:
        fault = self.bad.get(int(clip.stem))
        if fault == "typed":
            raise NotMedia(f"{clip}: no decoder\nknows this content")
        if fault == "untyped":
            raise ZeroDivisionError("nobody foresaw this")
        if fault == "lost":
            raise EngineLost(f"{clip}: the device failed")
        if fault == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if fault == "signals":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)


class FakeBatchEngine(Fake):
    """Takes several clips; with "lost" among them the whole batch fails."""

    def ask_batch(self, requests: Sequence[tuple[Path, Sequence[str]]]) -> list[list[EngineAnswer] | Exception]:
        return [self._ask_one(clip, questions) for clip, questions in requests]

    def _ask_one(self, clip: Path, questions: Sequence[str]) -> list[EngineAnswer] | Exception:
        try:
            return self.ask(clip, questions)
        except EngineLost:
            raise
        except Exception as error:
            return error


class Loaded:
    """A loader that returns an engine made before, in any process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self) -> Engine:
        return self.engine


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def start(out: Path, **arguments: object) -> subprocess.Popen[bytes]:
    """Start `main` below in a new process."""
    command = [sys.executable, "-m", "tests.batch.fakes", json.dumps({"out": str(out), **arguments})]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}, cwd=ROOT)


def main(out: str, count: int, seconds: float = 0.0, log: str | None = None, limit: int | None = None,
         piecemeal: bool = False, bad: dict[str, str] | None = None, ray: str | None = None,
         batch_size: int = 1) -> None:  # fmt: skip
    """A run of the fake engine. ``piecemeal`` writes lines in slow pieces, so that a kill cuts some of them off."""
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if piecemeal:
        jsonl._write_all = slow_write
    engine = FakeBatchEngine(Path(log) if log else None, seconds, {int(n): fault for n, fault in (bad or {}).items()})
    if ray is not None:
        from omnisift.batch.ray_driver import cluster, run_on_ray

        with ResultsFile(Path(out), SETTINGS) as results, cluster(ray, 2):
            run_on_ray(items(count), QuestionAnswering(), Loaded(engine), results)
        return
    with ResultsFile(Path(out), SETTINGS) as results:
        run(items(count), QuestionAnswering(), engine, results, batch_size=batch_size)


def slow_write(file: FileIO, data: bytes) -> None:
    for begin in range(0, len(data), 40):
        file.write(data[begin : begin + 40])
        time.sleep(0.002)


if __name__ == "__main__":
    from tests.batch.fakes import main  # Ray's workers import what they are sent by this name

    main(**json.loads(sys.argv[1]))
