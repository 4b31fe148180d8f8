"""Exported selectors, alone or merged into their model's checkpoint, give the same masks bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import omnisift
from omnisift.cli.app import app
from omnisift.errors import CheckpointError, UsageError
from omnisift.training.export import Storage, export_merged, export_selector, parse_storage
from omnisift.utils.assets import nano_path
from omnisift.vgas import RELEASED_PREFIX, VGAS, VGASConfig


def keep_mask(model: str, clip: Path, **options: Any) -> torch.Tensor:
    """The keep mask of a clip's prompt."""
    from omnisift.models import attach
    from omnisift.pipeline.prompt import build_inputs

    pipeline = omnisift.load(model, retain=0.25, **options)
    media = omnisift.media.read(clip, min_pixels=784, max_pixels=112 * 112)
    inputs = build_inputs(pipeline.host.processor, media, "What colour is the circle?")
    with attach(pipeline.host.thinker, pipeline.compressor) as attachment, torch.inference_mode():
        pipeline.host.thinker(**inputs)
        assert attachment.last is not None
        return attachment.last.keep


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["export", *arguments])


@pytest.mark.parametrize("form", ["selector", "merged"])
def test_both_forms_give_the_same_mask(form: str, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / form
    result = run("nano", "-o", str(out), "--as", form, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["selector"] == "time"
    before = keep_mask("nano", clip, compressor="omnisift")
    after = keep_mask(str(out), clip) if form == "merged" else keep_mask("nano", clip, selector=out)
    assert torch.equal(before, after)
    assert before.sum() < before.numel()


def test_merged_is_the_released_layout_with_every_tensor_once(tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert run("nano", "-o", str(out), "--as", "merged").exit_code == 0
    index = json.loads((out / "model.safetensors.index.json").read_text())
    stored = {}
    for file in sorted(out.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as handle:
            stored |= dict.fromkeys(handle.keys(), file.name)
    assert stored == index["weight_map"]
    own = {name for name in stored if name.startswith(RELEASED_PREFIX)}
    assert own == {RELEASED_PREFIX + name for name in VGAS.from_pretrained(str(nano_path() / "selector")).state_dict()}
    assert set(stored) - own == set(load_file(nano_path() / "model.safetensors"))
    assert not (out / "selector").exists()
    assert (out / "chat_template.jinja").read_bytes() == (nano_path() / "chat_template.jinja").read_bytes()


def test_the_selector_of_a_merged_checkpoint_can_be_replaced(clip: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("nano", "-o", str(first), "--as", "merged").exit_code == 0
    exact = str(nano_path() / "selector-exact")
    assert run(str(first), "-o", str(second), "--as", "merged", "--selector", exact).exit_code == 0
    assert torch.equal(keep_mask(str(second), clip), keep_mask("nano", clip, selector=exact))


def test_a_selector_of_the_released_width_round_trips(tmp_path: Path) -> None:
    """4,856,321 parameters at width 3,584, bfloat16, with a model shard that is only copied."""
    torch.manual_seed(0)
    selector = VGAS(VGASConfig()).to(torch.bfloat16).eval()
    source = tmp_path / "source"
    source.mkdir()
    save_file({"thinker.lm_head.weight": torch.zeros(4, 3584)}, source / "model-00001-of-00001.safetensors")
    (source / "config.json").write_text("{}")
    export_merged(source, selector, tmp_path / "out")
    loaded = VGAS.from_checkpoint(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    assert sum(p.numel() for p in loaded.parameters()) == 4_856_321
    video, audio = torch.randn(2, 30, 3584, dtype=torch.bfloat16), torch.randn(2, 50, 3584, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(loaded(video, audio), selector(video, audio))


def test_selectors_outside_the_released_layout_are_rejected(tmp_path: Path) -> None:
    for config in (
        VGASConfig(input_size=16, hidden_size=16, num_attention_heads=4),
        VGASConfig(input_size=16, hidden_size=16, guide="self"),
    ):
        with pytest.raises(UsageError, match="export it with --as selector"):
            export_merged(nano_path(), VGAS(config), tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"has no \.safetensors"):
        export_merged(tmp_path, VGAS(VGASConfig(input_size=16, hidden_size=16)), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    result = run("nano", "-o", str(out))
    assert isinstance(result.exception, UsageError)
    refused = run("nano", "-o", str(out), "--force")  # the folder holds no model
    assert "is not a model" in str(refused.exception)
    assert (out / "mine.txt").exists()
    (out / "mine.txt").unlink()
    assert run("nano", "-o", str(out), "--force").exit_code == 0
    assert run("nano", "-o", str(out), "--force").exit_code == 0
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    assert isinstance(run("nano", "-o", str(copy), "--selector", str(copy), "--force").exception, UsageError)
    assert (copy / "model.safetensors").is_file()


def test_a_failed_export_keeps_the_previous_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    assert run("nano", "-o", str(out), "--as", "merged").exit_code == 0
    monkeypatch.setattr("omnisift.training.export.save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        export_merged(nano_path(), VGAS.from_pretrained(str(nano_path() / "selector")), out)
    assert VGAS.from_checkpoint(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_source_weights_are_never_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "inside" / "model"
    shutil.copytree(nano_path(), model)
    for out in (model, model.parent, model / "selector"):
        options = ["--selector", str(model / "selector")] if out.name == "selector" else []
        result = run(str(model), "-o", str(out), "--force", *options)
        assert isinstance(result.exception, UsageError), out
    assert (model / "model.safetensors").is_file()
    assert (model / "selector" / "model.safetensors").is_file()


def test_dtype_and_shard_size(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--as", "merged", "--dtype", "bfloat16", "--max-shard-size", "0.5MB"]
    assert run("nano", "-o", str(out), *options).exit_code == 0
    files = sorted(out.glob("*.safetensors"))
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(files) > 3
    assert {file.name for file in files} == set(index["weight_map"].values())
    stored = {name: tensor for file in files for name, tensor in load_file(file).items()}
    for name, tensor in load_file(nano_path() / "model.safetensors").items():
        assert torch.equal(stored[name], tensor.to(torch.bfloat16)), name
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values())
    assert VGAS.from_checkpoint(out).dtype == torch.bfloat16
    assert "float32" not in (out / "config.json").read_text()


def test_storage_options_are_parsed() -> None:
    assert parse_storage("float16", "1.5 gb") == Storage(torch.float16, 1_500_000_000)
    for words in (("int8", None), (None, "5"), (None, "0GB"), (None, "big")):
        with pytest.raises(UsageError, match=f"'{words[0] or words[1]}'"):
            parse_storage(*words)


def test_the_stored_dtype_is_kept(tmp_path: Path) -> None:
    export_selector(VGAS(VGASConfig(input_size=16, hidden_size=16)), tmp_path / "half", parse_storage("bfloat16"))
    assert VGAS.from_pretrained(str(tmp_path / "half")).dtype == torch.bfloat16
    assert "width 16" in (tmp_path / "half" / "README.md").read_text()


def test_only_shards_in_the_index_are_exported(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("nano", "-o", str(first), "--as", "merged").exit_code == 0
    save_file({"base_model.lora": torch.zeros(1)}, first / "adapter_model.safetensors")
    assert run(str(first), "-o", str(second), "--as", "merged").exit_code == 0
    assert "base_model.lora" not in (second / "model.safetensors.index.json").read_text()
    (first / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="which is missing"):
        export_merged(first, VGAS.from_checkpoint(second), tmp_path / "third")
