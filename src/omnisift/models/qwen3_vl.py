"""Adapters for Qwen3-VL, dense and MoE: each frame is a run of tokens behind its time in words.

The temporal rotary id of a frame is its place in the text, not a time. Features of several layers of the vision encoder
enter the first layers of the language model ("deepstack"); those of a merged token are of the token that represents it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.side_inputs import Side

DEEPSTACK: Mapping[str, Side] = {"visual_pos_masks": Side.TOKENS, "deepstack_visual_embeds": Side.MARKED}
"""Which tokens are images and videos, and for each of these one row a layer."""

MAX_CLIP_PIXELS = 25_165_824
"""``longest_edge`` in the video_preprocessor_config.json of Qwen3-VL and Qwen3.5: 12,288 tokens of two images each."""


class Qwen3VLAdapter(GridAdapter):
    """The dense model."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen3_vl"})
    model_class: ClassVar[str] = "Qwen3VLForConditionalGeneration"
    is_loaded: ClassVar[bool] = True
    is_counted: ClassVar[bool] = True
    is_streamed: ClassVar[bool] = True
    side_inputs: ClassVar[Mapping[str, Side]] = DEEPSTACK
    times_in_words: ClassVar[bool] = True
    max_clip_pixels: ClassVar[int | None] = MAX_CLIP_PIXELS


class Qwen3VLMoeAdapter(Qwen3VLAdapter):
    """The mixture of experts."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen3_vl_moe"})
    model_class: ClassVar[str] = "Qwen3VLMoeForConditionalGeneration"
