"""Adapters for Gemma 4: each frame is a run of tokens behind its time, and the audio of a video follows it.

Positions have one row. A sliding window counts the tokens that were kept, as the cache of its layers does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnisift.errors import UnsupportedCall
from omnisift.models.adapter import Prompt
from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.layout import grouped_grids
from omnisift.models.prompt_cut import PromptCut
from omnisift.models.side_inputs import Side, cut_tokens
from omnisift.tokens import Modality

_MASK_ARGUMENTS = ("cache", "past_key_values")


class Gemma4Adapter(GridAdapter):
    """E2B, E4B and larger models with encoders. A merged token keeps the inputs of every layer that all tokens have."""

    model_types: ClassVar[frozenset[str]] = frozenset({"gemma4"})
    model_class: ClassVar[str] = "Gemma4ForConditionalGeneration"
    attn_implementation: ClassVar[str | None] = None
    outputs_tokens: ClassVar[bool] = False
    rotary_rows: ClassVar[int] = 1
    side_inputs: ClassVar[Mapping[str, Side]] = {"per_layer_inputs": Side.TOKENS}
    geometry: ClassVar[frozenset[str]] = frozenset({"pixel_position_ids"})
    supplies: ClassVar[frozenset[str]] = frozenset()
    audio_apart: ClassVar[bool] = True
    times_in_words: ClassVar[bool] = True
    mask_maker: ClassVar[str] = "create_masks_for_vision_model"
    """The host's own function: the tokens of a frame see each other both ways in layers with a sliding window."""

    @property
    def audio_step(self) -> float:
        """A token is of 40 ms."""
        return 40_000.0

    @property
    def is_causal(self) -> bool:
        """Whether the tokens of a frame see only those before them. In larger models they see each other."""
        return bool(self.config.get_text_config().use_bidirectional_attention != "vision")

    @property
    def _kernel(self) -> int:
        """Patches along one side of a token."""
        return int(self.config.vision_config.pooling_kernel_size)

    def _grids(self, prompt: Prompt) -> Tensor:
        """[V, 3] int64, from the places of the patches."""
        given = prompt.tensor("video_position_ids")
        places = given if given is not None else next(map(prompt.encoded_with, self.geometry))
        if places is None:
            raise UnsupportedCall(
                "a video without video_position_ids: pass them, and attach the compressor before generate encodes"
            )
        # The largest column and row of each frame; padding is at -1.
        sides = (places.amax(dim=1) + 1).flip(1) // self._kernel
        grids = torch.cat([torch.ones_like(sides[:, :1]), sides], dim=1)
        counts = (prompt.modality == Modality.VIDEO).sum(dim=1)
        frames = prompt.tensor("num_frames_per_video")
        sizes = prompt.encoded_sizes
        if sizes is None and frames is not None:
            sizes = [int(part.prod(dim=1).sum()) for part in torch.split(grids, frames.tolist())]
        if sizes is None:
            raise UnsupportedCall("a video without num_frames_per_video: pass it")
        return grouped_grids(grids, sizes, counts)

    def attention_mask(self, prompt: Prompt, cut: PromptCut, arguments: Mapping[str, Any]) -> Any:
        """Return [B, K]; or the masks in which the kept tokens of a frame see each other, where the host has them."""
        mask = super().attention_mask(prompt, cut, arguments)
        text, types = self.config.get_text_config(), prompt.arguments.get("mm_token_type_ids")
        if self.is_causal or types is None:
            return mask
        host: Any = sys.modules[type(self.parts.core).__module__]
        embeds = arguments["inputs_embeds"][:, : cut.width]
        # Number of the frame or image of each token, -1 on others; padding of the cut prompt gets -1 as well.
        blocks = cut_tokens(cut, host.get_block_sequence_ids_for_mask(types, device=embeds.device) + 1) - 1
        caches = {name: arguments[name] for name in _MASK_ARGUMENTS if name in arguments}
        return getattr(host, self.mask_maker)(
            config=text,
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=None,
            block_sequence_ids=blocks,
            **({"cache": None} | caches),
        )


class Gemma4UnifiedAdapter(Gemma4Adapter):
    """The model without encoders: patches of a frame and pieces of the waveform are embedded one by one."""

    model_types: ClassVar[frozenset[str]] = frozenset({"gemma4_unified"})
    model_class: ClassVar[str] = "Gemma4UnifiedForConditionalGeneration"
    side_inputs: ClassVar[Mapping[str, Side]] = {}
    geometry: ClassVar[frozenset[str]] = frozenset({"image_position_ids"})
    mask_maker: ClassVar[str] = "create_masks_for_generate"
    """Here they see each other in all layers."""

    @property
    def _kernel(self) -> int:
        """A patch is a token."""
        return 1
