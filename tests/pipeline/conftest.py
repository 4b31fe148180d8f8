"""Clips of the generated world that several files of this folder ask about."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnisift.world import make_scene, write_clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"{seed}.mp4" for seed in (3, 4, 5)]
    for seed, path in zip((3, 4, 5), paths, strict=True):
        write_clip(make_scene(seed, split="test"), path)
    return paths
