"""Attention probes for the encoders of the Qwen families: the extras that OmniZip, SEATS and VisionZip read.

Encoders return one value for each token of the prompt, in the order in which the host writes their outputs to the
placeholders, so the values here have the host's own order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from omnisift.models.attention_probe import AttentionProbe, ProbedEncoder, received_attention
from omnisift.tokens import Modality

AUDIO_CLIP, AUDIO_WINDOW, VIDEO_FRAME = "audio_attention", "audio_attention_window", "video_attention"
"""Names of the extras: attention received within an audio clip, within two seconds of it, and within a frame."""
MEL_RATE = 100
"""Frames of a spectrogram per second."""
WINDOW_SECONDS = 2
"""In the released Qwen2.5-Omni also the window that the encoder attends within; in Qwen3-Omni that is 8 seconds."""


class AudioProbe(AttentionProbe):
    """Attention received within an audio clip, or within two seconds of it."""

    modality: ClassVar[Modality] = Modality.AUDIO
    output_name: ClassVar[str] = "audio"
    input_name: ClassVar[str] = "input_features"

    @classmethod
    def on(cls, encoder: Any, names: frozenset[str]) -> AudioProbe:
        """A probe of the last layer of an encoder, without hooking anything."""
        attention = encoder.layers[-1].self_attn
        return cls(ProbedEncoder(encoder, attention, attention.q_proj, attention.k_proj), names)

    @abstractmethod
    def steps(self, mel_frames: int) -> int:
        """Return the steps that the encoder's layers have for so many frames of a spectrogram."""

    @abstractmethod
    def tokens(self, values: Tensor, shape: list[int]) -> Tensor:
        """Return one value for each token of clips that have ``shape`` steps, from one value for each step."""

    def read_shape(self, arguments: Mapping[str, Any]) -> list[int]:
        """Return the steps of each clip."""
        frames: list[int] = arguments["feature_lens"].tolist()
        return [self.steps(count) for count in frames]

    def measure(
        self,
        shape: list[int],
        query: Tensor,
        key: Tensor,
        arguments: Mapping[str, Any],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Return one value for each audio token."""
        query, key = (_by_head(side, self.num_heads).transpose(0, 1) for side in (query, key))
        scale, window = query.shape[-1] ** -0.5, self.steps(WINDOW_SECONDS * MEL_RATE)
        spans = {AUDIO_CLIP: shape, AUDIO_WINDOW: list(chain.from_iterable(_windows(steps, window) for steps in shape))}
        return {name: self.tokens(received_attention(query, key, scale, spans[name]), shape) for name in self.names}


class PairedAudioProbe(AudioProbe):
    """The encoder of Qwen2.5-Omni: 50 steps a second, of which each pair is pooled into a token."""

    def steps(self, mel_frames: int) -> int:
        """Return half the frames, rounded up: the convolutions have a stride of two."""
        return (mel_frames + 1) // 2

    def tokens(self, values: Tensor, shape: list[int]) -> Tensor:
        """Return the means of pairs, 25 a second."""
        return pair_means(values, shape)


class ChunkedAudioProbe(AudioProbe):
    """The encoder of Qwen3-Omni: each second becomes 13 steps, and each step a token."""

    def steps(self, mel_frames: int) -> int:
        """Return the steps of all chunks, each of which three convolutions halve, rounding up."""
        encoder: Any = self.probed.encoder
        chunk = 2 * int(encoder.n_window)
        return mel_frames // chunk * _thrice_halved(chunk) + _thrice_halved(mel_frames % chunk)

    def tokens(self, values: Tensor, shape: list[int]) -> Tensor:  # noqa: ARG002
        """Return the values as they are, 13 a second."""
        return values


@dataclass(frozen=True)
class VideoGrids:
    """The videos or images of one run of the vision encoder."""

    sizes: list[list[int]]
    """(time, height, width) of each, in patches."""
    merge_size: int
    """A token is a square of ``merge_size`` x ``merge_size`` patches."""
    order: Tensor | None
    """[N] int64 on the CPU: index of the token at each position inside the encoder; None if it keeps their order."""


class VideoProbe(AttentionProbe):
    """Attention received within one frame, averaged over the patches of each token, in the order of the prompt."""

    modality: ClassVar[Modality] = Modality.VIDEO
    output_name: ClassVar[str] = "video"
    input_name: ClassVar[str] = "pixel_values_videos"

    @classmethod
    def on(cls, encoder: Any, names: frozenset[str]) -> VideoProbe:
        """A probe of the last block of an encoder, without hooking anything."""
        attention = encoder.blocks[-1].attn
        fused: nn.Module | None = getattr(attention, "qkv", None)
        sides = (attention.q, attention.k) if fused is None else (fused, fused)
        return cls(ProbedEncoder(encoder, attention, *sides), names)

    def read_shape(self, arguments: Mapping[str, Any]) -> VideoGrids:
        """Return the grids, and the window order that the encoder may sort their tokens into."""
        encoder: Any = self.probed.encoder
        merge_size, sizes = encoder.spatial_merge_size, arguments["grid_thw"].tolist()
        if getattr(encoder, "window_size", None) is None:
            return VideoGrids(sizes, merge_size, None)
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
        if shape.order is None:
            return {VIDEO_FRAME: tokens}
        order = shape.order.to(tokens.device, non_blocking=True)
        return {VIDEO_FRAME: torch.empty_like(tokens).index_copy_(0, order, tokens)}


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


def _windows(total: int, length: int) -> list[int]:
    """``total`` in parts of ``length``, the last one shorter."""
    return [min(length, total - start) for start in range(0, total, length)]


def _thrice_halved(frames: int) -> int:
    return -(-frames // 8)
