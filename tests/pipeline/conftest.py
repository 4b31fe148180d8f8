"""Clips of the generated world and models that several files of this folder ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.family_folders import save_family

import omnisift
from omnisift import Pipeline
from omnisift.world import make_scene, write_clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"{seed}.mp4" for seed in (3, 4, 5)]
    for seed, path in zip((3, 4, 5), paths, strict=True):
        write_clip(make_scene(seed, split="test"), path)
    return paths


@pytest.fixture(scope="module")
def pipe_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pipeline]:
    """A pipeline of each family, made when it is asked for; nano is Qwen2.5-Omni."""
    made = dict[str, Pipeline]()

    def pipe(name: str) -> Pipeline:
        if name not in made:
            model = "nano" if name == "nano" else save_family(name, tmp_path_factory.mktemp(name))
            made[name] = omnisift.load(model, compressor=None, max_length=10**6)
        return made[name]

    return pipe
