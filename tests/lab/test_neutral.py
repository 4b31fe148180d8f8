"""The benchmark's backbone: nano's encoders, and a language model trained on every setting with all tokens."""

import json

import pytest
import torch
from transformers import AutoTokenizer
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from omnisift.lab import neutral
from omnisift.lab.training.evaluate import accuracies
from omnisift.lab.training.feature_cache import encode_features
from omnisift.lab.training.packed import Writer, clip_layout
from omnisift.utils.assets import bundled_path, nano_path
from omnisift.world import SETTINGS


@pytest.fixture(scope="module")
def backbone():
    return Thinker.from_pretrained(bundled_path("neutral")).eval()


def test_its_encoders_are_nanos(backbone):
    theirs = Thinker.from_pretrained(nano_path()).state_dict()
    mine = backbone.state_dict()
    encoders = [name for name in mine if "visual" in name or "audio_tower" in name]
    assert len(encoders) > 20
    assert all(torch.equal(mine[name], theirs[name]) for name in encoders)
    language = [name for name in mine if name not in encoders]
    assert not all(torch.equal(mine[name], theirs[name]) for name in language)


@pytest.mark.parametrize(
    ("setting", "minimum"), [("base", 0.93), ("crowd", 0.8), ("cuts", 0.93), ("unseen", 0.9), ("silent", 0.9)]
)
def test_it_knows_the_settings_with_all_tokens(backbone, setting, minimum):
    tokenizer = AutoTokenizer.from_pretrained(bundled_path("neutral"))
    config = SETTINGS[setting].config
    layout = clip_layout(backbone, tokenizer, config.seconds, config.sound)
    features = encode_features(backbone, "test", 15, 0.0, 20_000, setting)
    right = accuracies(backbone, layout, Writer(tokenizer), features, clips=15, types=SETTINGS[setting].types)
    assert set(right) == {*SETTINGS[setting].types, "mean"}
    assert right["mean"] > minimum


def test_its_recipe_records_training_on_all_tokens():
    recipe = json.loads((bundled_path("neutral") / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["settings"]["full_share"] == 1.0
    assert recipe["commit"]
    assert set(recipe["stages"]["mixed"]) >= set(SETTINGS)


@pytest.mark.slow
def test_every_stage_runs_and_is_skipped_afterwards(tmp_path):
    neutral.main(["--small", "--out", str(tmp_path)])
    made = Thinker.from_pretrained(tmp_path / "checkpoint")
    assert made.config.text_config.hidden_size == 128
    before = (tmp_path / "mixed.json").read_text()
    neutral.main(["--small", "--out", str(tmp_path)])
    assert (tmp_path / "mixed.json").read_text() == before
