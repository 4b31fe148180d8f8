"""Adapters for Qwen3.5, dense and MoE: prompts of Qwen3-VL, without deepstack.

Most layers of the language model have linear attention with a state, so a dropped token is one that they never read.
"""

from __future__ import annotations

from typing import ClassVar

from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.qwen3_vl import MAX_CLIP_PIXELS


class Qwen35Adapter(GridAdapter):
    """The dense model."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen3_5"})
    model_class: ClassVar[str] = "Qwen3_5ForConditionalGeneration"
    is_loaded: ClassVar[bool] = True
    is_counted: ClassVar[bool] = True
    times_in_words: ClassVar[bool] = True
    max_clip_pixels: ClassVar[int | None] = MAX_CLIP_PIXELS


class Qwen35MoeAdapter(Qwen35Adapter):
    """The mixture of experts."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen3_5_moe"})
    model_class: ClassVar[str] = "Qwen3_5MoeForConditionalGeneration"
