"""Adapter for Qwen2.5-Omni: the Thinker, alone or inside the full model with its speech parts.

Transformers up to 5.20 has ``thinker.{audio_tower, visual, model}`` with the text model as ``model``; from 5.21 on
these are ``thinker.model.{audio_tower, visual, language_model}``. Both layouts are probed, neither is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall, UnsupportedModel
from omnisift.models.adapter import Adapter, HasCut, Parts
from omnisift.models.attention_probe import AttentionProbe
from omnisift.models.own_hooks import OwnHook
from omnisift.models.qwen2_5_omni_attention import AUDIO_CLIP, AUDIO_WINDOW, VIDEO_FRAME, attention_probes
from omnisift.models.qwen2_5_omni_speech import TalkerHooks
from omnisift.tokens import Modality


class Qwen25OmniAdapter(Adapter):
    """25 temporal positions per second, audio interleaved with its video, and three rows of rotary positions."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen2_5_omni", "qwen2_5_omni_thinker"})
    model_class: ClassVar[str] = "Qwen2_5OmniThinkerForConditionalGeneration"
    supplies: ClassVar[frozenset[str]] = frozenset({AUDIO_CLIP, AUDIO_WINDOW, VIDEO_FRAME})

    def find_parts(self, model: nn.Module) -> Parts:
        """Return the Thinker's modules in either layout."""
        # The full model holds the Thinker; the encoders are on the head (up to 5.20) or on its core.
        head: Any = getattr(model, "thinker", model)
        core: Any = head if hasattr(head, "audio_tower") else getattr(head, "model", None)
        language_model = getattr(core, "language_model", getattr(core, "model", None))
        if not hasattr(head, "lm_head") or not hasattr(core, "audio_tower") or language_model is None:
            raise UnsupportedModel(
                f"{type(model).__name__} is a part of Qwen2.5-Omni without a language head: "
                "attach to Qwen2_5OmniThinkerForConditionalGeneration or Qwen2_5OmniForConditionalGeneration"
            )
        self._core = core
        self._talker = getattr(model, "talker", None)
        self._config = head.config
        return Parts(head, core, language_model, getattr(core, "visual", None), core.audio_tower)

    def modality(self, input_ids: Tensor) -> Tensor:
        """Classify tokens by the placeholder ids of the configuration."""
        modality = torch.full_like(input_ids, int(Modality.TEXT), dtype=torch.int8)
        modality[input_ids == self._config.video_token_id] = int(Modality.VIDEO)
        modality[input_ids == self._config.audio_token_id] = int(Modality.AUDIO)
        return modality

    def position_ids(self, input_ids: Tensor, attention_mask: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """Call the host's ``get_rope_index`` for the full prompt."""
        if arguments.get("video_grid_thw") is None:
            raise UnsupportedCall("a video without video_grid_thw or rotary position_ids: pass one of them")
        # As the host does: the mask over mel frames, where there is one, gives the lengths.
        audio_seqlens = arguments.get("audio_feature_lengths")
        if arguments.get("feature_attention_mask") is not None:
            audio_seqlens = arguments["feature_attention_mask"].sum(dim=-1)
        position_ids: Tensor = self._core.get_rope_index(
            input_ids,
            image_grid_thw=_on_cpu(arguments.get("image_grid_thw")),
            video_grid_thw=_on_cpu(arguments["video_grid_thw"]),
            attention_mask=attention_mask.long(),
            use_audio_in_video=arguments.get("use_audio_in_video") or False,
            audio_seqlens=_on_cpu(audio_seqlens),
            second_per_grids=_on_cpu(arguments.get("video_second_per_grid")),
        )[0]
        return position_ids

    def extra_hooks(self, attachment: HasCut) -> list[OwnHook]:
        """Hook the talker, which reads the Thinker's prompt a second time."""
        return [] if self._talker is None else TalkerHooks(attachment, self._talker).register(self.parts.head)

    def attention_probes(self, needs: frozenset[str]) -> list[AttentionProbe]:
        """Return probes of the last layers of the two encoders."""
        return attention_probes(self._core, needs)

    @property
    def seconds_per_position(self) -> float:
        """0.04 s in the released models."""
        return 1.0 / float(self._config.position_id_per_seconds)


def audio_tokens(mel_frames: int) -> int:
    """Number of tokens for a spectrogram of ``mel_frames``: a convolution and a pooling, each of stride two."""
    return max(0, ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1) if mel_frames else 0


def _on_cpu(value: Any) -> Any:
    """Move a tensor to the CPU, where the host's rule runs without waiting for the device at every step."""
    return value.cpu() if isinstance(value, Tensor) else value
