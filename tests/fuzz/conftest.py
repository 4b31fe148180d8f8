"""A time budget and a count of tries for the fuzz tests: `nox -s fuzz -- --seconds 600` runs each for ten minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest


@dataclass
class Fuzz:
    """Seeds until the time is over, and what failed.

    Attributes:
        name: the test.
        seconds: how long it draws seeds.
        first: the first seed; the others follow it, so a failure is repeated by its seed.
        tried: cases so far.
        failures: one line per failed case.
    """

    name: str
    seconds: float
    first: int
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[int]:
        end = time.monotonic() + self.seconds
        seed = self.first
        while seed == self.first or time.monotonic() < end:
            yield seed
            seed += 1

    @contextmanager
    def case(self, what: str) -> Iterator[None]:
        """Count one case; an exception in the block is its failure, and the test continues with the next case."""
        self.tried += 1
        try:
            yield
        except Exception as error:  # all kinds: an untyped error is what these tests look for
            self.failures.append(f"{what}: {type(error).__name__}: {error}".splitlines()[0][:300])


_RUNS = pytest.StashKey[list[Fuzz]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption("--seconds", type=float, default=60.0, help="time of each fuzz test (default: 60)")
    group.addoption("--first-seed", type=int, default=0, help="first seed of each fuzz test (default: 0)")


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Iterator[Fuzz]:
    """The budget of this test; fails the test at its end with all failed cases."""
    seconds = request.config.getoption("--seconds", default=60.0)
    run = Fuzz(request.node.name, seconds, request.config.getoption("--first-seed", default=0))
    request.config.stash.setdefault(_RUNS, []).append(run)
    yield run
    if run.failures:
        shown = "\n".join(run.failures[:20])
        pytest.fail(f"{len(run.failures)} of {run.tried} cases failed; the first:\n{shown}", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many cases each fuzz test tried and how many failed."""
    runs = terminalreporter.config.stash.get(_RUNS, [])
    if runs:
        terminalreporter.section("fuzz")
    for run in runs:
        terminalreporter.write_line(f"{run.name:45} {run.tried:7,d} tried {len(run.failures):5,d} failed")
