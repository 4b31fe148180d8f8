"""Adapters for hosts of other makers that are built like Qwen3-VL: grids, and three rows of positions.

The attention of their encoders is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.qwen3_vl import DEEPSTACK
from omnisift.models.side_inputs import Side


class CohereCompassAdapter(GridAdapter):
    """Each frame stands behind its time; deepstack. A sliding window counts the tokens that were kept."""

    model_types: ClassVar[frozenset[str]] = frozenset({"cohere_compass"})
    model_class: ClassVar[str] = "CohereCompassForConditionalGeneration"
    side_inputs: ClassVar[Mapping[str, Side]] = DEEPSTACK
    supplies: ClassVar[frozenset[str]] = frozenset()
    times_in_words: ClassVar[bool] = True


class Cosmos3OmniAdapter(GridAdapter):
    """Parts of Qwen3-VL, without audio."""

    model_types: ClassVar[frozenset[str]] = frozenset({"cosmos3_omni"})
    model_class: ClassVar[str] = "Cosmos3OmniForConditionalGeneration"
    side_inputs: ClassVar[Mapping[str, Side]] = DEEPSTACK
    supplies: ClassVar[frozenset[str]] = frozenset()
    times_in_words: ClassVar[bool] = True


class Cosmos3EdgeAdapter(GridAdapter):
    """A frame is one image behind its time."""

    model_types: ClassVar[frozenset[str]] = frozenset({"cosmos3_edge"})
    model_class: ClassVar[str] = "Cosmos3EdgeForConditionalGeneration"
    supplies: ClassVar[frozenset[str]] = frozenset()
    times_in_words: ClassVar[bool] = True


class HunyuanV4Adapter(GridAdapter):
    """A video is one run of tokens. Each row of a frame ends with a newline, which counts as its last column."""

    model_types: ClassVar[frozenset[str]] = frozenset({"hy_v4_vl"})
    model_class: ClassVar[str] = "HYV4VLForConditionalGeneration"
    release: ClassVar[str] = "5.24"
    supplies: ClassVar[frozenset[str]] = frozenset()

    def token_grids(self, patches: Tensor) -> Tensor:
        """[V, 3] int64: frames, rows and columns of tokens, newlines among them."""
        return super().token_grids(patches) + patches.new_tensor([0, 0, 1])


class ErnieVLAdapter(GridAdapter):
    """ERNIE 4.5 VL: two grids make a frame, and text and media have experts of their own."""

    model_types: ClassVar[frozenset[str]] = frozenset({"ernie4_5_vl_moe"})
    model_class: ClassVar[str] = "Ernie4_5_VLMoeForConditionalGeneration"
    side_inputs: ClassVar[Mapping[str, Side]] = {"moe_mm_token_type_ids": Side.TOKENS}
    supplies: ClassVar[frozenset[str]] = frozenset()

    def token_grids(self, patches: Tensor) -> Tensor:
        """[V, 3] int64: frames of ``temporal_merge_size`` grids."""
        merge = int(self.config.vision_config.temporal_merge_size)
        return super().token_grids(patches) // patches.new_tensor([merge, 1, 1])


class Qwen4ExpAdapter(GridAdapter):
    """Qwen4-Exp: some layers look up n-grams of ids and convolve them; they see the neighbours that were kept."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen4_exp"})
    model_class: ClassVar[str] = "Qwen4ExpForConditionalGeneration"
    side_inputs: ClassVar[Mapping[str, Side]] = {"ple_input_ids": Side.TOKENS}
    supplies: ClassVar[frozenset[str]] = frozenset()
    times_in_words: ClassVar[bool] = True
