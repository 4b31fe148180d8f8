"""Which method is the default of a model, and where reports say so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers.models import thinker
from tests.helpers.prompts import steady_prompt

from omnisift import CompressionConfig, attach, load, make_compressor
from omnisift.batch import ModelSettings
from omnisift.errors import CompressorError, UsageError
from omnisift.pipeline.method import resolve_compressor, resolve_settings
from omnisift.serving.vllm.settings import Settings
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.utils.assets import bundled_path, nano_path
from omnisift.utils.names import AUTO
from omnisift.vgas import VGAS, VGASConfig

RESIFT = ("resift", "default")
OWN = ("omnisift", "default: the checkpoint has an OmniSIFT selector")
GIVEN = ("omnisift", "default: a selector was given")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint's folder without a selector."""
    folder = tmp_path / "model"
    shutil.copytree(nano_path(), folder, ignore=shutil.ignore_patterns("selector*"))
    return folder


def test_a_checkpoint_without_a_selector(checkpoint: Path) -> None:
    assert resolve_compressor(AUTO, str(checkpoint)) == RESIFT
    assert resolve_compressor(AUTO, str(checkpoint), "selector") == GIVEN
    pipe = load(checkpoint, retain=0.5)
    assert (pipe.compressor.label, pipe.compressor.reason) == RESIFT


def test_a_checkpoint_with_a_selector_in_its_folder(checkpoint: Path) -> None:
    shutil.copytree(nano_path() / "selector", checkpoint / "selector")
    assert resolve_compressor(AUTO, str(checkpoint)) == OWN
    assert resolve_compressor("resift", str(checkpoint)) == ("resift", ""), "a name is used as it is"
    assert resolve_compressor(" auto ", str(checkpoint))[0] == "omnisift"


@pytest.mark.parametrize("sharded", [False, True])
def test_the_released_layout(tmp_path: Path, sharded: bool) -> None:
    """The selector is among the tensors of the checkpoint."""
    name, tensor = "thinker.compressor.q_proj.weight", torch.zeros(2)
    if sharded:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: "a.safetensors"}}))
    save_file({name: tensor}, tmp_path / ("a.safetensors" if sharded else "model.safetensors"))
    assert resolve_compressor(AUTO, str(tmp_path)) == OWN


def test_bundled_models_although_they_have_a_selector() -> None:
    assert (nano_path() / "selector").is_dir()
    assert (
        resolve_compressor(AUTO, str(nano_path())) == resolve_compressor(AUTO, str(bundled_path("neutral"))) == RESIFT
    )
    assert resolve_compressor(AUTO, str(nano_path()), "folder") == GIVEN
    config = CompressionConfig(seed=3)
    assert resolve_settings(config, "nano") == (CompressionConfig(compressor="resift", seed=3), "default")
    assert resolve_settings(CompressionConfig(compressor="stvp"), "missing") == (
        CompressionConfig(compressor="stvp"),
        "",
    )


def test_without_a_checkpoint() -> None:
    selector = VGAS(VGASConfig(16, hidden_size=8, num_attention_heads=2)).eval()
    for made, (label, reason) in (
        (make_compressor(AUTO, 0.5), RESIFT),
        (make_compressor(AUTO, 0.5, selector=selector), GIVEN),
        (make_compressor("omnisift", 0.5, selector=selector), ("omnisift", "")),
    ):
        assert (made.label, made.reason) == (label, reason)
    assert make_compressor(AUTO, 0.5)(steady_prompt(4, 6, 8).stream()).embeds is not None, "resift merges"
    model = thinker()
    with attach(model, retain=0.5) as attachment:
        assert (attachment.compressor.label, attachment.compressor.reason) == RESIFT
    width = model.get_input_embeddings().weight.shape[1]
    own = VGAS(VGASConfig(width, hidden_size=8, num_attention_heads=2)).eval()
    with attach(model, retain=0.5, selector=own) as attachment:
        assert (attachment.compressor.label, attachment.compressor.reason) == GIVEN


@pytest.mark.parametrize("name", ["auto+random", "random+auto", "auto:causal=true", "auto:", " auto + auto"])
def test_no_options_and_no_pairs(name: str) -> None:
    message = r"^'auto' is the default method and takes no options and no partner, got .*: name the method"
    for call in (
        lambda: make_compressor(name, 0.5),
        lambda: load("missing", compressor=name),
        lambda: attach(thinker(), name),
        lambda: CompressionConfig(compressor=name).check(),
        lambda: Settings.from_config(SimpleNamespace(omnisift={"compressor": name})),
    ):
        with pytest.raises(CompressorError, match=message):
            call()


def test_training_names_its_method() -> None:
    values = {"model": "nano", "data": ("clips",), "output_dir": "out", "retain": 0.5}
    assert TrainRecipe(**values).compressor == "omnisift"
    with pytest.raises(UsageError, match="training needs the name of a method, got compressor 'auto'"):
        TrainRecipe(**values, compressor=AUTO)


def test_a_server(checkpoint: Path) -> None:
    """Of vLLM's own command; `omnisift serve` resolves the name itself."""
    settings = Settings(retain=0.5)
    assert settings.resolved(str(checkpoint)) == Settings(retain=0.5, compressor="resift")
    shutil.copytree(nano_path() / "selector", checkpoint / "selector")
    assert settings.resolved(str(checkpoint)).compressor == "omnisift"
    assert resolve_settings(settings, "nano")[0].to_dict() == {"retain": 0.5, "compressor": "resift"}


def test_the_settings_of_a_run_name_the_method() -> None:
    assert ModelSettings().to_dict()["compressor"] == "resift"
    assert ModelSettings(compressor="omnisift").to_dict()["compressor"] == "omnisift"
    assert ModelSettings(selector="folder").to_dict()["compressor"] == "omnisift"


def test_the_report(clip: Path) -> None:
    pipe = load("nano", retain=0.25)
    report = pipe.ask(clip, "What colour is the circle?").report
    assert (report.compressor, report.compressor_reason, report.method) == (*RESIFT, "resift (default)")
    assert list(report.to_dict())[:3] == ["model", "compressor", "compressor_reason"]
    named = pipe.with_compressor("omnisift").ask(clip, "What colour is the circle?").report
    assert (named.compressor, named.compressor_reason, named.method) == ("omnisift+time", "", "omnisift+time")
