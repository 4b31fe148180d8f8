"""Checkpoints with quantised weights, and families with experts: what is stored loads by its own configuration."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.helpers.family_folders import FACTORS, save_family
from tests.pipeline.test_load import TALKER, TOKEN2WAV
from torch import Tensor, nn
from transformers import (
    AutoProcessor,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerConfig,
)

import omnisift
from omnisift import Pipeline
from omnisift.errors import CheckpointError
from omnisift.pipeline.quantization import WAYS
from omnisift.profiling.diagnosis import diagnose
from omnisift.utils.assets import nano_path

pytestmark = [pytest.mark.slow, pytest.mark.quant]

QUESTION = "What colour is the circle?"
GROUP = 32
"""Inputs that share a scale."""
STORED = [name for name in WAYS if not name.startswith("quanto")]


def logits_of(pipe: Pipeline, clip: Path) -> Tensor:
    inputs = omnisift.inputs(pipe.host.processor, clip, QUESTION)
    with torch.no_grad():
        logits: Tensor = pipe.host.thinker(**inputs.to("cpu", pipe.host.dtype)).logits
    return logits.float()


def save(pipe: Pipeline, folder: Path) -> Path:
    pipe.host.thinker.save_pretrained(folder)
    pipe.host.processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("way", STORED)
def test_a_saved_model_is_loaded_by_its_own_configuration(way: str, clip: Path, tmp_path: Path) -> None:
    pipe = omnisift.load("nano", compressor="resift", quantization=way)
    again = omnisift.load(save(pipe, tmp_path / "saved"), compressor="resift")
    assert torch.equal(logits_of(again, clip), logits_of(pipe, clip))
    assert again.ask(clip, QUESTION).text == pipe.ask(clip, QUESTION).text
    assert diagnose(str(tmp_path / "saved")).quantization == way.partition("-")[0]


def test_transformers_does_not_save_models_of_quanto(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not serializable"):
        save(omnisift.load("nano", quantization="quanto-int8"), tmp_path)


@pytest.mark.parametrize("way", ["bitsandbytes-int8", "bitsandbytes-nf4"])
def test_a_whole_omni_checkpoint_with_a_quantised_thinker(way: str, clip: Path, tmp_path: Path) -> None:
    """The configuration is that of the whole model, and names its modules."""
    pipe = omnisift.load("nano", compressor="resift", quantization=way)
    saved, folder = save(pipe, tmp_path / "thinker"), tmp_path / "whole"
    thinker = Qwen2_5OmniThinkerConfig.from_pretrained(nano_path()).to_dict()
    width = thinker["text_config"]["hidden_size"]
    config = Qwen2_5OmniConfig(
        thinker_config=thinker, talker_config=TALKER | {"embedding_size": width}, token2wav_config=TOKEN2WAV
    )
    Qwen2_5OmniForConditionalGeneration(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(nano_path()).save_pretrained(folder)
    others = {name: t for name, t in load_file(folder / "model.safetensors").items() if "thinker." not in name}
    packed = {f"thinker.{name}": t for name, t in load_file(saved / "model.safetensors").items()}
    save_file(others | packed, folder / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads((saved / "config.json").read_text())["quantization_config"]
    stated["llm_int8_skip_modules"] = ["thinker.visual", "thinker.audio_tower", "talker", "token2wav"]
    _edit(folder, {"quantization_config": stated})
    whole = omnisift.load(folder, compressor="resift")
    assert torch.equal(logits_of(whole, clip), logits_of(pipe, clip))
    assert diagnose(str(folder)).quantization == "bitsandbytes"


def _edit(folder: Path, values: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _packed(values: Tensor, order: Sequence[int] = range(8)) -> Tensor:
    """Eight numbers of 4 bits in one of 32, along the last dimension."""
    parts = values.view(*values.shape[:-1], -1, 8).long()[..., list(order)]
    total = sum(parts[..., place] << (4 * place) for place in range(8))
    return torch.where(total >= 2**31, total - 2**32, total).int()


def _gptq(numbers: Tensor, scale: Tensor, zero: Tensor) -> dict[str, Tensor]:
    """The first format, which stores zero points less one."""
    return {
        "qweight": _packed(numbers).T.contiguous(),
        "qzeros": _packed((zero - 1).T.contiguous()),
        "scales": scale.T.contiguous().half(),
        "g_idx": (torch.arange(numbers.shape[1]) // GROUP).int(),
    }


def _awq(numbers: Tensor, scale: Tensor, zero: Tensor) -> dict[str, Tensor]:
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        "qweight": _packed(numbers.T.contiguous(), order),
        "qzeros": _packed(zero.T.contiguous(), order),
        "scales": scale.T.contiguous().half(),
    }


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers [N, K] in 0..15, scales and zero points [N, K / GROUP], and the weights that these are."""
    parts = weight.view(len(weight), -1, GROUP)
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    scale = ((high - low) / 15).half().float()
    zero = (-low / scale).round().clamp(1, 15)
    numbers = (parts / scale[..., None] + zero[..., None]).round().clamp(0, 15)
    restored = (numbers - zero[..., None]) * scale[..., None]
    return numbers.view_as(weight).int(), scale, zero.int(), restored.view_as(weight)


