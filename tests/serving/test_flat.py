"""The measurement of `flat` detects leaks and ignores noise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.serving.flat import Usage, grown, growth, usage_of

SAMPLES, REQUESTS = 25, 20


def series(memory: float = 0.0, files: float = 0.0, threads: float = 0.0) -> list[Usage]:
    """Noisy samples of a server that keeps this much of each request."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 4 << 20, SAMPLES), random.integers(-3, 4, SAMPLES), random.integers(-2, 3, SAMPLES)
    done = REQUESTS * np.arange(SAMPLES)
    return [
        Usage(int((3 << 30) + memory * n + a), int(120 + files * n + b), int(80 + threads * n + c))
        for n, a, b, c in zip(done, *noise, strict=True)
    ]


def test_noise_is_no_growth() -> None:
    assert grown(series()) == {}


@pytest.mark.parametrize(
    ("leak", "name"),
    [({"memory": 400_000}, "memory"), ({"files": 0.1}, "files"), ({"threads": 0.1}, "threads")],
)
def test_a_leak_is_seen(leak: dict[str, float], name: str) -> None:
    """Half a clip of each request, or a descriptor or thread of every tenth."""
    assert list(grown(series(**leak))) == [name]


def test_growth_is_between_the_quarters() -> None:
    assert growth([0, 0, 0, 0, 100, 0, 0, 0]) == 0, "one peak is no growth"
    assert growth(range(100)) == 75
    assert growth([5, 4, 3, 2]) == -3


def test_what_a_process_and_its_children_hold(tmp_path: Path) -> None:
    before = usage_of(os.getpid())
    child = subprocess.Popen(
        [sys.executable, "-c", "kept = b'x' * (64 << 20); print('ready', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    files = [(tmp_path / str(number)).open("w") for number in range(20)]
    after = usage_of(os.getpid())
    for file in files:
        file.close()
    child.communicate("go\n")
    assert after.memory - before.memory > 64 << 20
    assert after.files - before.files >= 20
    assert after.threads > before.threads
