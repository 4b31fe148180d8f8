"""Films, prompts and the reference, shared by the suites of the plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.asking import Film, Reference
from tests.serving.engines import in_process

from omnisift.assets import nano_path
from omnisift.serving.full_checkpoint import dress


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano as a full model."""
    folder = tmp_path_factory.mktemp("models") / "nano"
    dress(nano_path(), folder)
    return folder


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Film]:
    """Six clips of nano's world, with sound."""
    folder = tmp_path_factory.mktemp("films")
    return [Film.of_world(folder, seed) for seed in range(6)]


@pytest.fixture(scope="module")
def _inside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        yield
