"""Configurations of Qwen2.5-Omni's thinker by size, without weights or network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnisift.errors import UnsupportedModel, UsageError
from omnisift.utils.checkpoint_files import checkpoint_errors, read_json_object

_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_channels": 3, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
"""As in both released checkpoints. The default hidden size of Transformers' class is 3584, which neither has."""
_AUDIO = {
    "num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "d_model": 1280,
    "n_window": 100, "max_source_positions": 1500,
}  # fmt: skip
_TEXT = {
    "7b": {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
    },
    "3b": {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2,
    },
}  # fmt: skip

NAMES = tuple(_TEXT)


def thinker_config(name: str) -> Any:
    """Return the configuration of ``7b``, ``3b``, or a checkpoint folder.

    Raises:
        UsageError: ``name`` is neither a known size nor a folder with a config.json.
        CheckpointError: The config.json cannot be read.
        UnsupportedModel: The folder holds a model of another family.
    """
    from transformers import Qwen2_5OmniThinkerConfig

    if name not in _TEXT:
        return _read(Path(name), name)
    width = _TEXT[name]["hidden_size"]
    return Qwen2_5OmniThinkerConfig(
        text_config=_TEXT[name],
        vision_config={**_VISION, "out_hidden_size": width},
        audio_config={**_AUDIO, "output_dim": width},
    )


def _read(folder: Path, name: str) -> Any:
    from transformers import Qwen2_5OmniThinkerConfig

    if not (folder / "config.json").is_file():
        raise UsageError(f"no configuration {name!r}; give {', '.join(NAMES)}, or a folder with a config.json")
    config = read_json_object(folder / "config.json")
    config = config.get("thinker_config", config)
    if config.get("model_type") != "qwen2_5_omni_thinker":
        raise UnsupportedModel(
            f"{folder} has model_type {config.get('model_type')!r}; FLOPs are counted for qwen2_5_omni alone"
        )
    with checkpoint_errors(folder / "config.json"):
        return Qwen2_5OmniThinkerConfig.from_dict(config)
