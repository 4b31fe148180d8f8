"""Bundled checkpoints: what a missing one says."""

import pytest

from omnisift.errors import CheckpointError
from omnisift.utils import assets


@pytest.mark.parametrize(
    ("name", "get"),
    [("nano", "Reinstall the package"), ("wide-qwen3", "Use a checkout"), ("wide-text", "Use a checkout")],
)
def test_a_missing_checkpoint_says_where_to_get_it(name, get, monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "_CHECKPOINTS", tmp_path)
    with pytest.raises(CheckpointError, match=f"the bundled {name} checkpoint is missing") as raised:
        assets.bundled_path(name)
    assert get in str(raised.value)
    assert f"omnisift.lab.{name.replace('-', '_')} --bundle" in str(raised.value)


def test_the_command_of_a_checkpoint_that_another_one_s_module_makes(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "_CHECKPOINTS", tmp_path)
    with pytest.raises(CheckpointError, match=r"omnisift\.lab\.nano_long --model wide --bundle"):
        assets.bundled_path("wide-long")
