"""Wrap a thinker-only checkpoint in the full Qwen2.5-Omni layout, as vLLM expects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from omnisift.utils.atomic_io import atomic_folder
from omnisift.utils.checkpoint_files import read_json_object
from omnisift.utils.safetensors_files import open_safetensors

_OLD_NAMES = {"model.language_model.": "model.", "model.audio_tower.": "audio_tower.", "model.visual.": "visual."}
"""Prefix in a thinker's checkpoint -> prefix in the layout of the released full model."""


def wrap_as_full_checkpoint(source: Path, folder: Path) -> None:
    """Write a thinker as a full Qwen2.5-Omni checkpoint without speech.

    Tokenizer, processor, chat template and ``selector/`` are copied. ``folder`` appears only when it is complete.

    Args:
        source: folder of the thinker, with its weights in ``model.safetensors``.
        folder: the folder to create.
    """
    config = read_json_object(source / "config.json")
    full_config = {"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "enable_audio_output": False}
    full_config |= {"dtype": config.get("dtype", "float32"), "thinker_config": config}
    with atomic_folder(folder) as unfinished:
        for item in source.iterdir():
            if item.is_dir():
                shutil.copytree(item, unfinished / item.name)
            elif item.name not in ("config.json", "model.safetensors"):
                shutil.copy2(item, unfinished / item.name)
        with open_safetensors(source / "model.safetensors") as stored:
            tensors = {_full_name(name): stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
        (unfinished / "config.json").write_text(json.dumps(full_config, indent=1), encoding="utf-8")


def _full_name(name: str) -> str:
    for new, old in _OLD_NAMES.items():
        if name.startswith(new):
            name = old + name.removeprefix(new)
    return f"thinker.{name}"
