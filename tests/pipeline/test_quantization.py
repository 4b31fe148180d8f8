"""Names of `load(quantization=)`, what is left alone, and quantised checkpoints; no package is needed for these."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.rare_families import FAMILIES
from torch import nn
from transformers import BitsAndBytesConfig

from omnisift import load
from omnisift.errors import CheckpointError, UsageError
from omnisift.models import adapter_for
from omnisift.pipeline.model_source import find_model
from omnisift.pipeline.quantization import (
    WAYS,
    check_quantization,
    kept_modules,
    modules_outside,
    quantization_config,
    stored_config,
)
from omnisift.utils.assets import nano_path

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
"""As published checkpoints state it."""


@pytest.mark.parametrize("value", ["int8", "nf4", "", 8, {"load_in_8bit": True}, BitsAndBytesConfig])
def test_an_unknown_way_is_refused_before_a_model_is_read(value: Any) -> None:
    with pytest.raises(UsageError, match="quantization") as caught:
        load("no-such-model", quantization=value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnisift.pipeline.quantization.find_spec", lambda _name: None)
    for name, way in WAYS.items():
        with pytest.raises(
            UsageError, match=rf"{way.package}, which is not installed: run pip install -e '.\[quant\]'"
        ):
            check_quantization(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_linear_layers_beside_the_language_model_are_kept(name: str) -> None:
    model = FAMILIES[name].model()
    language = adapter_for(model).parts.language_model
    kept = modules_outside(model, language)
    inside = {id(module) for module in language.modules()}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            is_kept = any(path == one or path.startswith(f"{one}.") for one in kept)
            assert is_kept == (id(module) not in inside), path


def test_a_configuration_of_the_user_leaves_the_encoders_alone_unless_it_names_modules() -> None:
    source = find_model("nano")
    given = BitsAndBytesConfig(load_in_8bit=True)
    chosen = quantization_config(source, given, torch.float32)
    assert chosen.llm_int8_skip_modules == kept_modules(source)
    assert given.llm_int8_skip_modules is None, "the user's own object is not changed"
    own = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["model.visual"])
    assert quantization_config(source, own, torch.float32).llm_int8_skip_modules == ["model.visual"]


@pytest.fixture
def gptq(tmp_path: Path) -> Path:
    """A folder whose configuration says that its weights are quantised."""
    folder = tmp_path / "gptq"
    shutil.copytree(nano_path(), folder)
    _state(folder, GPTQ)
    return folder


def _state(folder: Path, quantization: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization}))


def test_a_quantised_checkpoint_is_loaded_by_its_own_configuration(gptq: Path) -> None:
    source = find_model(str(gptq))
    assert source.stored_quantization == GPTQ
    assert stored_config(source).quantization_config["bits"] == 4
    # The package for it is not installed here: Transformers says which one, and so does the error.
    with pytest.raises(CheckpointError, match=r"gptqmodel|optimum") as caught:
        load(gptq)
    assert "its weights are quantised (gptq)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_encoders_of_a_quantised_checkpoint_are_left_alone(gptq: Path) -> None:
    awq = GPTQ | {"quant_method": "awq", "modules_to_not_convert": ["thinker.visual"]}
    _state(gptq, awq)
    source = find_model(str(gptq))
    kept = stored_config(source).quantization_config["modules_to_not_convert"]
    assert kept == sorted([*kept_modules(source), "thinker.visual"])


@pytest.mark.parametrize("kept", [5, "visual", {"visual": 1}, [["visual"]], [1, "visual"]])
def test_what_is_kept_must_be_a_list_of_names(gptq: Path, kept: object) -> None:
    _state(gptq, GPTQ | {"modules_to_not_convert": kept})
    with pytest.raises(CheckpointError, match=r"modules_to_not_convert of quantization_config is .* correct the file"):
        stored_config(find_model(str(gptq)))


@pytest.mark.parametrize("pattern", [r"(([a-z_.0-9]+)+)+$!", "(a*)*b", "(a|aa){5}", ".*.*.*.*.*", "a" * 301])
@pytest.mark.parametrize("place", ["modules_to_not_convert", "ignore", "dynamic"])
def test_a_pattern_that_takes_hours_is_refused(gptq: Path, pattern: str, place: str) -> None:
    """Transformers and its libraries read these entries as regular expressions."""
    _state(gptq, GPTQ | {place: {pattern: {}} if place == "dynamic" else [pattern]})
    with pytest.raises(CheckpointError, match="could take hours"):
        stored_config(find_model(str(gptq)))


def test_patterns_of_published_checkpoints_are_read(gptq: Path) -> None:
    kept = ["visual", "model.layers.0.mlp.gate", r"re:.*mlp\.(gate_up|gate|up)_proj$", "re:visual.*", "lm_head"]
    _state(gptq, GPTQ | {"ignore": kept, "dynamic": {r"-:.*\.visual\..*": {}}})
    assert stored_config(find_model(str(gptq))).quantization_config["ignore"] == kept


def test_too_many_entries_are_refused(gptq: Path) -> None:
    _state(gptq, GPTQ | {"ignore": ["visual"] * 10_001})
    with pytest.raises(CheckpointError, match="more than 10000 entries"):
        stored_config(find_model(str(gptq)))


def test_weights_that_are_not_quantised_are_not_taken_for_quantised_ones(gptq: Path) -> None:
    _state(gptq, {"quant_method": "fp8"})
    with pytest.raises(CheckpointError, match="no layer of its language model is quantised"):
        load(gptq)


def test_a_quantised_checkpoint_takes_no_second_quantization(gptq: Path) -> None:
    source = find_model(str(gptq))
    with pytest.raises(UsageError, match=r"is quantised already \(gptq\); leave quantization out"):
        quantization_config(source, BitsAndBytesConfig(load_in_8bit=True), torch.float32)


@pytest.mark.parametrize("stated", [{}, [], "gptq", {"quant_method": 4}, {"quant_method": None}])
def test_a_broken_statement_is_refused(gptq: Path, stated: object) -> None:
    _state(gptq, stated)
    with pytest.raises(CheckpointError, match=r"config\.json: quantization_config has no quant_method"):
        find_model(str(gptq))


def test_an_unknown_method_is_one_line(gptq: Path) -> None:
    _state(gptq, {"quant_method": "none-such"})
    with pytest.raises(CheckpointError, match="none-such") as caught:
        load(gptq)
    assert "\n" not in str(caught.value)
