"""Training of the backbone that reads subtitles."""

import json

import pytest
import torch

from omnisift.lab.nano import load_thinker
from omnisift.lab.wide_text import CHECKS, CLIPS, SETTINGS, TextBuild, main
from omnisift.utils.assets import bundled_path
from omnisift.world import WIDE_TYPES


def test_it_has_the_words_and_the_clips_of_its_backbone(tmp_path):
    from transformers import AutoTokenizer

    build = TextBuild(tmp_path, SETTINGS, CLIPS)
    assert build.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(bundled_path("wide")).get_vocab()
    recipe = json.loads((bundled_path("wide") / "recipe.json").read_text(encoding="utf-8"))
    seen = 16 * recipe["settings"]["encoder_clips"] + recipe["stages"]["features"]["clips"]["wide"][0]
    assert build.first_clip == seen, "its training clips are new to the backbone"


@pytest.mark.slow
def test_every_stage_runs_and_the_encoders_stay(tmp_path):
    main(["--small", "--out", str(tmp_path)])
    recipe = json.loads((tmp_path / "checkpoint" / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["made_by"] == "python -m omnisift.lab.wide_text --seed 0"
    assert set(recipe["stages"]) == {"features", "untouched", "language"}
    for stage in ("untouched", "language"):
        measured = recipe["stages"][stage]["accuracies"]
        assert measured.keys() == CHECKS.keys()
        assert all(row.keys() == {*WIDE_TYPES, "mean"} for row in measured.values())
    new, old = (load_thinker(folder).state_dict() for folder in (tmp_path / "checkpoint", bundled_path("wide")))
    for name, weight in old.items():
        if "visual" in name or "audio_tower" in name:
            assert torch.equal(new[name].float(), weight.to(torch.bfloat16).float()), name
        elif "mlp" in name:
            assert not torch.equal(new[name].float(), weight.to(torch.bfloat16).float()), name
