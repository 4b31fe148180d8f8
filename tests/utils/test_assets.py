import json

import pytest

from omnisift.errors import CheckpointError
from omnisift.utils import assets


def test_the_bundled_checkpoint_is_complete_and_small():
    folder = assets.nano_path()
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json", "recipe.json"} <= names
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6


def test_its_recipe_records_how_it_was_made():
    recipe = json.loads((assets.nano_path() / "recipe.json").read_text(encoding="utf-8"))
    assert {"made_by", "commit", "versions", "settings", "measured"} <= recipe.keys()


def test_a_package_without_it_raises_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "_CHECKPOINTS", tmp_path)
    with pytest.raises(CheckpointError, match=r"no config\.json .* omnisift\.lab\.nano"):
        assets.nano_path()
