"""A tiny random full Qwen3-Omni checkpoint: real classes, nano's words, thinker weights in the released layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.helpers import family_folders
from tests.helpers.families import FAMILIES

NAME = "qwen3_omni_moe_thinker"
_MARKS = family_folders._OMNI_MARKS


def config_of(tokenizer: Any) -> Any:
    """Four layers; heads of 32, the smallest that vLLM's attention for CPUs takes."""
    config = FAMILIES[NAME].config()
    for part, token in _MARKS.items():
        setattr(config, f"{part}_token_id", tokenizer.convert_tokens_to_ids(token))
    config.vision_config.patch_size = 16
    text = config.text_config
    text.head_dim = 32
    text.rope_parameters |= {"mrope_section": [6, 5, 5], "rope_theta": 100.0}
    text.max_position_embeddings = 16384
    text.vocab_size, text.pad_token_id, text.eos_token_id = len(tokenizer), tokenizer.pad_token_id, None
    return config


def save_qwen3_omni(folder: Path) -> Path:
    """Save a full model without speech in ``folder``."""
    processor = family_folders._processor(NAME)
    # The processor has a size of its own for videos; this is where it takes another from.
    processor.tokenizer.init_kwargs["size"] = {"shortest_edge": 12544, "longest_edge": 50176}
    video = "{% if part['type'] == 'video' %}"
    image = "{% if part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>{% elif part['type'] == 'video' %}"
    processor.chat_template = processor.chat_template.replace(video, image)
    config = config_of(processor.tokenizer)
    torch.manual_seed(0)
    model = transformers.Qwen3OmniMoeThinkerForConditionalGeneration._from_config(config).eval()
    with torch.no_grad():  # answers then depend on each token, and don't repeat themselves
        model.get_input_embeddings().weight.mul_(4)
        for name, weight in model.named_parameters():
            weight.mul_(3 if name.endswith("q_norm.weight") else 1)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    thinker = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # vLLM reads fields of released files that this release of Transformers does not write.
    thinker["vision_config"] |= {"image_size": 64, "apply_vit_abs_pos_embed": True}
    thinker["text_config"]["tie_word_embeddings"] = False
    tensors = {f"thinker.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    full = {"architectures": ["Qwen3OmniMoeForConditionalGeneration"], "model_type": "qwen3_omni_moe",
            "enable_audio_output": False, "dtype": "float32", "thinker_config": thinker}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(full, indent=1), encoding="utf-8")
    return folder
