"""Tiny random checkpoints of the families beside Qwen's in folders, with their own processors and nano's words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from tests.helpers.more_families import FAMILIES

import omnisift

_GEMMA = {
    "image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>", "boi": "<|image>", "eoi": "<image|>",
    "boa": "<|audio>", "eoa": "<audio|>",
}  # fmt: skip
_GLM = ["<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
_LLAVA = ["<image>", "<video>"]
NAMES = ["gemma4", "gemma4_unified", "glm46v", "llava_onevision"]


def save_more(name: str, folder: Path) -> Path:
    """Save a model of the family called ``name`` in NAMES and its processor in ``folder``."""
    processor, config = _MAKERS[name](_tokenizer(name)), FAMILIES[name].config()
    tokenizer = processor.tokenizer
    ids = {
        "image_token_id": processor.image_token, "video_token_id": processor.video_token,
        "audio_token_id": getattr(processor, "audio_token", None),
    }  # fmt: skip
    for key, token in ids.items():
        if token is not None:
            setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    text = config.get_text_config()
    text.vocab_size, text.pad_token_id, text.eos_token_id = len(tokenizer), tokenizer.pad_token_id, None
    if name.startswith("gemma"):
        for mark in ("boi", "eoi", "boa"):
            setattr(config, f"{mark}_token_id", tokenizer.convert_tokens_to_ids(_GEMMA[mark]))
        text.vocab_size_per_layer_input = len(tokenizer)
        config.vision_config.patch_size = 16
        config.vision_config.pooling_kernel_size = 3
        if name == "gemma4_unified":
            config.audio_config.audio_embed_dim = 640
    if name == "glm46v":
        config.vision_config.patch_size = 14
        config.image_start_token_id = tokenizer.convert_tokens_to_ids("<|begin_of_image|>")
        config.image_end_token_id = tokenizer.convert_tokens_to_ids("<|end_of_image|>")
    model = replace(FAMILIES[name], config=lambda: config).model()
    generation = model.generation_config
    generation.pad_token_id, generation.suppress_tokens = tokenizer.pad_token_id, list(tokenizer.all_special_ids)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(name: str) -> Any:
    words = transformers.AutoTokenizer.from_pretrained(omnisift.nano_path())
    kinds = {f"{kind}_token": getattr(words, f"{kind}_token") for kind in ("eos", "pad", "unk")}
    extra: dict[str, Any] = {}
    tokens = _LLAVA
    if name.startswith("gemma"):
        tokens = [*_GEMMA.values(), "<bos>"]
        extra = {"bos_token": "<bos>", "extra_special_tokens": {f"{kind}_token": mark for kind, mark in _GEMMA.items()}}
    if name == "glm46v":
        tokens = _GLM
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer, padding_side="left", **kinds, **extra
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in tokens if token != "<bos>"]})
    return tokenizer


def _template(video: str, audio: str = "", begin: str = "") -> str:
    heard = "{% elif part['type'] == 'audio' %}" + audio if audio else ""
    return (
        begin + "{% for turn in messages %}<|im_start|>{{ turn['role'] }} {% for part in turn['content'] %}"
        "{% if part['type'] == 'video' %}" + video + heard + "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
        "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )  # fmt: skip


def _gemma(kind: str) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        parts = [getattr(transformers, f"{kind}{part}") for part in ("AudioFeatureExtractor", "ImageProcessor",
                                                                    "VideoProcessor", "Processor")]  # fmt: skip
        hearing, image, video, processor = parts
        extractor = hearing(feature_size=16) if kind == "Gemma4" else hearing()
        return processor(
            extractor, image(), tokenizer, video(), chat_template=_template("<|video|>", "<|audio|>", "<bos>")
        )

    return make


def _glm46v(tokenizer: Any) -> Any:
    return transformers.Glm46VProcessor(
        transformers.Glm46VImageProcessor(),
        tokenizer,
        transformers.Glm46VVideoProcessor(),
        chat_template=_template("<|begin_of_video|><|video|><|end_of_video|>"),
    )


def _llava(tokenizer: Any) -> Any:
    size = {"height": 16, "width": 16}
    return transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[16, 16]]),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_template("<video>"),
    )


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "gemma4": _gemma("Gemma4"),
    "gemma4_unified": _gemma("Gemma4Unified"),
    "glm46v": _glm46v,
    "llava_onevision": _llava,
}
