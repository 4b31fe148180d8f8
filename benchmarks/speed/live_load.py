"""Load `examples/live_server.py`: concurrent streams of nano at real speed, each asked every few seconds.

The server is a process of its own, restricted to ``--cores`` CPU cores like the clients. Each client sends a generated
clip again and again as a camera would, two images and eight pieces of sound a second, and asks one of the clip's
questions every ``--every`` seconds. Latency is what the client waits, from its question to the answer. The result is
one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

from omnisift.media.piece_bytes import image_message, samples_message
from omnisift.media.units import SAMPLE_RATE
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.provenance import machine_info
from omnisift.world import make_scene, questions, render_audio, render_images, world_setting

ROOT = Path(__file__).resolve().parents[2]
IMAGES, SOUNDS = 2, 8
"""Messages a second."""
TOKEN = "benchmark"


@dataclass
class Clip:
    """A generated clip as messages without their times, and its questions."""

    images: list[bytes]
    sounds: list[np.ndarray]
    questions: list[str]

    @classmethod
    def of(cls, seed: int) -> Clip:
        scene = make_scene(seed, "test", world_setting("long").config)
        images = [jpeg(image) for image in render_images(scene)]
        samples, step = render_audio(scene), SAMPLE_RATE // SOUNDS
        sounds = [samples[begin : begin + step] for begin in range(0, len(samples), step)]
        asked = [question.text for question in questions(scene, np.random.default_rng(seed))]
        return cls(images, sounds, asked)


def jpeg(image: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()


@dataclass
class Measured:
    """What one client saw."""

    latencies: list[float] = field(default_factory=list)
    answers: int = 0
    errors: int = 0
    behind: float = 0.0
    dropped: float = 0.0
    held_tokens: int = 0
    late: float = 0.0
    """Largest delay in seconds with which the client itself sent a piece, because clients share the cores."""

    def note(self, status: dict[str, Any]) -> None:
        self.behind = max(self.behind, status["behind_seconds"])
        self.dropped = max(self.dropped, status["dropped_seconds"])
        self.held_tokens = max(self.held_tokens, status["held_tokens"])


class Client:
    """One camera and its user."""

    def __init__(self, number: int, address: str, every: float, streams: int) -> None:
        self.clip, self.address, self.every = Clip.of(number), address, every
        self.next_question = every * (number + 1) / streams  # users do not ask at the same moment
        self.asked = 0.0
        self.measured = Measured()

    async def run(self, seconds: float) -> Measured:
        async with connect(self.address, compression=None) as socket:
            await socket.send(json.dumps({"token": TOKEN, "audio": True, "live": True}))
            receiving = asyncio.create_task(self.receive(socket))
            await self.send(socket, seconds)
            deadline = time.perf_counter() + 60
            while self.asked and time.perf_counter() < deadline:
                await asyncio.sleep(0.05)
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        return self.measured

    async def send(self, socket: ClientConnection, seconds: float) -> None:
        """Send the clip at real speed; a question waits for the answer to the one before."""
        begin, number = time.perf_counter(), 0
        while (at := number / SOUNDS) < seconds:
            # The sound of a piece is known when it is over.
            delay = begin + at + 1 / SOUNDS - time.perf_counter()
            self.measured.late = max(self.measured.late, -delay)
            await asyncio.sleep(max(0.0, delay))
            if number % (SOUNDS // IMAGES) == 0:
                await socket.send(image_message(at, of(self.clip.images, round(at * IMAGES))))
            await socket.send(samples_message(at, of(self.clip.sounds, number)))
            if at >= self.next_question and not self.asked:
                self.next_question += self.every
                self.asked = time.perf_counter()
                await socket.send(json.dumps({"ask": of(self.clip.questions, self.measured.answers)}))
            number += 1

    async def receive(self, socket: ClientConnection) -> None:
        async for message in socket:
            values = json.loads(message)
            if "status" in values:
                self.measured.note(values["status"])
            if "answer" in values:
                self.measured.latencies.append(time.perf_counter() - self.asked)
                self.measured.answers += bool(values["answer"])
                self.asked = 0.0
            elif "error" in values:
                self.measured.errors += 1
                self.asked = 0.0


def of(values: list[Any], number: int) -> Any:
    """The element at ``number`` of a list that repeats for ever."""
    return values[number % len(values)]


def start_server(streams: int, cores: int) -> tuple[subprocess.Popen[str], str]:
    """Start the example; returns its process and its address."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, allowed)  # inherited by the server
    command = [sys.executable, str(ROOT / "examples" / "live_server.py"), "--port", "0", "--sessions", str(streams)]
    environment = {**os.environ, "OMNISIFT_TOKEN": TOKEN}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    if not address.startswith("ws://"):
        raise SystemExit(f"the server did not start: {address}")
    return server, address


def resident_mb(process: int) -> float:
    """Memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def cpu_seconds(process: int) -> float:
    """CPU time of a process, with all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def watch(process: int, seconds: float) -> list[float]:
    """Memory of the server at the end of each minute."""
    result, begin = [], time.perf_counter()
    for minute in range(1, int(seconds // 60) + 1):
        await asyncio.sleep(max(0.0, begin + 60 * minute - time.perf_counter()))
        result.append(resident_mb(process))
    return result


async def measure(options: argparse.Namespace, process: int, address: str) -> dict[str, Any]:
    """Run all clients; returns what they saw together."""
    seconds = 60 * options.minutes
    clients = [Client(number, address, options.every, options.streams) for number in range(options.streams)]
    begin, used, own = time.perf_counter(), cpu_seconds(process), time.process_time()
    watching = asyncio.create_task(watch(process, seconds))
    seen = await asyncio.gather(*(client.run(seconds) for client in clients))
    wall, memory = time.perf_counter() - begin, await watching
    latencies = np.array([latency for each in seen for latency in each.latencies] or [np.nan])
    share = wall * len(os.sched_getaffinity(0))
    return {
        "asked": sum(len(each.latencies) + each.errors for each in seen),
        "answers": sum(each.answers for each in seen),
        "errors": sum(each.errors for each in seen),
        "latency_s": {
            "p50": round(float(np.percentile(latencies, 50)), 3),
            "p95": round(float(np.percentile(latencies, 95)), 3),
            "max": round(float(latencies.max()), 3),
        },
        "behind_max_s": max(each.behind for each in seen),
        "dropped_s": round(sum(each.dropped for each in seen), 3),
        "held_tokens_max": max(each.held_tokens for each in seen),
        "clients_late_max_s": round(max(each.late for each in seen), 3),
        "server_rss_mb": memory,
        "server_cpu_share": round((cpu_seconds(process) - used) / share, 3),
        "clients_cpu_share": round((time.process_time() - own) / share, 3),
        "wall_s": round(wall, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=15.0, help="seconds between the questions of a stream")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores of server and clients together")
    parser.add_argument("--out", type=Path, help="write the result here; without it, to standard output")
    options = parser.parse_args()
    where = machine_info("torch", "transformers", "websockets")
    server, address = start_server(options.streams, options.cores)
    try:
        measured = asyncio.run(measure(options, server.pid, address))
    finally:
        server.terminate()
        server.wait(timeout=30)
    settings = {name: getattr(options, name) for name in ("streams", "minutes", "every", "cores")}
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    result = {"bench": "live_load", **settings, "threads": threads, **measured, **where}
    if options.out:
        write_atomic(options.out, json.dumps(result) + "\n")
    else:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
