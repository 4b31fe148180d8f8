"""Every training loop of lab takes the steps that it took before all of them became one (`losses.json`)."""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omnisift.lab.training.clips import clip_batches
from omnisift.lab.training.encoder_training import train_audio_encoder, train_vision_encoder
from omnisift.lab.training.estimating import EstimatorConfig, train_with
from omnisift.lab.training.language_model import TrainConfig, init_embeddings, train_language_model
from omnisift.lab.training.losses import Hints
from omnisift.lab.training.nano_model import build_model, core_of
from omnisift.lab.training.selector import distill, distill_video_score, straight_through
from omnisift.lab.training.settings import NanoSettings
from omnisift.models.selector import new_selector

STEPS = 6
SETTINGS = replace(
    NanoSettings(), audio_steps=STEPS, vision_steps=STEPS, selector_steps=STEPS, clips_per_step=2, questions=3
)
RECORDED = json.loads(Path(__file__).with_name("losses.json").read_text(encoding="utf-8"))
"""Name of a loop -> the loss of each step, then the norm of the trained weights, at commit 397ee60."""


@contextmanager
def recorded_losses():
    losses, backward = [], torch.Tensor.backward

    def record(self, *args, **kwargs):
        losses.append(float(self.detach()))
        return backward(self, *args, **kwargs)

    torch.Tensor.backward = record
    try:
        yield losses
    finally:
        torch.Tensor.backward = backward


def norm(*modules):
    squares = [p.detach().double().square().sum() for module in modules for p in module.parameters()]
    return float(torch.stack(squares).sum().sqrt())


class Training:
    """Runs every loop from fixed weights and returns what it trained."""

    def __init__(self, tokenizer, features, layout, writer, folder):
        self.tokenizer, self.features, self.layout, self.writer = tokenizer, features, layout, writer
        self.folder = folder
        self.targets = torch.rand(16, 150, generator=torch.Generator().manual_seed(0))

    def encoder(self, kind):
        core, clips = core_of(build_model(self.tokenizer)), list(clip_batches("train", 0, 4, 0.0))
        torch.manual_seed(0)
        if kind == "audio":
            train_audio_encoder(core.audio_tower, clips, clips, SETTINGS)
            return [core.audio_tower]
        train_vision_encoder(core.visual, clips, clips, SETTINGS)
        return [core.visual]

    def distilled(self):
        selector = new_selector(128, True, 0)
        distill(selector, self.targets, self.features, SETTINGS)
        return [selector]

    def distilled_video_score(self):
        score = new_selector(128, True, 0, video_score=True).video_score
        targets = torch.rand(16, 96, generator=torch.Generator().manual_seed(1))
        distill_video_score(score, targets, self.features, SETTINGS)
        return [score]

    def through(self):
        selector, model = new_selector(128, False, 0), build_model(self.tokenizer)
        straight_through(selector, model, self.layout, self.writer, self.features, SETTINGS, STEPS)
        return [selector, model]

    def estimated(self, method, joint):
        selector, model = new_selector(128, False, 0), build_model(self.tokenizer)
        config = EstimatorConfig(model, self.layout, self.writer, self.features, self.targets, clips=2, questions=3)
        train_with(selector, method, config, STEPS, 1e-3, 0, joint=joint)
        return [selector, model]

    def language(self, full_share):
        nano = build_model(self.tokenizer)
        init_embeddings(nano, self.tokenizer, self.features, 0.15, 0)
        torch.manual_seed(1)
        hints = Hints(128, self.tokenizer)
        config = TrainConfig(
            self.features, self.layout, self.writer, SETTINGS, STEPS, 1e-3, full_share, (0.25,), warmup_steps=2
        )
        train_language_model(nano, hints, config, self.features, self.folder / "language")
        return [nano, hints]


LOOPS = {
    "audio encoder": lambda training: training.encoder("audio"),
    "vision encoder": lambda training: training.encoder("vision"),
    "distill": lambda training: training.distilled(),
    "distill video score": lambda training: training.distilled_video_score(),
    "straight-through": lambda training: training.through(),
    "estimator distil": lambda training: training.estimated("distil", False),
    "estimator merge": lambda training: training.estimated("merge", False),
    "estimator reinforce, joint": lambda training: training.estimated("reinforce", True),
    "language model": lambda training: training.language(0.5),
}


def measured(name, training):
    with recorded_losses() as losses:
        trained = LOOPS[name](training)
    return [*losses, norm(*trained)]


@pytest.mark.parametrize("name", LOOPS)
def test_losses_are_those_of_the_record(name, tokenizer, features, layout, writer, tmp_path):
    result = measured(name, Training(tokenizer, features, layout, writer, tmp_path))
    assert len(result) == STEPS + 1
    assert np.allclose(result, RECORDED[name], rtol=1e-4, atol=1e-6)
