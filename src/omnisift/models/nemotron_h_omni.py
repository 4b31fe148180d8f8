"""Adapter for Nemotron-3 Nano Omni: one class is head and core, and a video stands at the ids of images.

A frame is a tubelet of two images, a run of tokens behind its time; the audio of a video follows it. Most layers have a
state. The videos of one call have one size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall, UnsupportedModel
from omnisift.models.adapter import HasCut, Parts, Prompt
from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.host_arguments import bind_arguments
from omnisift.models.own_hooks import OwnHook
from omnisift.tokens import Modality


class NemotronOmniAdapter(GridAdapter):
    """Nano Omni. The sizes of videos that ``generate`` encoded are those that the vision encoder saw last."""

    model_types: ClassVar[frozenset[str]] = frozenset({"nemotron_h_omni"})
    model_class: ClassVar[str] = "NemotronH_Omni_Reasoning_V3"
    release: ClassVar[str] = "5.24"
    rotary_rows: ClassVar[int] = 1
    geometry: ClassVar[frozenset[str]] = frozenset()
    supplies: ClassVar[frozenset[str]] = frozenset()
    audio_apart: ClassVar[bool] = True
    times_in_words: ClassVar[bool] = True

    def __init__(self, model: nn.Module) -> None:
        """Find the parts of ``model``; see `Adapter`."""
        super().__init__(model)
        self._seen: tuple[int, ...] | None = None

    def find_parts(self, model: nn.Module) -> Parts:
        """Return the modules to hook.

        Raises:
            UnsupportedModel: modules are missing, the host can't read its own videos, or it drops tokens of them.
        """
        from transformers import GenerationMixin

        host: Any = model
        if not hasattr(model, "multi_modal_projector"):
            raise UnsupportedModel(
                f"{type(model).__name__} has no language head or no language model: attach to {self.model_class}"
            )
        # Releases whose class does not repeat its videos for beams encode them to one tensor, where they read a tuple.
        if getattr(host, "_expand_multimodal_outputs", None) is None or (
            type(host)._expand_multimodal_outputs is GenerationMixin._expand_multimodal_outputs
        ):
            raise UnsupportedModel(
                f"{type(model).__name__} of this Transformers fails on its own videos, with or without a compressor: "
                f"install Transformers {self.release} or newer"
            )
        if host.config.video_pruning_rate > 0:
            raise UnsupportedModel(
                f"video_pruning_rate is {host.config.video_pruning_rate}, so the model drops tokens itself: set it to "
                "0, and choose the compressor 'evs' for the same method"
            )
        return Parts(model, model, host.language_model, host.vision_model, host.audio_tower)

    def modality(self, input_ids: Tensor, arguments: Mapping[str, Any] = {}) -> Tensor:
        """Classify the tokens: image ids are video in a call with a video, which can't have images too."""
        modality = torch.full_like(input_ids, int(Modality.TEXT), dtype=torch.int8)
        encoded = (arguments.get("mm_encoder_outputs") or {}).get("video")
        if arguments.get("pixel_values_videos") is not None or encoded is not None:
            modality[input_ids == self.config.image_token_id] = int(Modality.VIDEO)
        if self.config.audio_token_id is not None:
            modality[input_ids == self.config.audio_token_id] = int(Modality.AUDIO)
        return modality

    @property
    def audio_step(self) -> float:
        """A token is of eight steps of 10 ms."""
        return 80_000.0

    def _grids(self, prompt: Prompt) -> Tensor:
        """[V, 3] int64: tubelets, rows and columns of tokens of each video."""
        pixels = prompt.arguments.get("pixel_values_videos")
        encoded: Any = (prompt.arguments.get("mm_encoder_outputs") or {}).get("video")
        if pixels is not None:
            videos, sides = self._packed(pixels.shape), pixels.shape[-2:]
        else:
            videos = tuple(encoded.last_hidden_state.shape[:2])
            if self._seen is None or self._seen[0] != videos[0] * videos[1]:
                raise UnsupportedCall(
                    "videos that were encoded before the compressor was attached, or before others: let generate encode"
                )
            sides = self._seen[-2:]
        patch, ratio = int(self.config.vision_config.patch_size), float(self.config.downsample_ratio)
        return torch.tensor([[videos[1], *(int(side // patch * ratio) for side in sides)]] * videos[0])

    def _packed(self, shape: torch.Size) -> tuple[int, int]:
        """Numbers of videos and of tubelets of each. Images of a single video come with four dimensions."""
        if len(shape) == 5:
            return shape[0], shape[1]
        return 1, -(-shape[0] // int(self.config.video_temporal_patch_size))

    def extra_hooks(self, attachment: HasCut) -> list[OwnHook]:  # noqa: ARG002
        """Hear the sizes of videos: the object that ``generate`` hands on is not the encoder's."""
        assert self.parts.vision_encoder is not None
        return [OwnHook.before(self.parts.vision_encoder, self._hear)]

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = bind_arguments(module, args, kwargs)
        if given.get("image_grid_hw") is None:
            self._seen = tuple(given["pixel_values"].shape)
