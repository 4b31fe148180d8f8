"""Measure whether a server grows: memory, files and threads of its processes at the start and the end of a series."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

LIMITS = {"memory": 40 << 20, "files": 8, "threads": 8}
"""Growth that a run may show. A decoded clip of nano's world has 0.8 MB; half of the requests would keep 150 MB."""


@dataclass(frozen=True)
class Usage:
    """What a process and all its children use."""

    memory: int
    """Resident bytes; shared memory counts in each process."""
    files: int
    """Open file descriptors, including sockets."""
    threads: int


def usage_of(pid: int) -> Usage:
    root = psutil.Process(pid)
    processes = [root, *root.children(recursive=True)]
    return Usage(
        sum(process.memory_info().rss for process in processes),
        sum(process.num_fds() for process in processes),
        sum(process.num_threads() for process in processes),
    )


def growth(series: Sequence[float]) -> float:
    """The median of the last quarter minus that of the first, which is three quarters of what a steady leak adds.

    Single samples are noisy: garbage is collected at any time, and connections close late.
    """
    quarter = max(1, len(series) // 4)
    return statistics.median(series[-quarter:]) - statistics.median(series[:quarter])


def grown(samples: Sequence[Usage]) -> dict[str, float]:
    """What grew by more than `LIMITS` allows, and by how much."""
    growths = {name: growth([getattr(sample, name) for sample in samples]) for name in LIMITS}
    return {name: value for name, value in growths.items() if value > LIMITS[name]}
