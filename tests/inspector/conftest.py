"""One model and one inspection of a clip of its world, for all tests here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from omnisift.budget import Budget
from omnisift.inspector import Inspection, inspect_clip
from omnisift.pipeline.loading import Host, load_host
from omnisift.pipeline.method import compressor_for


@pytest.fixture(scope="session")
def host() -> Host:
    return load_host("nano", "cpu", None, None)


@pytest.fixture(scope="session")
def inspected(host: Host) -> Callable[..., Inspection]:
    """``inspected(path, "omnisift", "random", question=...)`` at a quarter of the tokens."""

    def run(path: Path, *names: str, retain: float = 0.25, max_length: int | None = None, **how) -> Inspection:
        methods = {name: compressor_for(host, name, Budget(retain=retain)) for name in names}
        return inspect_clip(replace(host, max_length=max_length), methods, path, **{"max_new_tokens": 6, **how})

    return run


@pytest.fixture(scope="session")
def compared(inspected, clip: Path) -> Inspection:
    """The clip of nano's world under two methods and a pair."""
    return inspected(clip, "omnisift", "v_cast", "random+omnisift")
