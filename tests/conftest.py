"""Shared fixtures: one thread, no hub, and a clip of nano's world."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Expected values are those of a CPU in float32, which `device="auto"` must choose on machines with a GPU too.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test clip number 7: six seconds of video and audio."""
    from omnisift.world import make_scene, write_clip

    path = tmp_path_factory.mktemp("clips") / "seven.mp4"
    write_clip(make_scene(7, split="test"), path)
    return path
