"""Videos, prompts and the reference, shared by the suites of the plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.asking import Reference, Video
from tests.serving.engines import in_process

from omnisift.serving.full_checkpoint import wrap_as_full_checkpoint
from omnisift.utils.assets import nano_path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano as a full model."""
    folder = tmp_path_factory.mktemp("models") / "nano"
    wrap_as_full_checkpoint(nano_path(), folder)
    return folder


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    """Six clips of nano's world, with audio."""
    folder = tmp_path_factory.mktemp("videos")
    return [Video.of_world(folder, seed) for seed in range(6)]


@pytest.fixture(scope="module")
def _inside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        yield
