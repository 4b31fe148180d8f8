"""Adapter for Qwen2.5-Omni: the Thinker, alone or inside the full model with its speech parts.

Transformers up to 5.20 has ``thinker.{audio_tower, visual, model}`` with the text model as ``model``; from 5.21 on
these are ``thinker.model.{audio_tower, visual, language_model}``. Both layouts are probed, neither is assumed.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from omnisift.chunks import MICROSECONDS, index_clips, places_in_clips
from omnisift.errors import UnsupportedCall, UnsupportedModel
from omnisift.models.adapter import HasCut, Parts, Prompt
from omnisift.models.encoder_probes import PairedAudioProbe
from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.host_arguments import read_positions
from omnisift.models.layout import Layout
from omnisift.models.own_hooks import OwnHook
from omnisift.models.speech import TalkerHooks
from omnisift.tokens import Modality


class Qwen25OmniAdapter(GridAdapter):
    """25 temporal positions per second, audio interleaved with its video in turns of two seconds."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen2_5_omni", "qwen2_5_omni_thinker"})
    model_class: ClassVar[str] = "Qwen2_5OmniThinkerForConditionalGeneration"
    is_loaded: ClassVar[bool] = True
    is_counted: ClassVar[bool] = True
    is_streamed: ClassVar[bool] = True
    seconds_argument: ClassVar[str | None] = "video_second_per_grid"
    min_frame_tokens: ClassVar[int] = 128
    audio_probe = PairedAudioProbe

    def find_parts(self, model: nn.Module) -> Parts:
        """Return the Thinker's modules in either layout."""
        self._talker = getattr(model, "talker", None)
        return thinker_parts(model, "Qwen2.5-Omni", "Qwen2_5Omni")

    def layout_without_grids(self, prompt: Prompt) -> Layout:
        """Read clips and times from rotary positions, where the caller passed them."""
        position_ids = read_positions(prompt.arguments.get("position_ids"), *prompt.input_ids.shape)
        if position_ids is None or not _tells_frames(position_ids, prompt.modality):
            raise UnsupportedCall("a video without video_grid_thw or rotary position_ids: pass one of them")
        rows, length = prompt.input_ids.shape
        modality = prompt.modality.flatten()
        sample = torch.arange(rows).repeat_interleave(length)
        clip = index_clips(modality, sample, compress_audio=prompt.compress_audio)
        position = places_in_clips(position_ids[-3:].flatten(1), modality, clip, self.audio_step / MICROSECONDS)
        return Layout(prompt.modality, clip.view(rows, length), position.view(3, rows, length))

    def frame_time(self, frame: Tensor, seconds: Tensor) -> Tensor:
        """Count in whole rotary ids of 40 ms, as the host and the released code of the paper do."""
        ids = (frame.float() * seconds * float(self.config.position_id_per_seconds)).long()
        return (ids * self.audio_step).round().long()

    def extra_hooks(self, attachment: HasCut) -> list[OwnHook]:
        """Hook the talker as well, which reads the Thinker's prompt a second time."""
        hooks = super().extra_hooks(attachment)
        if self._talker is not None:
            hooks += TalkerHooks(attachment, self, self._talker, "input_text_ids", (0, -1)).register()
        return hooks

    @property
    def audio_window(self) -> int | None:
        """Two seconds in released checkpoints."""
        return 2 * int(self.config.audio_config.n_window)

    def audio_tokens(self, mel_frames: int) -> int:
        """Return the number of audio tokens for a spectrogram of ``mel_frames``: about 25 a second."""
        return audio_tokens(mel_frames)


def thinker_parts(model: nn.Module, family: str, prefix: str) -> Parts:
    """Find the modules of a thinker, alone or inside the full model, in either layout.

    Args:
        model: the host.
        family: its name, for the error.
        prefix: of the names of its classes in Transformers.

    Raises:
        UnsupportedModel: ``model`` is another part of the full model.
    """
    # The full model holds the thinker; the encoders are on the head (up to 5.20) or on its core.
    head: Any = getattr(model, "thinker", model)
    core: Any = head if hasattr(head, "audio_tower") else getattr(head, "model", None)
    language_model = getattr(core, "language_model", getattr(core, "model", None))
    if not hasattr(head, "lm_head") or not hasattr(core, "audio_tower") or language_model is None:
        raise UnsupportedModel(
            f"{type(model).__name__} is a part of {family} without a language head: "
            f"attach to {prefix}ThinkerForConditionalGeneration or {prefix}ForConditionalGeneration"
        )
    return Parts(head, core, language_model, getattr(core, "visual", None), core.audio_tower)


def audio_tokens(mel_frames: int) -> int:
    """Number of tokens for a spectrogram of ``mel_frames``: a convolution and a pooling, each of stride two."""
    return max(0, ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1) if mel_frames else 0


def _tells_frames(position_ids: Tensor, modality: Tensor) -> bool:
    """Whether positions [R, B, S] have rows for time, height and width that differ, or one video token only."""
    video = position_ids[-3:, modality == Modality.VIDEO]
    return len(position_ids) >= 3 and (video.shape[1] == 1 or bool((video != video[:1]).any()))
