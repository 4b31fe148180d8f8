"""Qwen2.5-Omni: the Thinker, alone or inside the full model with its speech parts.

Transformers up to 5.20 has ``thinker.{audio_tower, visual, model}`` with the text model as ``model``; from 5.21 on
these are ``thinker.model.{audio_tower, visual, language_model}``. Both are probed, neither is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from omnisift.errors import UnsupportedCall, UnsupportedModel
from omnisift.models.adapter import Adapter, Parts
from omnisift.models.attention_probe import AttentionProbe
from omnisift.models.qwen2_5_omni_attention import CLIP, VIDEO, WINDOW, listeners
from omnisift.models.qwen2_5_omni_speech import Speech
from omnisift.tokens import Modality

if TYPE_CHECKING:
    from omnisift.models.attachment import Attachment


class Qwen25OmniAdapter(Adapter):
    """Positions are 25 ids a second; sound is interleaved with its video; rotary ids have three rows."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen2_5_omni", "qwen2_5_omni_thinker"})
    supplies: ClassVar[frozenset[str]] = frozenset({CLIP, WINDOW, VIDEO})

    def find(self, model: nn.Module) -> Parts:
        """The Thinker's modules in either layout."""
        head: Any = getattr(model, "thinker", model)
        core: Any = head if hasattr(head, "audio_tower") else getattr(head, "model", None)
        language_model = getattr(core, "language_model", None) or getattr(core, "model", None)
        if not hasattr(head, "lm_head") or not hasattr(core, "audio_tower") or language_model is None:
            raise UnsupportedModel(
                f"{type(model).__name__} is a part of Qwen2.5-Omni without a language head: "
                "attach to Qwen2_5OmniThinkerForConditionalGeneration or Qwen2_5OmniForConditionalGeneration"
            )
        self._core = core
        self._talker = getattr(model, "talker", None)
        self._config = head.config
        return Parts(head, core, language_model)

    def modality(self, input_ids: Tensor) -> Tensor:
        """By the placeholder ids of the configuration."""
        found = torch.full_like(input_ids, int(Modality.TEXT), dtype=torch.int8)
        found[input_ids == self._config.video_token_id] = int(Modality.VIDEO)
        found[input_ids == self._config.audio_token_id] = int(Modality.AUDIO)
        return found

    def rotary(self, input_ids: Tensor, real: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """The host's own rule on the whole prompt."""
        if arguments.get("video_grid_thw") is None:
            raise UnsupportedCall("a video without video_grid_thw or rotary position_ids: pass one of them")
        lengths = arguments.get("audio_feature_lengths")
        if arguments.get("feature_attention_mask") is not None:
            lengths = arguments["feature_attention_mask"].sum(dim=-1)
        positions: Tensor = self._core.get_rope_index(
            input_ids,
            image_grid_thw=_on_cpu(arguments.get("image_grid_thw")),
            video_grid_thw=_on_cpu(arguments["video_grid_thw"]),
            attention_mask=real.long(),
            use_audio_in_video=arguments.get("use_audio_in_video") or False,
            audio_seqlens=_on_cpu(lengths),
            second_per_grids=_on_cpu(arguments.get("video_second_per_grid")),
        )[0]
        return positions

    def more_hooks(self, attachment: Attachment) -> list[RemovableHandle]:
        """The talker reads the Thinker's prompt a second time."""
        return [] if self._talker is None else Speech(attachment, self._talker).hooks(self.parts.head)

    def listeners(self, needs: frozenset[str]) -> list[AttentionProbe]:
        """On the last layers of the two encoders."""
        return listeners(self._core, needs)

    @property
    def seconds_per_position(self) -> float:
        """0.04 s in the released models."""
        return 1.0 / float(self._config.position_id_per_seconds)


def _on_cpu(value: Any) -> Any:
    """A tensor is moved to the CPU, where the host's rule runs without waiting for the device at every step."""
    return value.cpu() if isinstance(value, Tensor) else value
