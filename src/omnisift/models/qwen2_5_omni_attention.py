"""Attention probes for the encoders of Qwen2.5-Omni: the extras that OmniZip, SEATS and VisionZip read.

Both encoders return one value for each token of the prompt, in the order in which the host writes their outputs to the
placeholders, so the values here have the host's own order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnisift.models.attention_probe import AttentionProbe, ProbedEncoder, received_attention
from omnisift.tokens import Modality

AUDIO_CLIP, AUDIO_WINDOW, VIDEO_FRAME = "audio_attention", "audio_attention_window", "video_attention"
"""Names of the extras: attention received within an audio clip, within two seconds of it, and within a frame."""
WINDOW_STEPS = 100
"""Two seconds at the encoder's 50 steps per second; in the released models also the window that it attends within."""


def attention_probes(core: Any, needs: frozenset[str]) -> list[AttentionProbe]:
    """Return the probes that supply ``needs``, for the two encoders of ``core``."""
    probes: list[AttentionProbe] = []
    if audio_needs := needs & {AUDIO_CLIP, AUDIO_WINDOW}:
        attention = core.audio_tower.layers[-1].self_attn
        probed = ProbedEncoder(core.audio_tower, attention, attention.q_proj, attention.k_proj)
        probes.append(AudioProbe(probed, audio_needs))
    if video_needs := needs & {VIDEO_FRAME}:
        attention = core.visual.blocks[-1].attn
        probes.append(VideoProbe(ProbedEncoder(core.visual, attention, attention.q, attention.k), video_needs))
    return probes


class AudioProbe(AttentionProbe):
    """Attention received at 50 Hz within an audio clip or within two seconds, averaged over pairs of steps.

    The host pools the same pairs into tokens. The encoder itself attends within windows only.
    """

    modality: ClassVar[Modality] = Modality.AUDIO
    output_name: ClassVar[str] = "audio"
    input_name: ClassVar[str] = "input_features"

    def read_shape(self, arguments: Mapping[str, Any]) -> list[int]:
        """Return the steps of each clip: the convolutions halve its mel frames, rounding up."""
        frames: list[int] = arguments["feature_lens"].tolist()
        return [(count + 1) // 2 for count in frames]

    def measure(
        self,
        shape: list[int],
        query: Tensor,
        key: Tensor,
        arguments: Mapping[str, Any],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Return one value for each audio token, 25 per second."""
        query, key = (_by_head(side, self.num_heads).transpose(0, 1) for side in (query, key))
        scale = query.shape[-1] ** -0.5
        spans = {AUDIO_CLIP: shape, AUDIO_WINDOW: [part for steps in shape for part in _windows(steps)]}
        return {name: pair_means(received_attention(query, key, scale, spans[name]), shape) for name in self.names}


@dataclass(frozen=True)
class VideoGrids:
    """The videos or images of one run of the vision encoder."""

    sizes: list[list[int]]
    """(time, height, width) of each, in patches."""
    merge_size: int
    """A token is a square of ``merge_size`` x ``merge_size`` patches."""
    order: Tensor
    """[N] int64 on the CPU: index of the token at each position inside the encoder."""


class VideoProbe(AttentionProbe):
    """Attention received within one frame, averaged over the patches of each token, in the order of the prompt."""

    modality: ClassVar[Modality] = Modality.VIDEO
    output_name: ClassVar[str] = "video"
    input_name: ClassVar[str] = "pixel_values_videos"

    def read_shape(self, arguments: Mapping[str, Any]) -> VideoGrids:
        """Return the grids, and the window order that the encoder sorts their tokens into."""
        encoder: Any = self.probed.encoder
        merge_size, sizes = encoder.spatial_merge_size, arguments["grid_thw"].tolist()
        # The host accepts a prepared order and computes it otherwise.
        order = arguments.get("window_index")
        if order is None or arguments.get("cu_window_seqlens") is None:
            order = window_order(sizes, merge_size, encoder.window_size // encoder.patch_size // merge_size)
        return VideoGrids(sizes, merge_size, order.cpu())

    def matches_prompt(self, shape: VideoGrids, arguments: Mapping[str, Any]) -> bool:
        """Whether the run encoded the prompt's videos: images use the same encoder, before the videos."""
        sizes: list[list[int]] = arguments["video_grid_thw"].tolist()
        return shape.sizes == sizes

    def measure(self, shape: VideoGrids, query: Tensor, key: Tensor, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return one value for each video token."""
        cosine, sine = arguments["position_embeddings"]
        query, key = (rotate(_by_head(side, self.num_heads), cosine, sine).transpose(0, 1) for side in (query, key))
        # Sum within each frame, average over the patches of a token, and undo the window order.
        frames = [height * width for time, height, width in shape.sizes for _ in range(time)]
        patches = received_attention(query, key, query.shape[-1] ** -0.5, frames)
        tokens = patches.view(-1, shape.merge_size**2).mean(dim=1)
        return {
            VIDEO_FRAME: torch.empty_like(tokens).index_copy_(
                0, shape.order.to(tokens.device, non_blocking=True), tokens
            )
        }


def pair_means(steps: Tensor, lengths: list[int]) -> Tensor:
    """[sum(n // 2)]: mean of adjacent pairs in each of ``lengths``; the host makes no token of an odd last step."""
    even = [part[: len(part) // 2 * 2] for part in torch.split(steps, lengths)]
    return torch.cat(even).view(-1, 2).mean(dim=1)


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary positions as the host does: in float32, rounded to the model's dtype.

    Args:
        states: [T, H, d].
        cosine: [T, d].
        sine: [T, d].

    Returns:
        [T, H, d] in the dtype of ``states``.
    """
    exact = states.float()
    lower, upper = exact.chunk(2, dim=-1)
    turned = torch.cat([-upper, lower], dim=-1)
    return (exact * cosine.float().unsqueeze(1) + turned * sine.float().unsqueeze(1)).to(states.dtype)


def window_order(sizes: list[list[int]], merge_size: int, side: int) -> Tensor:
    """Compute the order in which the vision encoder processes tokens.

    Args:
        sizes: (time, height, width) of each grid, in patches.
        merge_size: patches per token along each side.
        side: tokens per window along each side.

    Returns:
        [N] int64: tokens grid by grid, each grid window by window, each window row by row.
    """
    orders, first = [], 0
    for time, height, width in sizes:
        frame, row, column = torch.meshgrid(
            torch.arange(time), torch.arange(height // merge_size), torch.arange(width // merge_size), indexing="ij"
        )
        # The host pads to whole windows and adds one even where none is needed.
        across = width // merge_size // side + 1
        down = height // merge_size // side + 1
        window = (frame * down + row // side) * across + column // side
        orders.append(first + window.flatten().argsort(stable=True))
        first += window.numel()
    return torch.cat(orders)


def _by_head(states: Tensor, num_heads: int) -> Tensor:
    """[T, H, d] from [T, H * d]."""
    return states.view(len(states), num_heads, -1)


def _windows(steps: int) -> list[int]:
    """``steps`` in parts of two seconds, the last one shorter."""
    return [min(WINDOW_STEPS, steps - start) for start in range(0, steps, WINDOW_STEPS)]
