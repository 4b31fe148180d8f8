"""nano's configuration and processor: the Qwen2.5-Omni Thinker, small enough for one CPU core."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from omnisift.lab.training.tokenizer import CHAT_TEMPLATE, MAX_PIXELS, MIN_PIXELS, TURN_END
from omnisift.models import adapter_for

WIDTH = 128
"""D, the width of the embeddings."""
SECONDS_OF_AUDIO = 30
"""The processor cuts longer audio. The host's default of 300 s would pad every clip to 30,000 mel frames."""


def nano_config(tokenizer: PreTrainedTokenizerFast, width: int = WIDTH, layers: int = 4) -> Qwen2_5OmniThinkerConfig:
    """Thinker configuration: 4 layers of width 128 and two encoders of two blocks.

    Audio windows of one second (``n_window`` of 50 mel pairs) keep information about a sound close to its tokens.

    Args:
        tokenizer: gives vocabulary size and special ids.
        width: hidden size of the language model.
        layers: its number of layers.
    """
    std = 0.05
    ids = partial(token_id, tokenizer)
    config = Qwen2_5OmniThinkerConfig(
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 160, "num_heads": 2, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "out_hidden_size": width,
            "fullatt_block_indexes": [0, 1], "initializer_range": std,
        },
        audio_config={
            "num_mel_bins": 128, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 256,
            "d_model": 96, "n_window": 50, "output_dim": width, "max_source_positions": 1500, "initializer_range": std,
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 3 * width,
            "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 4096, "initializer_range": std, "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": ids(TURN_END), "bos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4]},
        },
        audio_token_index=ids("<|AUDIO|>"), image_token_index=ids("<|IMAGE|>"), video_token_index=ids("<|VIDEO|>"),
        audio_start_token_id=ids("<|audio_bos|>"), audio_end_token_id=ids("<|audio_eos|>"),
        user_token_id=ids("user"), position_id_per_seconds=25, seconds_per_chunk=2, initializer_range=std,
        tie_word_embeddings=True,
    )  # fmt: skip
    config.vision_start_token_id = ids("<|vision_bos|>")
    config.vision_end_token_id = ids("<|vision_eos|>")
    return config


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """An untrained nano in float32; ``generate`` decodes greedily and stops at the end of the turn."""
    torch.manual_seed(seed)
    model: Qwen2_5OmniThinkerForConditionalGeneration = Qwen2_5OmniThinkerForConditionalGeneration._from_config(
        nano_config(tokenizer), dtype=torch.float32
    )
    answer_greedily(model, tokenizer)
    return model


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token."""
    return tokenizer.convert_tokens_to_ids([token])[0]  # type: ignore[index]


def answer_greedily(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let ``generate`` of a new model decode greedily and stop at the end of the turn."""
    generation = model.generation_config
    generation.eos_token_id = tokenizer.convert_tokens_to_ids(TURN_END)
    generation.pad_token_id = tokenizer.pad_token_id
    generation.bos_token_id = None
    generation.do_sample = False
    generation.max_new_tokens = 64


def build_processor(
    tokenizer: PreTrainedTokenizerFast, max_pixels: int = MAX_PIXELS, seconds_of_audio: int = SECONDS_OF_AUDIO
) -> Qwen2_5OmniProcessor:
    """The host's processor with nano's limits, ready for ``save_pretrained``."""
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": max_pixels}
    patches: dict[str, Any] = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **patches),
        video_processor=Qwen2VLVideoProcessor(
            size=size, cap_pixels_per_frame=False, do_sample_frames=False, fps=2.0, **patches
        ),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, chunk_length=seconds_of_audio, return_attention_mask=True, padding_side="right"
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def core_of(model: Any) -> Any:
    """The module that has ``visual`` and ``audio_tower`` and computes rotary positions, in any release."""
    return adapter_for(model).parts.core


def language_model_of(model: Any) -> Any:
    """The text model: embeddings, decoder layers and final norm."""
    return adapter_for(model).parts.language_model
