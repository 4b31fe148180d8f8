"""Does a server grow? What its processes hold, and how much more of it at the end of a series than at its beginning."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

ROOM = {"memory": 40 << 20, "files": 8, "threads": 8}
"""What a run may add. A clip of nano's world has 0.8 MB decoded: kept of every second request, it would be 150 MB."""


@dataclass(frozen=True)
class Held:
    """By a process and all that it started."""

    memory: int
    """Resident, bytes; what processes share counts in each."""
    files: int
    """Open file descriptors, sockets too."""
    threads: int


def held_by(pid: int) -> Held:
    whole = psutil.Process(pid)
    processes = [whole, *whole.children(recursive=True)]
    return Held(
        sum(process.memory_info().rss for process in processes),
        sum(process.num_fds() for process in processes),
        sum(process.num_threads() for process in processes),
    )


def growth(series: Sequence[float]) -> float:
    """The middle of the last quarter less that of the first: three quarters of what a steady leak adds.

    Single samples say little: a garbage collector comes when it likes, and connections close a moment late.
    """
    quarter = max(1, len(series) // 4)
    return statistics.median(series[-quarter:]) - statistics.median(series[:quarter])


def grown(samples: Sequence[Held]) -> dict[str, float]:
    """What grew by more than `ROOM`, and by how much."""
    found = {name: growth([getattr(sample, name) for sample in samples]) for name in ROOM}
    return {name: value for name, value in found.items() if value > ROOM[name]}
