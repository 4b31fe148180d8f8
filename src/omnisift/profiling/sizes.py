"""Configurations of released models by name, without weights or network.

The dimensions are those of the ``config.json`` files of the checkpoints, as public code that reads them repeats them:
Transformers' own examples and tests, Megatron Bridge (the audio encoder of Qwen3-Omni), Keras Hub (its thinker),
SGLang, and others for Qwen3-VL and Qwen3.5. A test compares the number of parameters with the published one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.models import model_class
from omnisift.pipeline.checkpoint_checks import check_values
from omnisift.pipeline.model_source import check_counted, find_model
from omnisift.profiling.analytic import count, weight_bytes
from omnisift.profiling.shape import prompt_shape
from omnisift.utils.checkpoint_files import checkpoint_errors

_Sizes = dict[str, Any]


def _text(hidden: int, inner: int, layers: int, heads: int, groups: int, **more: Any) -> _Sizes:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": groups, "vocab_size": 151936, **more,
    }  # fmt: skip


def _experts(count: int, chosen: int, inner: int, **more: Any) -> _Sizes:
    return {"num_experts": count, "num_experts_per_tok": chosen, "moe_intermediate_size": inner, **more}


def _linear(heads: int) -> _Sizes:
    """Three layers of four of Qwen3.5 have linear attention with 128 wide heads, 16 of them for keys."""
    return {"head_dim": 256, "vocab_size": 248320, "linear_num_value_heads": heads, "linear_num_key_heads": 16}


_PATCHES = {"in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2}
_WINDOWED = {
    **_PATCHES, "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
"""As in all released checkpoints. The default hidden size of Transformers' classes is 3584, which none of them has."""
_QWEN2 = {**_PATCHES, "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14}
_LARGE = {
    **_PATCHES, "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
    "num_position_embeddings": 2304,
}  # fmt: skip
_MIDDLE = {**_LARGE, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
_SMALL = {**_LARGE, "depth": 12, "hidden_size": 768, "intermediate_size": 3072, "num_heads": 12}
_DEEP_LARGE = {**_LARGE, "deepstack_visual_indexes": [8, 16, 24]}
_DEEP_MIDDLE = {**_MIDDLE, "deepstack_visual_indexes": [5, 11, 17]}

_AUDIO = {
    "num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "d_model": 1280,
    "max_source_positions": 1500,
}  # fmt: skip
_AUDIO_2 = {**_AUDIO, "n_window": 100}
_AUDIO_3 = {**_AUDIO, "n_window": 50, "n_window_infer": 800, "downsample_hidden_size": 480}

_TIED = {"tie_word_embeddings": True}
_A3B = {"head_dim": 128, **_experts(128, 8, 768), "decoder_sparse_step": 1, "mlp_only_layers": []}
_QWEN2_7B = _text(3584, 18944, 28, 28, 4, vocab_size=152064)

_SIZES: dict[str, tuple[str, _Sizes, _Sizes, _Sizes | None, _Sizes]] = {
    "qwen2.5-omni-7b": ("qwen2_5_omni", _QWEN2_7B, _WINDOWED, _AUDIO_2, {}),
    "qwen2.5-omni-3b": ("qwen2_5_omni", _text(2048, 11008, 36, 16, 2), _WINDOWED, _AUDIO_2, {}),
    "qwen3-omni-30b-a3b": (
        "qwen3_omni_moe", _text(2048, 768, 48, 32, 4, **{**_A3B, "vocab_size": 152064}), _DEEP_LARGE, _AUDIO_3, {},
    ),
    "qwen2-vl-2b": ("qwen2_vl", _text(1536, 8960, 28, 12, 2), _QWEN2, None, _TIED),
    "qwen2-vl-7b": ("qwen2_vl", _QWEN2_7B, _QWEN2, None, {}),
    "qwen2.5-vl-3b": ("qwen2_5_vl", _text(2048, 11008, 36, 16, 2), _WINDOWED, None, _TIED),
    "qwen2.5-vl-7b": ("qwen2_5_vl", _QWEN2_7B, _WINDOWED, None, {}),
    "qwen3-vl-2b": ("qwen3_vl", _text(2048, 6144, 28, 16, 8, head_dim=128), _DEEP_MIDDLE, None, _TIED),
    "qwen3-vl-4b": ("qwen3_vl", _text(2560, 9728, 36, 32, 8, head_dim=128), _DEEP_MIDDLE, None, _TIED),
    "qwen3-vl-8b": ("qwen3_vl", _text(4096, 12288, 36, 32, 8, head_dim=128), _DEEP_LARGE, None, {}),
    "qwen3-vl-32b": ("qwen3_vl", _text(5120, 25600, 64, 64, 8, head_dim=128), _DEEP_LARGE, None, {}),
    "qwen3-vl-30b-a3b": ("qwen3_vl_moe", _text(2048, 6144, 48, 32, 4, **_A3B), _DEEP_LARGE, None, {}),
    "qwen3.5-0.8b": ("qwen3_5", _text(1024, 3584, 24, 8, 2) | _linear(16), _SMALL, None, _TIED),
    "qwen3.5-2b": ("qwen3_5", _text(2048, 6144, 24, 8, 2) | _linear(16), _MIDDLE, None, _TIED),
    "qwen3.5-4b": ("qwen3_5", _text(2560, 9216, 32, 16, 4) | _linear(32), _MIDDLE, None, _TIED),
    "qwen3.5-9b": ("qwen3_5", _text(4096, 12288, 32, 16, 4) | _linear(32), _LARGE, None, {}),
    "qwen3.5-27b": ("qwen3_5", _text(5120, 17408, 64, 24, 4) | _linear(48), _LARGE, None, {}),
    "qwen3.5-35b-a3b": (
        "qwen3_5_moe",
        _text(2048, 512, 40, 16, 2) | _linear(32) | _experts(256, 8, 512, shared_expert_intermediate_size=512),
        _LARGE, None, {},
    ),
}  # fmt: skip
"""Name -> model type, text, vision and audio configuration, and what else."""
_SHORT = {"7b": "qwen2.5-omni-7b", "3b": "qwen2.5-omni-3b"}
PAPER = ("7b", _SHORT["7b"])
"""Names of the model whose operations the paper's Table 7 has."""

NAMES = (*_SHORT, *_SIZES)
"""All names; those of the paper's models are short as well."""


def host_config(name: str) -> Any:
    """Return the configuration of the part that generates text, of a model in `NAMES` or a checkpoint folder.

    Raises:
        UsageError: ``name`` is neither a known size nor a folder with a config.json.
        CheckpointError: the config.json cannot be read.
        UnsupportedModel: the folder holds a model of another family, or Transformers lacks its class.
    """
    name = _SHORT.get(name, name)
    if name not in _SIZES:
        if not (Path(name) / "config.json").is_file():
            raise UsageError(f"no configuration {name!r}; give {', '.join(NAMES)}, or a folder with a config.json")
        return _read(name)
    model_type, text, vision, audio, more = _SIZES[name]
    width = {"hidden_size" if "embed_dim" in vision else "out_hidden_size": text["hidden_size"]}
    parts = {"text_config": text, "vision_config": {**vision, **width}}
    if audio is not None:
        parts["audio_config"] = {**audio, "output_dim": text["hidden_size"]}
    return model_class(model_type).config_class(**parts, **more)


def _read(folder: str) -> Any:
    """The configuration in a checkpoint's folder, with which a clip can be counted."""
    source = find_model(folder)
    check_counted(source.model_type, folder, "profile --config")
    config, path = source.config, Path(folder) / "config.json"
    with checkpoint_errors(path):
        check_values(config, path)
        weight_bytes(config)
        count(config, prompt_shape(2, config=config), [])
    return config
