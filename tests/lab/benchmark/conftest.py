"""The bundled nano with a random selector, and one clip of its world: enough for every path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnisift.media import Media, read
from omnisift.pipeline.loading import load_host
from omnisift.vgas import VGAS, VGASConfig
from omnisift.world import Question, Scene, make_scene, questions


@dataclass(frozen=True)
class World:
    """What most tests need."""

    host: Any
    selector: VGAS
    scene: Scene
    media: Media
    asked: list[Question]


@pytest.fixture(scope="session")
def world(clip: Path) -> World:
    """``clip`` is test clip number 7."""
    host = load_host("nano", "cpu", None, None)
    torch.manual_seed(0)
    selector = VGAS(VGASConfig(input_size=host.thinker.config.text_config.hidden_size)).eval()
    scene = make_scene(7, "test")
    size = host.processor.video_processor.size
    media = read(clip, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])
    return World(host, selector, scene, media, questions(scene, np.random.default_rng(0)))
