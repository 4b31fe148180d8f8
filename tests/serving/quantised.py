"""Quantised checkpoints: linear layers of the language model in few bits; encoders, embeddings and head as stored."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUP = 32
"""Inputs that share a scale at 4 bits."""
_LAYER = re.compile(r"(thinker\.)?model\.(language_model\.)?layers\.\d+\..*_proj\.weight")
_IGNORED = ["re:.*visual.*", "re:.*audio_tower.*", "re:.*lm_head"]


def quantise(model: Path, folder: Path, form: str) -> Path:
    """Copy a checkpoint to ``folder`` with quantised layers, each weight rounded to its nearest code.

    Args:
        model: folder of a thinker or of a full model.
        folder: the folder to create.
        form: a key of `FORMS`.
    """
    shutil.copytree(model, folder)
    encode, config = FORMS[form]
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(model / "model.safetensors").items():
        if _LAYER.fullmatch(name):
            layer = name.removesuffix("weight")
            tensors |= {layer + part: value.contiguous() for part, value in encode(tensor.float()).items()}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((model / "config.json").read_text(encoding="utf-8")) | {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def _int8(weight: Tensor) -> dict[str, Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    return {"weight": (weight / scale).round().to(torch.int8), "weight_scale": scale}


def _fp8(weight: Tensor) -> dict[str, Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    return {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


def _codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of 0 to 15, of which 8 is zero: [outputs, inputs], and scales [outputs, groups]."""
    groups = weight.unflatten(1, (-1, GROUP))
    scale = groups.abs().amax(2) / 7
    codes = (groups / scale[..., None]).round().clamp(-8, 7).to(torch.int32) + 8
    return codes.flatten(1), scale


def _packed(codes: Tensor, dim: int, order: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)) -> Tensor:
    """Eight codes of 4 bits in each int32, along ``dim``, the first of ``order`` in the lowest bits."""
    eights = codes.movedim(dim, -1).unflatten(-1, (-1, 8))[..., list(order)].long()
    words = (eights << (4 * torch.arange(8))).sum(-1)
    return words.where(words < 2**31, words - 2**32).to(torch.int32).movedim(-1, dim)


def _int4(weight: Tensor) -> dict[str, Tensor]:
    codes, scale = _codes(weight)
    return {"weight_packed": _packed(codes, 1), "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}


def _gptq(weight: Tensor) -> dict[str, Tensor]:
    codes, scale = _codes(weight)
    zeros = torch.full_like(scale.T, 7, dtype=torch.int32)  # the file format stores one less
    groups = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
    return {"qweight": _packed(codes.T, 0), "scales": scale.T.half(), "qzeros": _packed(zeros, 1), "g_idx": groups}


def _awq(weight: Tensor) -> dict[str, Tensor]:
    codes, scale = _codes(weight)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    zeros = torch.full_like(scale.T, 8, dtype=torch.int32)
    return {"qweight": _packed(codes.T, 1, order), "scales": scale.T.half(), "qzeros": _packed(zeros, 1, order)}


def _compressed(form: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False, **weights}}
    if inputs is not None:
        group["input_activations"] = {"symmetric": True, "dynamic": True, "strategy": "token", **inputs}
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": _IGNORED}  # fmt: skip


_INT8 = {"num_bits": 8, "type": "int"}
_FP8 = {"num_bits": 8, "type": "float"}
_KEPT = ["visual", "audio_tower", "lm_head"]

FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "int8": (_int8, _compressed("int-quantized", {**_INT8, "strategy": "channel"}, _INT8)),
    "fp8": (_fp8, _compressed("float-quantized", {**_FP8, "strategy": "channel"}, _FP8)),
    "int4": (_int4, _compressed("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group",
                                                   "group_size": GROUP}, None)),
    "gptq": (_gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True,
                     "lm_head": False, "dynamic": {f"-:.*{part}.*": {} for part in _KEPT}}),
    "awq": (_awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
                   "modules_to_not_convert": _KEPT}),
}  # fmt: skip
