"""The second backbone's configuration and processor: the Qwen3-Omni thinker, small enough for one CPU core."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from omnisift.lab.training.nano_model import WIDTH, answer_greedily, token_id
from omnisift.lab.training.tokenizer import CHAT_TEMPLATE, TURN_END

PATCH, SIDE = 16, 320
"""Pixels along one side of a patch, and of an image of the wide family as this host reads it: 10 x 10 tokens."""
MIN_PIXELS, MAX_PIXELS = 300 * 300, SIDE * SIDE
"""An image of 280 x 280 pixels is enlarged to 320 x 320, so that a token shows the same part of it as one of the first
backbone. The released processor enlarges small images too."""


def qwen3_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3OmniMoeThinkerConfig:
    """Thinker configuration: 4 layers of width 128, every second with four experts, and two encoders of two blocks.

    Features of the first vision block enter after the first layer of the language model. The audio encoder reads two
    seconds at a time.
    """
    std, end = 0.05, token_id(tokenizer, TURN_END)
    config = Qwen3OmniMoeThinkerConfig(
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 256, "num_heads": 2, "patch_size": PATCH,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": WIDTH, "initializer_range": std,
            "num_position_embeddings": (SIDE // PATCH) ** 2, "deepstack_visual_indexes": [0],
        },
        audio_config={
            "num_mel_bins": 128, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 256,
            "d_model": 96, "n_window": 50, "n_window_infer": 200, "output_dim": WIDTH, "downsample_hidden_size": 24,
            "max_source_positions": 1500, "initializer_range": std,
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": WIDTH // 4,
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 3 * WIDTH // 2,
            "decoder_sparse_step": 2, "max_position_embeddings": 8192, "initializer_range": std,
            "tie_word_embeddings": True, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": end,
            "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 100.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True,
            },
        },
        audio_token_id=token_id(tokenizer, "<|AUDIO|>"), image_token_id=token_id(tokenizer, "<|IMAGE|>"),
        video_token_id=token_id(tokenizer, "<|VIDEO|>"), audio_start_token_id=token_id(tokenizer, "<|audio_bos|>"),
        user_token_id=token_id(tokenizer, "user"), position_id_per_seconds=13, initializer_range=std,
        tie_word_embeddings=True,
    )  # fmt: skip
    config.audio_end_token_id = token_id(tokenizer, "<|audio_eos|>")
    config.vision_start_token_id = token_id(tokenizer, "<|vision_bos|>")
    config.vision_end_token_id = token_id(tokenizer, "<|vision_eos|>")
    return config


def build_qwen3(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen3OmniMoeThinkerForConditionalGeneration:
    """An untrained model in float32; ``generate`` decodes greedily and stops at the end of the turn."""
    torch.manual_seed(seed)
    model: Qwen3OmniMoeThinkerForConditionalGeneration = Qwen3OmniMoeThinkerForConditionalGeneration._from_config(
        qwen3_config(tokenizer), dtype=torch.float32
    )
    answer_greedily(model, tokenizer)
    return model


def build_qwen3_processor(tokenizer: PreTrainedTokenizerFast, seconds_of_audio: int) -> Qwen3OmniMoeProcessor:
    """The host's processor with the limits of this module, ready for ``save_pretrained``."""
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    patches: dict[str, Any] = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2}
    return Qwen3OmniMoeProcessor(
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
