"""Training of the wide backbone: it starts as neutral, its labels fit its tokens, and every stage runs."""

import json

import numpy as np
import pytest
import torch

from omnisift.lab.benchmark.encoded import encode_scenes
from omnisift.lab.training.clips import clip_batches, frame_batches
from omnisift.lab.training.encoder_training import color_and_form, corner_of, fit_heads, title_of
from omnisift.lab.training.feature_cache import FeatureCache, encode_clips
from omnisift.lab.training.losses import Hints
from omnisift.lab.training.nano_model import WIDTH, build_processor, language_model_of
from omnisift.lab.training.packed import WIDE_WEIGHTS, make_batch
from omnisift.lab.wide import CLIPS, MAX_PIXELS, SECONDS_OF_AUDIO, SETTINGS, WideBuild, main
from omnisift.pipeline.loading import load_host
from omnisift.utils.assets import bundled_path
from omnisift.world import FIRST_TITLE_CLASS, PLACES, WIDE_TYPES, WORDS, make_scene, world_setting


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return WideBuild(tmp_path_factory.mktemp("wide"), SETTINGS, CLIPS)


@pytest.fixture(scope="module")
def features():
    video, audio = torch.randn(3, 600, WIDTH).half(), torch.randn(3, 150, WIDTH).half()
    return FeatureCache("train", 0, video, audio, "wide")


def test_it_starts_as_neutral_with_more_words(build):
    from transformers import AutoTokenizer
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    model, neutral = build._start(), Thinker.from_pretrained(bundled_path("neutral"))
    new, old = model.state_dict(), neutral.state_dict()
    assert new.keys() == old.keys()
    different = {name for name in new if new[name].shape != old[name].shape or not torch.equal(new[name], old[name])}
    assert all(name.endswith(("embed_tokens.weight", "lm_head.weight")) for name in different)
    known = AutoTokenizer.from_pretrained(bundled_path("neutral")).get_vocab()
    rows, before = language_model_of(model).embed_tokens.weight, language_model_of(neutral).embed_tokens.weight
    words = build.tokenizer.get_vocab()
    assert set(known) < set(words)
    assert set(WORDS) <= set(words) - set(known)
    for word in ("red", "circle", "top-left", "?", "hum"):
        assert torch.equal(rows[words[word]], before[known[word]])


def test_the_prompt_is_that_of_the_host(build, tmp_path):
    """Through a file, the processor and the host's encoders: the same tokens in the same places."""
    model = build._start()
    model.save_pretrained(tmp_path)
    build_processor(build.tokenizer, MAX_PIXELS, SECONDS_OF_AUDIO).save_pretrained(tmp_path)
    host = load_host(str(tmp_path), "cpu", None, None)
    encoded = encode_scenes(host, [make_scene(0, "train", world_setting("wide").config)])
    layout = build.layout(model, "wide")
    assert torch.equal(encoded.ids[:-1], layout.ids[: len(encoded.ids) - 1])
    assert torch.equal(encoded.position, layout.position[:, : encoded.position.shape[1]])
    (batch,) = clip_batches("train", 0, 1, 1.0, setting="wide")
    video, audio = encode_clips(model, batch)
    assert torch.allclose(encoded.embeds[0, layout.video], video[0], atol=1e-3)
    assert torch.allclose(encoded.embeds[0, layout.audio][:140], audio[0, :140], atol=2e-2)


def test_labels_of_wide_tokens(features):
    labels = features.video_class
    color, form = color_and_form(labels)
    title = title_of(labels)
    assert ((color > 0) == (form > 0)).all()
    assert ((color > 0) & (title > 0)).sum() == 0
    assert ((title > 0) == (labels >= FIRST_TITLE_CLASS)).all()
    assert {WORDS[int(t) - 1] for t in title[title > 0]} == {scene.titles[0].word for scene in features.scenes}
    side = features.side
    assert side == 10
    for scene, row in zip(features.truths, features.scenes, strict=True):
        for i, shape in enumerate(row.shapes):
            corners = corner_of(torch.from_numpy(scene.flat_video(i)), side)
            assert {PLACES[int(c)] for c in corners} == {shape.place}


def test_questions_point_at_their_evidence(build, features):
    batch = make_batch(features, [0, 1, 2], build.writer, 22, np.random.default_rng(0), types=WIDE_WEIGHTS)
    assert int(batch["side"]) == 10
    assert batch["pointer"].shape[-1] == 750
    seen = set(batch["kind"][batch["pointer"].any(-1)].tolist())
    assert {WIDE_TYPES[k] for k in seen} >= {"written", "said", "before"}
    hints = Hints(WIDTH, build.tokenizer)
    assert build.tokenizer.convert_ids_to_tokens(hints.words.tolist()) == list(WORDS)
    assert len(hints.sounds) == 8 + len(WORDS)


def test_single_frames_are_those_of_the_clips():
    (frames,), (clips,) = frame_batches("train", 7, 2, "wide"), clip_batches("train", 7, 2, 0.0, setting="wide")
    for row, frame in enumerate((7 % 6, 8 % 6)):
        np.testing.assert_array_equal(frames.images[row], clips.images[row, 2 * frame : 2 * frame + 2])
        assert torch.equal(frames.video_class[row, 0], clips.video_class[row, frame])


def test_frozen_heads_read_what_they_were_fitted_to():
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2000,))
    tokens = torch.randn(3, 16)[target] + 0.1 * torch.randn(2000, 16)
    (head,) = fit_heads(tokens, [target])
    assert (head(tokens).argmax(-1) == target).float().mean() > 0.99
    assert not any(p.requires_grad for p in head.parameters())


@pytest.mark.slow
def test_every_stage_runs_and_is_not_run_again(tmp_path):
    main(["--small", "--out", str(tmp_path)])
    recipe = json.loads((tmp_path / "checkpoint" / "recipe.json").read_text())
    assert set(recipe["stages"]) == {"hearing", "encoders", "features", "language"}
    assert set(recipe["stages"]["language"]["wide"]) == {*WIDE_TYPES, "mean"}
    before = (tmp_path / "language.json").stat().st_mtime_ns
    main(["--small", "--out", str(tmp_path)])
    assert (tmp_path / "language.json").stat().st_mtime_ns == before
