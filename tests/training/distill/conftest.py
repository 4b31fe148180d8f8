"""Fixtures: four clips, nano, and its attention over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omnisift.media import read
from omnisift.pipeline.loading import load_host
from omnisift.training.distill import find_clips
from omnisift.training.distill.observing import observe
from omnisift.training.distill.samples import DistillSample
from omnisift.world.dataset import write_dataset

ASKED = ("Which sound goes with the circle?", "What colour is the square?")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips")
    write_dataset(path, clips=4, seed=0, questions_per_clip=0, step=lambda: None)
    return path


@pytest.fixture(scope="session")
def host() -> Any:
    return load_host("nano", "cpu", None, None)


@pytest.fixture(scope="session")
def samples(host: Any, folder: Path) -> list[DistillSample]:
    return [observe(host, read(clip, max_pixels=112 * 112, min_pixels=784), ASKED) for clip in find_clips(folder)]
