"""Adapter for Qwen3-Omni: the thinker, alone or inside the full model with its speech parts.

Audio is interleaved frame by frame, 13 tokens a second, and rotary ids are fractions. Features of several layers of the
vision encoder enter the language model as in Qwen3-VL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from omnisift.models.adapter import HasCut, Parts
from omnisift.models.encoder_probes import ChunkedAudioProbe
from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.own_hooks import OwnHook
from omnisift.models.qwen2_5_omni import thinker_parts
from omnisift.models.qwen3_vl import DEEPSTACK
from omnisift.models.side_inputs import Side
from omnisift.models.speech import TalkerHooks


class Qwen3OmniMoeAdapter(GridAdapter):
    """13 temporal positions per second, whose fractions count, and audio interleaved with its video frame by frame."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen3_omni_moe", "qwen3_omni_moe_thinker"})
    model_class: ClassVar[str] = "Qwen3OmniMoeThinkerForConditionalGeneration"
    is_loaded: ClassVar[bool] = True
    is_counted: ClassVar[bool] = True
    is_streamed: ClassVar[bool] = True
    side_inputs: ClassVar[Mapping[str, Side]] = DEEPSTACK
    seconds_argument: ClassVar[str | None] = "video_second_per_grid"
    min_frame_tokens: ClassVar[int] = 128
    audio_probe = ChunkedAudioProbe

    def find_parts(self, model: nn.Module) -> Parts:
        """Return the thinker's modules, in the layout of either release."""
        self._talker: Any = getattr(model, "talker", None)
        return thinker_parts(model, "Qwen3-Omni", "Qwen3OmniMoe")

    @property
    def audio_window(self) -> int | None:
        """Eight seconds in released checkpoints: its attention sees no further."""
        return int(self.config.audio_config.n_window_infer)

    @property
    def audio_chunk(self) -> int | None:
        """One second in released checkpoints: a rest is padded to it, and its last token sees what is behind it."""
        return 2 * int(self.config.audio_config.n_window)

    def audio_tokens(self, mel_frames: int) -> int:
        """Return the number of audio tokens: 13 for each second, which is encoded alone, and an eighth of the rest."""
        seconds, rest = divmod(mel_frames, 100)
        return 13 * seconds + -(-rest // 8)

    def extra_hooks(self, attachment: HasCut) -> list[OwnHook]:
        """Hook the talker as well, which reads the user's turns a second time."""
        hooks = super().extra_hooks(attachment)
        if self._talker is not None:
            layers = 0, int(self._talker.config.accept_hidden_layer)
            hooks += TalkerHooks(attachment, self, self._talker, "talker_input_ids", layers).register()
        return hooks
