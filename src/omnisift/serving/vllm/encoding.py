"""The encoders' work for the clips of one step of the scheduler: together, in parts of bounded size.

vLLM counts kept tokens when it fills a step, but encoders process all patches of a clip. So a step may hold
1 / retain times as much work as its encoder budget says, and the parts here are limited by tokens before compression.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClipInputs:
    """What the encoders read of n clips, one after the other."""

    patches: Tensor
    """[P, patch values] of all videos."""
    grids: Tensor
    """[n, 3] frames, rows and columns of patches, on the CPU."""
    mel: Tensor
    """[bins, M] of the clips that have audio."""
    mel_lengths: Tensor
    """[n] mel frames of each clip, 0 without audio, on the CPU."""

    def split(self, sizes: Sequence[int]) -> Iterator[ClipInputs]:
        """Return views of ``sizes[0]`` clips, the next ``sizes[1]`` clips, and so on."""
        grids, mel_lengths = torch.split(self.grids, list(sizes)), torch.split(self.mel_lengths, list(sizes))
        patches = torch.split(self.patches, [int(part.prod(dim=1).sum()) for part in grids])
        mel = torch.split(self.mel, [int(part.sum()) for part in mel_lengths], dim=1)
        for values in zip(patches, grids, mel, mel_lengths, strict=True):
            yield ClipInputs(*values)


def encode_clips(
    model: Any, inputs: ClipInputs, tokens: Sequence[int], limit: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Encode clips with one call of each encoder per part.

    A part is encoded when its first clip is asked for, so compress each clip before the next is taken.

    Args:
        model: vLLM's model with its encoders.
        inputs: of all clips.
        tokens: video and audio tokens of each clip before compression.
        limit: the most tokens of a part; a longer clip is a part of its own.

    Yields:
        For each clip its video tokens [V, D], and its audio tokens [A, D] or None.
    """
    for part in inputs.split(part_sizes(tokens, limit)):
        videos = model._process_video_input(
            model._parse_and_validate_video_input(pixel_values_videos=part.patches, video_grid_thw=part.grids)
        )
        lengths = part.mel_lengths[part.mel_lengths > 0]
        audios = iter(
            model._process_audio_input({"input_features": part.mel, "audio_feature_lengths": lengths})
            if len(lengths)
            else ()
        )
        for video, length in zip(videos, part.mel_lengths.tolist(), strict=True):
            yield video, next(audios) if length else None


def part_sizes(tokens: Sequence[int], limit: int) -> list[int]:
    """Return how many consecutive clips each part takes.

    Args:
        tokens: size of each clip.
        limit: the most tokens of a part with more than one clip.
    """
    sizes: list[int] = []
    room = 0
    for count in tokens:
        if not sizes or count > room:
            sizes.append(0)
            room = limit
        sizes[-1] += 1
        room -= count
    return sizes
