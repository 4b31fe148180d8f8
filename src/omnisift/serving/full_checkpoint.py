"""A thinker's checkpoint in the clothes of the full model, without its speech: the form that vLLM reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from omnisift.utils.atomic_io import atomic_folder

_OLD_NAMES = {"model.language_model.": "model.", "model.audio_tower.": "audio_tower.", "model.visual.": "visual."}


def dress(source: Path, folder: Path) -> None:
    """Write the thinker at ``source`` (safetensors in one file) as a full Qwen2.5-Omni into ``folder``.

    Tokenizer, processor, chat template and ``selector/`` come along. The folder appears only when it is whole.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    full = {"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "enable_audio_output": False}
    full |= {"dtype": config.get("dtype", "float32"), "thinker_config": config}
    with atomic_folder(folder) as room:
        for item in source.iterdir():
            if item.is_dir():
                shutil.copytree(item, room / item.name)
            elif item.name not in ("config.json", "model.safetensors"):
                shutil.copy2(item, room / item.name)
        with safe_open(source / "model.safetensors", framework="pt") as stored:
            tensors = {_full_name(name): stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        save_file(tensors, room / "model.safetensors", metadata={"format": "pt"})
        (room / "config.json").write_text(json.dumps(full, indent=1), encoding="utf-8")


def _full_name(name: str) -> str:
    for new, old in _OLD_NAMES.items():
        if name.startswith(new):
            name = old + name.removeprefix(new)
    return f"thinker.{name}"
