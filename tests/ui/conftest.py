"""A session with nano, and two uploaded clips."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from omnisift.pipeline.loading import Host, load_host
from omnisift.ui.session import Session
from omnisift.world import make_scene, write_clip


@pytest.fixture(scope="session")
def host() -> Host:
    return load_host("nano", "cpu", None, None)


@pytest.fixture(scope="session")
def uploads(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    """A folder with ``seven.mp4`` and ``eight.mp4``."""
    folder = tmp_path_factory.mktemp("uploads")
    shutil.copy(clip, folder / "seven.mp4")
    write_clip(make_scene(8, split="test"), folder / "eight.mp4")
    return folder


@pytest.fixture
def session(host: Host, uploads: Path) -> Session:
    return Session(host, [uploads], max_clips=2, max_new_tokens=6)
