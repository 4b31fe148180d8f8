"""Tiny random hosts whose prompts or layers are unlike those of all others, and their prompts.

`FAMILIES` has these and all others that this Transformers has; `OTHERS` are these and those of `other_families`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from tests.helpers import families, more_families, other_families
from tests.helpers.families import Clip, Family, Row
from tests.helpers.models import (
    AUDIO_END,
    AUDIO_START,
    IMAGE,
    PATCH,
    VIDEO,
    VISION_END,
    VISION_START,
    WIDTH,
    Image,
)
from tests.helpers.more_families import Llava
from tests.helpers.other_families import Grids, Windows
from torch import Tensor

from omnisift.models import adapter_class

_TEXT, _IDS, _ATTEND = more_families._TEXT, other_families._IDS, other_families._ATTEND
_CLIP = {**_ATTEND, "num_hidden_layers": 2, "projection_dim": 16, "model_type": "clip_vision_model"}
_LLAMA = {**_TEXT, "model_type": "llama", "bos_token_id": 2}
_MOE = {"moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}


@dataclass(frozen=True)
class Ernie(Windows):
    """Two grids make a frame; media and their marks have experts of their own."""

    images: int = 1
    beams: bool = False

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs, ids = super().inputs(*rows, pad=pad), families.Family.inputs(self, *rows, pad=pad)
        if "video_grid_thw" in inputs:
            parts = ids["pixel_values_videos"].split(ids["video_grid_thw"].prod(dim=1).tolist())
            frames = ids["video_grid_thw"][:, 0].tolist()
            both = [part.view(count, -1, 2, 3 * PATCH**2) for part, count in zip(parts, frames, strict=True)]
            inputs["pixel_values_videos"] = torch.cat([x.transpose(1, 2).reshape(-1, 3 * PATCH**2) for x in both])
            inputs["video_grid_thw"] = ids["video_grid_thw"] * torch.tensor([2, 1, 1])
        media = torch.tensor([IMAGE, VIDEO, VISION_START, VISION_END])
        inputs["moe_mm_token_type_ids"] = torch.isin(inputs["input_ids"], media).int()
        return inputs


def _ernie() -> Any:
    text = {
        **_TEXT, "moe_intermediate_size": [24, 16], "moe_k": 2, "moe_num_experts": 4, "moe_num_shared_experts": 1,
        **families._rope(mrope_section=[2, 2, 4]), "bos_token_id": 2,
    }  # fmt: skip
    vision = {key: value for key, value in families._VISION.items() if key != "temporal_patch_size"}
    marks = {"image_start_token_id": VISION_START, "image_end_token_id": VISION_END}
    marks |= {"video_start_token_id": VISION_START, "video_end_token_id": VISION_END}
    return transformers.Ernie4_5_VLMoeConfig(
        text_config=text, vision_config={**vision, "temporal_merge_size": 2}, tie_word_embeddings=False, **_IDS, **marks
    )


@dataclass(frozen=True)
class Chunks(Grids):
    """Grids of chunks of two images, which are pooled to one frame of tokens."""

    timestamps: bool = True

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs = super().inputs(*rows, pad=pad)
        if "video_grid_thw" in inputs:
            grids = inputs["video_grid_thw"]
            inputs["video_grid_thw"] = grids.repeat_interleave(grids[:, 0], dim=0)
            inputs["video_grid_thw"][:, 0] = 2
            inputs["pixel_values_videos"] = inputs["pixel_values_videos"].reshape(-1, 3, PATCH, PATCH)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"][:, : 3 * PATCH**2].reshape(-1, 3, PATCH, PATCH)
        return inputs


def _kimi() -> Any:
    text = {
        **_TEXT, **_MOE, "model_type": "deepseek_v3", "num_key_value_heads": 2, "kv_lora_rank": 16, "q_lora_rank": 16,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 1, "num_mtp_layers": 0, "bos_token_id": 2,
    }  # fmt: skip
    vision = {**_ATTEND, "pos_emb_height": 8, "pos_emb_width": 8}
    return transformers.Kimi_K25Config(
        text_config=text, vision_config=vision, projection_hidden_size=16, tie_word_embeddings=False, **_IDS
    )


@dataclass(frozen=True)
class Merged(Grids):
    """The merge size of each video is an argument."""

    timestamps: bool = True
    images: int = 1

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs = super().inputs(*rows, pad=pad)
        for kind in ("image", "video"):
            if f"{kind}_grid_thw" in inputs:
                inputs[f"{kind}_merge_sizes"] = torch.full((len(inputs[f"{kind}_grid_thw"]),), 2)
        if "video_grid_thw" in inputs:
            count = int(inputs["video_grid_thw"].prod(dim=1).sum()) // 4
            inputs["video_compression_mask"] = torch.ones(count, dtype=torch.bool)
        return inputs


def _video_llama_3() -> Any:
    text = {**_TEXT, "model_type": "qwen2", "bos_token_id": 2}
    return transformers.VideoLlama3Config(text_config=text, vision_config=_ATTEND, **_IDS)


@dataclass(frozen=True)
class Glm5(Grids):
    """A video stands at the ids of images, between marks of its own."""

    timestamps: bool = True
    stateful: bool = True
    beams: bool = False
    tolerance: float = 5e-4

    def _video(self, clip: Clip, row: Row, number: int) -> list[int]:
        frames = [IMAGE if token == VIDEO else token for token in super()._video(clip, row, number)]
        return [AUDIO_START, *frames, AUDIO_END]


def _glm5() -> Any:
    text = {
        **_TEXT, **_MOE, "num_key_value_heads": 2, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 16,
        "v_head_dim": 16, "index_topk": 512, "index_head_dim": 16, "index_n_heads": 2, "index_kpool": 4,
        "layer_types": ["linear_attention", "indexed_attention"] * 2, "mlp_layer_types": ["dense", "sparse"] * 2,
        "linear_head_dim": 8, "linear_num_heads": 2, "hc_mult": 2, "hc_sinkhorn_iters": 4,
    }  # fmt: skip
    vision = {**families._VISION, "out_hidden_size": WIDTH, "image_size": 32, "projection_intermediate_size": 24}
    marks = {"image_start_token_id": VISION_START, "image_end_token_id": VISION_END}
    marks |= {"video_start_token_id": AUDIO_START, "video_end_token_id": AUDIO_END}
    return transformers.Glm5NextConfig(text_config=text, vision_config=vision, **_IDS, **marks)


def _qwen4_exp() -> Any:
    text = {
        **families._new_text(**families._HYBRID, **families._MOE), "shared_expert_intermediate_size": 24,
        **families._rope(mrope_interleaved=True, partial_rotary_factor=1.0),
        "layer_types": ["linear_attention", "indexed_attention"] * 2, "ple_layer_ids": [1, 3], "ple_embed_dim": 16,
        "heads_per_ngram": 2, "ngram_vocab_size_base": 61, "hc_count": 2, "hc_lowrank": 8, "split_ngram_parts": 1,
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 512,
        "indexer_compress_ratio": 4,
    }  # fmt: skip
    return transformers.Qwen4ExpConfig(text_config=text, vision_config=families._NEW_VISION, **families._IDS)


@dataclass(frozen=True)
class LlavaVideo(Llava):
    """Square frames without a newline, 2 x 2 tokens behind the class token if the host reads it."""

    side: int = 16
    leading: int = 0

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs = super().inputs(*rows, pad=pad)
        if self.leading and "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"][:, 0]
            inputs.pop("image_sizes")
        return inputs

    def _pixels(self, row: Row, number: int) -> Tensor:
        return super()._pixels(row, number)[..., : self.side, : self.side]

    def _video(self, clip: Clip, row: Row, number: int) -> list[int]:
        return [VIDEO] * ((4 + self.leading) * self._frames(clip))

    def _ids(self, row: Row) -> list[int]:
        count = 4 if self.leading else _image_tokens()
        return Family._ids(self, [Image(1, count) if isinstance(part, Image) else part for part in row])


@functools.cache
def _image_tokens() -> int:
    model = LlavaVideo("llava_next_video", _llava_next_video).model().model
    sizes = torch.tensor([[16, 16]])
    features = model.get_image_features(torch.zeros(1, 2, 3, 16, 16), sizes, return_dict=True).pooler_output
    return len(features[0])


def _llava_next_video() -> Any:
    vision = {**_CLIP, "image_size": 16}
    return transformers.LlavaNextVideoConfig(
        text_config=_LLAMA, vision_config=vision, image_token_index=IMAGE, video_token_index=VIDEO,
        image_grid_pinpoints=[[16, 16]],
    )  # fmt: skip


def _video_llava() -> Any:
    vision = {**_CLIP, "image_size": 8}
    return transformers.VideoLlavaConfig(
        text_config=_LLAMA, vision_config=vision, image_token_index=IMAGE, video_token_index=VIDEO
    )


_RARE = (
    Ernie("ernie4_5_vl_moe", _ernie),
    Chunks("kimi_k25", _kimi),
    Merged("video_llama_3", _video_llama_3),
    Glm5("glm5_next", _glm5),
    Windows("qwen4_exp", _qwen4_exp, timestamps=True, stateful=True, tolerance=5e-4),
    LlavaVideo("llava_next_video", _llava_next_video),
    LlavaVideo("video_llava", _video_llava, side=8, leading=1),
)


def _is_there(family: Family) -> bool:
    """Whether this Transformers has the family."""
    return Version(transformers.__version__) >= Version(adapter_class(family.model_type).release)


OTHERS = {str(family): family for family in (*other_families.OTHERS.values(), *_RARE) if _is_there(family)}
FAMILIES = {**more_families.FAMILIES, **OTHERS}
MOST = [
    pytest.param(family, id=name, marks=pytest.mark.slow if name in OTHERS else ()) for name, family in FAMILIES.items()
]
"""As parameters: families that differ from another in names and sizes are left to the slow tests."""
