"""An engine without a model, and runs in processes of their own that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omnisift.batch import Engine, Item, Ledger, Question, Reply, run
from omnisift.batch import results_file as ledger_module
from omnisift.errors import EngineLost, NotMedia

SETTINGS = {"task": "qa", "model": "fake"}
ROOT = Path(__file__).parents[2]


def items(count: int) -> list[Item]:
    return [Item(f"{n:03d}.mp4", f"{n:03d}.mp4", Path(f"/{n:03d}.mp4"), f"What is é{n}?") for n in range(count)]


class Fake(Engine):
    """Answers with the question; some clips do worse, by their number."""

    def __init__(self, log: Path | None = None, seconds: float = 0.0, bad: dict[int, str] | None = None) -> None:
        self.log, self.seconds, self.bad = log, seconds, bad or {}
        self.asked: list[str] = []

    def ask(self, clip: Path, questions: Sequence[str]) -> list[Reply]:
        self.asked.append(clip.name)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(clip.name + "\n")
        time.sleep(self.seconds)
        self._misbehave(clip)
        tokens = {"video": 96, "video_kept": 24, "audio": 150, "audio_kept": 39, "prompt": 260}
        return [Reply(f"To {text}", tokens, {"total": 0.5}, {"seconds": 6.0}, ("a notice",)) for text in questions]

    def _misbehave(self, clip: Path) -> None:
        how = self.bad.get(int(clip.stem))
        if how == "typed":
            raise NotMedia(f"{clip}: no decoder\nknows this content")
        if how == "untyped":
            raise ZeroDivisionError("nobody foresaw this")
        if how == "lost":
            raise EngineLost(f"{clip}: the device failed")
        if how == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if how == "signals":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)


class FakeOfMany(Fake):
    """Takes several; with "lost" among them it breaks down over all."""

    def ask_many(self, asked: Sequence[tuple[Path, Sequence[str]]]) -> list[list[Reply] | Exception]:
        return [self._one(clip, questions) for clip, questions in asked]

    def _one(self, clip: Path, questions: Sequence[str]) -> list[Reply] | Exception:
        try:
            return self.ask(clip, questions)
        except EngineLost:
            raise
        except Exception as error:
            return error


class Self:
    """Loads an engine that is there, in whichever process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self) -> Engine:
        return self.engine


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def start(out: Path, **arguments: object) -> subprocess.Popen[bytes]:
    """`main` below in a process of its own."""
    command = [sys.executable, "-m", "tests.batch.fakes", json.dumps({"out": str(out), **arguments})]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}, cwd=ROOT)


def main(out: str, count: int, seconds: float = 0.0, log: str | None = None, limit: int | None = None,
         piecemeal: bool = False, bad: dict[str, str] | None = None, ray: str | None = None,
         together: int = 1) -> None:  # fmt: skip
    """A run of the fake engine. ``piecemeal`` writes lines in slow pieces, so that a kill finds torn ones."""
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if piecemeal:
        ledger_module._write_all = slow_write
    engine = FakeOfMany(Path(log) if log else None, seconds, {int(n): how for n, how in (bad or {}).items()})
    if ray is not None:
        from omnisift.batch.ray_driver import cluster, run_on_ray

        with Ledger(Path(out), SETTINGS) as ledger, cluster(ray, 2):
            run_on_ray(items(count), Question(), Self(engine), ledger)
        return
    with Ledger(Path(out), SETTINGS) as ledger:
        run(items(count), Question(), engine, ledger, together=together)


def slow_write(file: int, data: bytes, place: int) -> None:
    for begin in range(0, len(data), 40):
        os.pwrite(file, data[begin : begin + 40], place + begin)
        time.sleep(0.002)


if __name__ == "__main__":
    from tests.batch.fakes import main  # by this name, Ray's workers find what is sent to them

    main(**json.loads(sys.argv[1]))