@pytest.mark.parametrize(
    ("pack", "stated"),
    [
        (_gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False}),
        (_awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
    ],
)
def test_packed_checkpoints_are_their_unpacked_weights(
    pack: Callable[..., dict[str, Tensor]], stated: dict[str, Any], clip: Path, tmp_path: Path
) -> None:
    """As GPTQ and AWQ store them, of weights that are only rounded here."""
    stored = load_file(nano_path() / "model.safetensors")
    packed, unpacked = dict(stored), dict(stored)
    for name, weight in stored.items():
        if name.startswith("model.layers.") and name.endswith("_proj.weight"):
            *numbers, unpacked[name] = _rounded(weight.float())
            del packed[name]
            packed |= {name.removesuffix("weight") + part: tensor for part, tensor in pack(*numbers).items()}
    folders = [tmp_path / "packed", tmp_path / "unpacked"]
    for folder, tensors in zip(folders, (packed, unpacked), strict=True):
        shutil.copytree(nano_path(), folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _edit(folders[0], {"quantization_config": stated})
    pipe, expected = (omnisift.load(folder) for folder in folders)
    assert torch.allclose(logits_of(pipe, clip), logits_of(expected, clip), rtol=0, atol=0.02)
    assert pipe.ask(clip, QUESTION).text == expected.ask(clip, QUESTION).text


@pytest.mark.parametrize("way", ["torchao-int8", "bitsandbytes-nf4", "quanto-int4"])
def test_experts_stay_as_they_are_stored(way: str, clip: Path, tmp_path: Path) -> None:
    """All experts of a layer are one parameter, not linear layers; attention is quantised."""
    name = "qwen3_omni_moe_thinker"
    folder = save_family(name, tmp_path)
    plain, pipe = (omnisift.load(folder, compressor="resift", quantization=one) for one in (None, way))
    stored, changed = plain.host.thinker.state_dict(), set()
    for path, module in pipe.host.thinker.named_modules():
        for kind, tensor in module.named_parameters(recurse=False):
            if type(tensor) is not nn.Parameter or not torch.equal(tensor, stored[f"{path}.{kind}"]):
                changed.add(path.rpartition(".")[2])
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= changed
    assert not changed & {"experts", "lm_head", "embed_tokens"}
    options = {"max_pixels": 16 * FACTORS[name] ** 2, "max_new_tokens": 2}
    first, second = (one.ask(clip, QUESTION, **options) for one in (plain, pipe))
    assert first.report.tokens.in_clips_kept == second.report.tokens.in_clips_kept


@pytest.mark.parametrize(
    ("way", "tensor"),
    [
        ("bitsandbytes-nf4", "weight"),
        ("bitsandbytes-nf4", "weight.absmax"),
        ("bitsandbytes-nf4", "weight.quant_map"),
        ("bitsandbytes-int8", "weight"),
        ("bitsandbytes-int8", "SCB"),
        ("torchao-int8", "_weight_qdata"),
        ("torchao-int8", "_weight_scale"),
    ],
)
def test_a_shortened_tensor_is_refused_while_loading(way: str, tensor: str, tmp_path: Path) -> None:
    file = save(omnisift.load("nano", quantization=way), tmp_path) / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(f"q_proj.{tensor}"))
    tensors[name] = tensors[name][: len(tensors[name]) // 2].clone()
    save_file(tensors, file, metadata)
    with pytest.raises(CheckpointError) as caught:
        omnisift.load(tmp_path)
    assert "\n" not in str(caught.value)
