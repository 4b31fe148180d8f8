"""Adapters for the LLaVA family: a video is one run of square frames, and positions have one row.

The host is told no sizes, so they follow from its configuration and the length of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall
from omnisift.models.adapter import Parts, Prompt
from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.layout import repeated_videos, run_numbers
from omnisift.tokens import Modality


class LlavaOnevisionAdapter(GridAdapter):
    """LLaVA-OneVision, which puts a newline behind each video. That token is of no frame and stays."""

    model_types: ClassVar[frozenset[str]] = frozenset({"llava_onevision"})
    model_class: ClassVar[str] = "LlavaOnevisionForConditionalGeneration"
    is_loaded: ClassVar[bool] = True
    outputs_tokens: ClassVar[bool] = False
    rotary_rows: ClassVar[int] = 1
    geometry: ClassVar[frozenset[str]] = frozenset()
    supplies: ClassVar[frozenset[str]] = frozenset()

    def modality(self, input_ids: Tensor, arguments: Mapping[str, Any] = {}) -> Tensor:
        """Classify the tokens: the last one of each video is text."""
        modality = super().modality(input_ids, arguments)
        video = modality == int(Modality.VIDEO)
        last = video.clone()
        last[:, :-1] &= ~video[:, 1:]
        return modality.masked_fill(last, int(Modality.TEXT))

    @property
    def frame_side(self) -> int:
        """Tokens along one side of a frame: half of the encoder's patches, rounded up."""
        vision = self.config.vision_config
        return math.ceil(int(vision.image_size) // int(vision.patch_size) / 2)

    def _grids(self, prompt: Prompt) -> Tensor:
        """[W, 3] int64: of each run of video tokens, whose frames are squares."""
        run = self.video_runs(prompt)
        sizes, side = torch.bincount(run[(run >= 0) & (prompt.modality == Modality.VIDEO)]), self.frame_side
        if bool((sizes % side**2 != 0).any()):
            raise UnsupportedCall(
                f"a video of {int(sizes.max())} tokens in frames of {side} x {side}: pass what the processor returns"
            )
        return torch.stack([sizes // side**2, torch.full_like(sizes, side), torch.full_like(sizes, side)], dim=1)

    def video_runs(self, prompt: Prompt) -> Tensor:
        """[B, S] int64: number of the video of each token of its run; -1 elsewhere."""
        return run_numbers(prompt.modality == Modality.VIDEO)

    def known_seconds(self, prompt: Prompt, count: int) -> Tensor | None:
        """[W] float32: `Attachment.frame_seconds` of each run; rows that were repeated for beams share it."""
        if prompt.frame_seconds is None:
            return None
        given = len(prompt.frame_seconds)
        run = self.video_runs(prompt)
        runs = torch.tensor([len(torch.unique(row[row >= 0])) for row in run])
        videos = repeated_videos(torch.ones(given, dtype=torch.int64), runs)
        if len(videos) != count:
            raise UnsupportedCall(f"{given} frame_seconds for {count} videos: pass one for each video")
        seconds = super().known_seconds(prompt, given)
        return None if seconds is None else seconds[videos]


class LlavaNextVideoAdapter(LlavaOnevisionAdapter):
    """LLaVA-NeXT-Video: no newline, and patches are pooled."""

    model_types: ClassVar[frozenset[str]] = frozenset({"llava_next_video"})
    model_class: ClassVar[str] = "LlavaNextVideoForConditionalGeneration"
    is_loaded: ClassVar[bool] = False

    def modality(self, input_ids: Tensor, arguments: Mapping[str, Any] = {}) -> Tensor:
        """Classify the tokens by their ids."""
        return GridAdapter.modality(self, input_ids, arguments)

    @property
    def frame_side(self) -> int:
        """Tokens along one side of a frame: the encoder's patches, divided by the stride of the pooling."""
        vision = self.config.vision_config
        return int(vision.image_size) // int(vision.patch_size) // int(self.config.spatial_pool_stride)


class VideoLlavaAdapter(LlavaOnevisionAdapter):
    """Video-LLaVA: each frame begins with the class token of its encoder. It has no place in the frame and stays."""

    model_types: ClassVar[frozenset[str]] = frozenset({"video_llava"})
    model_class: ClassVar[str] = "VideoLlavaForConditionalGeneration"
    is_loaded: ClassVar[bool] = False

    def find_parts(self, model: nn.Module) -> Parts:
        """Return the modules to hook; videos have an encoder of their own."""
        parts = super().find_parts(model)
        core: Any = parts.core
        return replace(parts, vision_encoder=core.video_tower)

    def modality(self, input_ids: Tensor, arguments: Mapping[str, Any] = {}) -> Tensor:
        """Classify the tokens: the first one of each frame is text."""
        modality = GridAdapter.modality(self, input_ids, arguments)
        run = run_numbers(modality == int(Modality.VIDEO))
        flat = run.flatten()
        inside = torch.nonzero(flat >= 0)[:, 0]
        # Rank of a token in its run, and of the run's first token: runs are numbered in their order.
        rank = torch.arange(len(inside)) - torch.searchsorted(flat[inside], flat[inside])
        first = inside[rank % (self.frame_side**2 + 1) == 0]
        modality.view(-1)[first] = int(Modality.TEXT)
        return modality

    def video_runs(self, prompt: Prompt) -> Tensor:
        """[B, S] int64: number of the video of each token, class tokens included; -1 elsewhere."""
        return run_numbers(prompt.input_ids == self.config.video_token_id)

    @property
    def frame_side(self) -> int:
        """Tokens along one side of a frame: the encoder's patches."""
        vision = self.config.vision_config
        return int(vision.image_size) // int(vision.patch_size)
