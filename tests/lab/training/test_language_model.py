"""A few steps of training: all parts of the loss, frozen encoders, and resuming."""

import dataclasses
from functools import partial

import pytest
import torch

from omnisift.lab.training import language_model
from omnisift.lab.training.evaluate import accuracies
from omnisift.lab.training.language_model import TrainConfig, init_embeddings, make_step, rate_schedule, training_loss
from omnisift.lab.training.losses import Hints
from omnisift.lab.training.nano_model import build_model, core_of, language_model_of
from omnisift.lab.training.settings import NanoSettings
from omnisift.training.loop import Checkpoint


@pytest.fixture
def config(features, layout, writer):
    settings = dataclasses.replace(NanoSettings(), clips_per_step=2, questions=3)
    return TrainConfig(
        features,
        layout,
        writer,
        settings,
        max_steps=3,
        learning_rate=1e-3,
        full_share=0.5,
        retains=(0.25,),
        warmup_steps=1,
    )


def untrained(tokenizer, features):
    nano = build_model(tokenizer)
    init_embeddings(nano, tokenizer, features, 0.15, 0)
    torch.manual_seed(1)
    return nano, Hints(128, tokenizer)


def test_all_parts_of_the_loss_reach_the_model(tokenizer, features, config):
    nano, hints = untrained(tokenizer, features)
    everything = dataclasses.replace(config, full_share=1.0)
    loss, parts = training_loss(nano, hints, everything, make_step(everything, 0))
    loss.backward()
    assert {"answer", "end", "visible", "lens", "pointer", "argument"} <= parts.keys()
    assert all(value == value for value in parts.values())
    assert language_model_of(nano).layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
    assert core_of(nano).visual.merger.mlp[0].weight.grad is None


def test_a_run_resumes_to_the_same_weights(tokenizer, features, config, tmp_path, monkeypatch):
    """The run is stopped in its third step, after the checkpoint of the second."""
    monkeypatch.setattr(language_model, "Checkpoint", partial(Checkpoint, every=2))
    nano, hints = untrained(tokenizer, features)
    before = core_of(nano).visual.merger.mlp[0].weight.clone()
    language_model.train_language_model(nano, hints, config, features, tmp_path / "whole")
    assert torch.equal(before, core_of(nano).visual.merger.mlp[0].weight)

    again = untrained(tokenizer, features)
    with monkeypatch.context() as patch:
        patch.setattr(language_model, "make_step", stop_at(2))
        with pytest.raises(KeyboardInterrupt):
            language_model.train_language_model(*again, config, features, tmp_path / "stopped")
    again = untrained(tokenizer, features)
    language_model.train_language_model(*again, config, features, tmp_path / "stopped")
    for name, value in nano.state_dict().items():
        assert torch.equal(value, again[0].state_dict()[name]), name


def stop_at(last):
    def step_or_stop(config, step):
        if step == last:
            raise KeyboardInterrupt
        return make_step(config, step)

    return step_or_stop


def test_words_that_name_things_start_at_class_means(tokenizer, features):
    nano, _ = untrained(tokenizer, features)
    weight = nano.get_input_embeddings().weight
    assert nano.lm_head.weight is weight
    red = weight[tokenizer.convert_tokens_to_ids("red")]
    assert red.square().mean().sqrt().item() == pytest.approx(0.15, rel=1e-3)


def test_accuracy_counts_every_type(model, layout, writer, features):
    result = accuracies(model, layout, writer, features, clips=4)
    assert len(result) == 9
    assert all(0 <= value <= 1 for value in result.values())


def test_the_rate_rises_stays_and_falls():
    rate = rate_schedule(1000, 100)
    assert rate(1.0, 0) == pytest.approx(0.01)
    assert rate(2.0, 500) == 2.0
    assert rate(1.0, 800) == pytest.approx(0.5)
    assert rate(1.0, 999) == 0.02
