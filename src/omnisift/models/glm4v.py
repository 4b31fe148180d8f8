"""Adapters for GLM-4.1V, 4.5V, 4.6V, 5.3 and GLM-OCR: a video stands at the ids of images, each frame before its time.

Up to GLM-4.6V only ``mm_token_type_ids``, which the processor returns, tell a video from an image. The encoder is
called frame by frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnisift.errors import UnsupportedCall
from omnisift.models.adapter import Prompt
from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.layout import grouped_grids
from omnisift.tokens import Modality

_VIDEO_INPUTS = ("video_grid_thw", "pixel_values_videos")


class Glm4vAdapter(GridAdapter):
    """GLM-4.1V."""

    model_types: ClassVar[frozenset[str]] = frozenset({"glm4v"})
    model_class: ClassVar[str] = "Glm4vForConditionalGeneration"
    is_loaded: ClassVar[bool] = True
    supplies: ClassVar[frozenset[str]] = frozenset()
    times_in_words: ClassVar[bool] = True
    times_behind: ClassVar[bool] = True

    def modality(self, input_ids: Tensor, arguments: Mapping[str, Any] = {}) -> Tensor:
        """Classify the tokens by ``mm_token_type_ids``.

        Raises:
            UnsupportedCall: a video without them.
        """
        # `generate` encodes a video first, and passes neither pixels nor grids on.
        given = [(arguments.get("mm_encoder_outputs") or {}).get("video"), *map(arguments.get, _VIDEO_INPUTS)]
        if arguments.get("mm_token_type_ids") is None and any(value is not None for value in given):
            raise UnsupportedCall("a video without mm_token_type_ids, which tell it from an image: pass them")
        return super().modality(input_ids, arguments)

    def _grids(self, prompt: Prompt) -> Tensor | None:
        """[V, 3] int64; of videos that were encoded frame by frame, the sum of their frames."""
        grids, sizes = super()._grids(prompt), prompt.encoded_sizes
        if grids is None or sizes is None or prompt.tensor("video_grid_thw") is not None:
            return grids
        return grouped_grids(grids, sizes, (prompt.modality == Modality.VIDEO).sum(dim=1))


class Glm4vMoeAdapter(Glm4vAdapter):
    """GLM-4.5V, a mixture of experts."""

    model_types: ClassVar[frozenset[str]] = frozenset({"glm4v_moe"})
    model_class: ClassVar[str] = "Glm4vMoeForConditionalGeneration"


class Glm46vAdapter(Glm4vAdapter):
    """GLM-4.6V."""

    model_types: ClassVar[frozenset[str]] = frozenset({"glm46v"})
    model_class: ClassVar[str] = "Glm46VForConditionalGeneration"


class GlmOcrAdapter(Glm4vAdapter):
    """GLM-OCR."""

    model_types: ClassVar[frozenset[str]] = frozenset({"glm_ocr"})
    model_class: ClassVar[str] = "GlmOcrForConditionalGeneration"


class Glm5NextAdapter(Glm4vAdapter):
    """GLM-5.3 Flash: a video stands between marks of its own, and positions have one row; most layers have a state.

    An index picks pools of the keys that were kept.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"glm5_next"})
    model_class: ClassVar[str] = "Glm5NextForConditionalGeneration"
    is_loaded: ClassVar[bool] = False
    rotary_rows: ClassVar[int] = 1
    supplies: ClassVar[frozenset[str]] = frozenset()

    def modality(self, input_ids: Tensor, arguments: Mapping[str, Any] = {}) -> Tensor:  # noqa: ARG002
        """Classify the tokens as the host does, which reads no ``mm_token_type_ids``."""
        opened = (input_ids == self.config.video_start_token_id).cumsum(dim=1)
        closed = (input_ids == self.config.video_end_token_id).cumsum(dim=1)
        video = (input_ids == self.config.image_token_id) & (opened > closed)
        return torch.where(video, int(Modality.VIDEO), int(Modality.TEXT)).to(torch.int8)
