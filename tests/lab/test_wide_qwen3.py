"""Training of the second wide backbone: it starts as the first one, reads as its host does, and every stage runs."""

import json

import numpy as np
import pytest
import torch

from omnisift.lab.benchmark.encoded import encode_scenes
from omnisift.lab.nano import load_thinker
from omnisift.lab.training.clips import HostForm, clip_batches
from omnisift.lab.training.feature_cache import FeatureCache, encode_clips
from omnisift.lab.training.forward import KeptTokens, forward_packed
from omnisift.lab.training.nano_model import build_model, language_model_of
from omnisift.lab.training.packed import WIDE_WEIGHTS, Writer, clip_layout, make_batch
from omnisift.lab.training.qwen3_model import MAX_PIXELS, MIN_PIXELS, SIDE, build_qwen3, build_qwen3_processor
from omnisift.lab.training.qwen3_start import interleaved, joined_audio, start_from
from omnisift.lab.training.tokenizer import build_tokenizer
from omnisift.lab.wide_qwen3 import main
from omnisift.pipeline.loading import load_host
from omnisift.world import WIDE_TYPES, make_scene, truth, vocabulary, world_setting

WIDE = world_setting("wide").config


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(vocabulary(WIDE_TYPES), MAX_PIXELS, MIN_PIXELS)


@pytest.fixture(scope="module")
def first(tokenizer):
    return build_model(tokenizer, seed=1).eval()


@pytest.fixture(scope="module")
def second(tokenizer, first):
    """A random model that starts with the weights of a random one, its new parts large enough to be seen."""
    model = build_qwen3(tokenizer).eval()
    start_from(model, first)
    torch.manual_seed(2)
    with torch.no_grad():
        for merger in model.model.visual.merger_list:
            merger.mlp[2].weight.normal_(std=0.3)
        model.model.visual.pos_embed.weight.normal_(std=0.3)
    return model


def test_layers_compute_what_they_did(first, second):
    """Feed-forward layers, dense or with experts, repeat those of the first backbone."""
    new, old = language_model_of(second), language_model_of(first)
    assert torch.equal(new.embed_tokens.weight, old.embed_tokens.weight)
    tokens = torch.randn(2, 5, 128)
    kinds = set()
    for layer, known in zip(new.layers, old.layers, strict=True):
        kinds.add(hasattr(layer.mlp, "experts"))
        assert torch.allclose(layer.mlp(tokens), known.mlp(tokens), atol=1e-5)
    assert kinds == {True, False}


def test_rotary_dimensions_keep_their_kind():
    order = interleaved([8, 4, 4])
    assert sorted(order.tolist()) == list(range(16))
    assert order[1:12:3].tolist() == [8, 9, 10, 11]  # height
    assert order[2:12:3].tolist() == [12, 13, 14, 15]  # width
    assert order[[0, 3, 6, 9, 12, 13, 14, 15]].tolist() == list(range(8))  # time


def test_the_prompt_is_that_of_the_host(tokenizer, second, tmp_path):
    """Through a file, the processor and the host's encoders: the same tokens in the same places, deepstack too."""
    second.save_pretrained(tmp_path)
    build_qwen3_processor(tokenizer, 60).save_pretrained(tmp_path)
    host = load_host(str(tmp_path), "cpu", None, None)
    encoded = encode_scenes(host, [make_scene(0, "train", WIDE)])
    layout = clip_layout(second, tokenizer, WIDE.seconds, WIDE.sound, WIDE.size // 28)
    assert torch.equal(encoded.ids[:-1], layout.ids[: len(encoded.ids) - 1])
    assert torch.equal(encoded.position, layout.position[:, : encoded.position.shape[1]])
    assert (len(layout.video), len(layout.audio)) == (600, 78)
    form = HostForm.of(second, WIDE.size)
    assert (form.side, form.audio_rate) == (SIDE, 13)
    (batch,) = clip_batches("train", 0, 1, 1.0, setting="wide", form=form)
    with torch.no_grad():
        video, audio = encode_clips(second, batch)
    tokens, deep = video[0].split(128, dim=-1)
    assert torch.allclose(encoded.embeds[0, layout.video], tokens, atol=1e-3)
    assert encoded.deep is not None
    assert torch.allclose(encoded.deep[0, 0], deep, atol=1e-3)
    assert torch.allclose(encoded.embeds[0, layout.audio][:70], audio[0, :70], atol=2e-2)


def test_labels_of_longer_audio_tokens():
    for seed in range(5):
        scene = make_scene(seed, "train", WIDE)
        fine, coarse = truth(scene), truth(scene, 13)
        assert len(coarse.audio_class) == 6 * 13
        for few, many in zip(coarse.sound_tokens, fine.sound_tokens, strict=True):
            assert set(few.tolist()) == {int(t) // 25 * 13 + int(t) % 25 // 2 for t in many}
            assert (coarse.audio_sound[few] >= 0).all()
        joined = joined_audio(torch.from_numpy(fine.audio_class).float().view(1, -1, 1))
        assert ((joined[0, :, 0] > 0).numpy() == (coarse.audio_class > 0)).all()


def test_deepstack_of_dropped_tokens_is_dropped(tokenizer, second):
    """A packed prompt with some tokens equals one whose other tokens never were there."""
    torch.manual_seed(0)
    features = FeatureCache("train", 0, torch.randn(2, 600, 256).half(), torch.randn(2, 78, 128).half(), "wide")
    layout = clip_layout(second, tokenizer, 6, True, 10)
    batch = make_batch(features, [0, 1], Writer(tokenizer), 3, np.random.default_rng(0), types=WIDE_WEIGHTS)
    kept = KeptTokens(torch.tensor([[1, 5, 300], [7, 8, 599]]), torch.tensor([[0, 77], [3, 4]]))
    with torch.no_grad():
        out = forward_packed(second, layout, batch, kept)
        spoiled = dict(batch, video=batch["video"].clone())
        dropped = torch.ones(2, 600, dtype=torch.bool).scatter(1, kept.video, False)
        spoiled["video"][dropped] = 1e3
        assert torch.equal(forward_packed(second, layout, spoiled, kept).last, out.last)
        spoiled["video"][0, 5, 128:] += 1.0  # features of a kept token
        assert not torch.equal(forward_packed(second, layout, spoiled, kept).last[0], out.last[0])


@pytest.mark.slow
def test_every_stage_runs(tokenizer, first, tmp_path):
    first.save_pretrained(tmp_path / "first")
    main(["--small", "--out", str(tmp_path / "out"), "--first", str(tmp_path / "first")])
    recipe = json.loads((tmp_path / "out" / "checkpoint" / "recipe.json").read_text())
    assert recipe["made_by"] == "python -m omnisift.lab.wide_qwen3 --seed 0"
    assert set(recipe["stages"]) == {"hearing", "encoders", "features", "language"}
    assert load_thinker(tmp_path / "out" / "checkpoint").config.model_type == "qwen3_omni_moe_thinker"
