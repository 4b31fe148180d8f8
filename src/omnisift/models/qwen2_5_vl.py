"""Adapters for Qwen2-VL and Qwen2.5-VL: a video is one run of tokens.

Without ``mm_token_type_ids`` Qwen2.5-VL reads a video with the positions of text, and says nothing; its processor
returns them.
"""

from __future__ import annotations

from typing import ClassVar

from omnisift.models.grid_adapter import GridAdapter


class Qwen25VLAdapter(GridAdapter):
    """Positions in time count seconds."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen2_5_vl"})
    model_class: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
    is_loaded: ClassVar[bool] = True
    is_counted: ClassVar[bool] = True
    is_streamed: ClassVar[bool] = True
    seconds_argument: ClassVar[str | None] = "second_per_grid_ts"
    min_frame_tokens: ClassVar[int] = 4


class Qwen2VLAdapter(GridAdapter):
    """Positions in time count frames."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen2_vl"})
    model_class: ClassVar[str] = "Qwen2VLForConditionalGeneration"
    is_loaded: ClassVar[bool] = True
    is_counted: ClassVar[bool] = True
    is_streamed: ClassVar[bool] = True
    min_frame_tokens: ClassVar[int] = 4
