"""The bundled nano with a random selector, and one clip of its world: enough for every path."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnisift.lab.training.qwen3_model import MAX_PIXELS, MIN_PIXELS, build_qwen3, build_qwen3_processor
from omnisift.lab.training.tokenizer import build_tokenizer
from omnisift.media import Media, read
from omnisift.pipeline.loading import load_host
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS, VGASConfig
from omnisift.world import WIDE_TYPES, Question, Scene, make_scene, questions, vocabulary


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


@pytest.fixture(scope="session")
def second_backbone(tmp_path_factory) -> Path:
    """Folder of a random model of Qwen3-Omni's class with deepstack and experts, and nano's selector."""
    folder = tmp_path_factory.mktemp("second")
    tokenizer = build_tokenizer(vocabulary(WIDE_TYPES), MAX_PIXELS, MIN_PIXELS)
    model = build_qwen3(tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0)  # answers that depend on the clip
    model.save_pretrained(folder)
    build_qwen3_processor(tokenizer, 30).save_pretrained(folder)
    shutil.copytree(nano_path() / "selector", folder / "selector")
    return folder
