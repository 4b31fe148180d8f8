"""A tiny random checkpoint of each family in a folder, with the family's own processor and nano's words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from tests.helpers.families import FAMILIES
from tests.helpers.models import MELS

import omnisift

_MARKS = {
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}
_OMNI_MARKS = {
    "image": "<|IMAGE|>", "video": "<|VIDEO|>", "audio": "<|AUDIO|>", "vision_start": "<|vision_bos|>",
    "vision_end": "<|vision_eos|>", "audio_start": "<|audio_bos|>", "audio_end": "<|audio_eos|>",
}  # fmt: skip
_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }} {% for part in turn['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
FACTORS = {"qwen2_vl": 28, "qwen2_5_vl": 28, "qwen3_vl": 32, "qwen3_vl_moe": 32, "qwen3_5": 32, "qwen3_5_moe": 32,
           "qwen3_omni_moe_thinker": 32}  # fmt: skip
"""Family -> pixels along one side of a token."""


def save_family(name: str, folder: Path) -> Path:
    """Save a model of the family called ``name`` in FACTORS and its processor in ``folder``."""
    processor = _processor(name)
    config = FAMILIES[name].config()
    tokenizer = processor.tokenizer
    for part, token in (_OMNI_MARKS if "omni" in name else _MARKS).items():
        setattr(config, f"{part}_token_id", tokenizer.convert_tokens_to_ids(token))
    config.vision_config.patch_size = FACTORS[name] // 2
    text = config.get_text_config()
    text.vocab_size, text.pad_token_id, text.eos_token_id = len(tokenizer), tokenizer.pad_token_id, None
    model = replace(FAMILIES[name], config=lambda: config).model()
    generation = model.generation_config
    generation.pad_token_id, generation.suppress_tokens = tokenizer.pad_token_id, list(tokenizer.all_special_ids)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _processor(name: str) -> Any:
    patch = {"patch_size": FACTORS[name] // 2}
    image = transformers.Qwen2VLImageProcessor(**patch)
    if name.startswith("qwen3_omni"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(omnisift.nano_path())
        tokenizer.init_kwargs.pop("size", None)
        template = _TEMPLATE
        for part, token in _MARKS.items():
            template = template.replace(token, _OMNI_MARKS[part])
        template = template.replace(
            "{% elif 'text'", "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% elif 'text'"
        )
        return transformers.Qwen3OmniMoeProcessor(
            image,
            transformers.Qwen2VLVideoProcessor(**patch),
            transformers.WhisperFeatureExtractor(feature_size=MELS),
            tokenizer,
            chat_template=template,
        )
    words = transformers.AutoTokenizer.from_pretrained(omnisift.nano_path())
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        **{f"{kind}_token": getattr(words, f"{kind}_token") for kind in ("eos", "pad", "unk")},
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(_MARKS.values())})
    if name in ("qwen2_vl", "qwen2_5_vl"):
        kind = transformers.Qwen2VLProcessor if name == "qwen2_vl" else transformers.Qwen2_5_VLProcessor
        video: Any = transformers.Qwen2VLVideoProcessor(**patch)
    else:
        kind, video = transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor(**patch)
    return kind(image, tokenizer, video, chat_template=_TEMPLATE)
