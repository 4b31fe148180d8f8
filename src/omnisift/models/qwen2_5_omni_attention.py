"""What the encoders of Qwen2.5-Omni attend to: the extras that OmniZip, SEATS and VisionZip read.

Both encoders put out one value for each token of the prompt, in the order in which the host lays their outputs on the
placeholders, so the order here is the host's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnisift.models.attention_probe import AttentionProbe, Ear
from omnisift.models.received_attention import received
from omnisift.tokens import Modality

CLIP, WINDOW, VIDEO = "audio_attention", "audio_attention_window", "video_attention"
"""Names of the extras."""
WINDOW_STEPS = 100
"""Two seconds: the encoder has 50 steps a second. In the released models also the window that it attends in itself."""


def listeners(core: Any, needs: frozenset[str]) -> list[AttentionProbe]:
    """Those that are needed to supply ``needs``; ``core`` has the two encoders."""
    found: list[AttentionProbe] = []
    if sound := needs & {CLIP, WINDOW}:
        attention = core.audio_tower.layers[-1].self_attn
        found.append(Sound(Ear(core.audio_tower, attention, attention.q_proj, attention.k_proj), sound))
    if picture := needs & {VIDEO}:
        attention = core.visual.blocks[-1].attn
        found.append(Picture(Ear(core.visual, attention, attention.q, attention.k), picture))
    return found


class Sound(AttentionProbe):
    """Attention received at 50 Hz within a whole clip or within two seconds, and its mean over the pairs that the host
    pools into tokens. The encoder itself attends within windows only."""

    modality: ClassVar[Modality] = Modality.AUDIO
    encoded: ClassVar[str] = "audio"
    argument: ClassVar[str] = "input_features"

    def shape(self, arguments: Mapping[str, Any]) -> list[int]:
        """Steps of each audio: the convolutions halve its mel frames, rounding up."""
        frames: list[int] = arguments["feature_lens"].tolist()
        return [(count + 1) // 2 for count in frames]

    def measure(
        self,
        shape: list[int],
        query: Tensor,
        key: Tensor,
        arguments: Mapping[str, Any],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """One value for each audio token, 25 a second."""
        query, key = (_by_head(side, self.heads).transpose(0, 1) for side in (query, key))
        scale = query.shape[-1] ** -0.5
        spans = {CLIP: shape, WINDOW: [part for steps in shape for part in _windows(steps)]}
        return {name: pair_means(received(query, key, scale, spans[name]), shape) for name in self.names}


@dataclass(frozen=True)
class Grids:
    """The videos or images of one run of the vision encoder."""

    sizes: list[list[int]]
    """(time, height, width) of each, in patches."""
    merge: int
    """A token is a square of ``merge`` x ``merge`` patches."""
    order: Tensor
    """[N] int64 on the CPU: which token stands at each place inside the encoder."""


class Picture(AttentionProbe):
    """Attention received within one grid, its mean over the patches of each token, in the order of the prompt."""

    modality: ClassVar[Modality] = Modality.VIDEO
    encoded: ClassVar[str] = "video"
    argument: ClassVar[str] = "pixel_values_videos"

    def shape(self, arguments: Mapping[str, Any]) -> Grids:
        """The grids, and the order by windows that the encoder brings them into."""
        encoder: Any = self.ear.encoder
        merge, sizes = encoder.spatial_merge_size, arguments["grid_thw"].tolist()
        order = arguments.get("window_index")  # the host takes a prepared one too
        if order is None or arguments.get("cu_window_seqlens") is None:
            order = window_order(sizes, merge, encoder.window_size // encoder.patch_size // merge)
        return Grids(sizes, merge, order.cpu())

    def belongs(self, shape: Grids, arguments: Mapping[str, Any]) -> bool:
        """Images go through the same encoder, before the videos."""
        sizes: list[list[int]] = arguments["video_grid_thw"].tolist()
        return shape.sizes == sizes

    def measure(self, shape: Grids, query: Tensor, key: Tensor, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        """One value for each video token."""
        cosine, sine = arguments["position_embeddings"]
        query, key = (rotated(_by_head(side, self.heads), cosine, sine).transpose(0, 1) for side in (query, key))
        grids = [height * width for time, height, width in shape.sizes for _ in range(time)]
        patches = received(query, key, query.shape[-1] ** -0.5, grids)
        tokens = patches.view(-1, shape.merge**2).mean(dim=1)
        return {VIDEO: torch.empty_like(tokens).index_copy_(0, shape.order.to(tokens.device), tokens)}


def pair_means(steps: Tensor, lengths: list[int]) -> Tensor:
    """[sum(n // 2)]: mean of adjacent pairs in each of ``lengths``; the odd last step makes no token in the host."""
    whole = [part[: len(part) // 2 * 2] for part in torch.split(steps, lengths)]
    return torch.cat(whole).view(-1, 2).mean(dim=1)


def rotated(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions as the host applies them: [T, H, d] states by [T, d] in float32, rounded to the model's type."""
    exact = states.float()
    lower, upper = exact.chunk(2, dim=-1)
    turned = torch.cat([-upper, lower], dim=-1)
    return (exact * cosine.float().unsqueeze(1) + turned * sine.float().unsqueeze(1)).to(states.dtype)


def window_order(sizes: list[list[int]], merge: int, side: int) -> Tensor:
    """[N] int64: tokens grid by grid, each grid window by window (``side`` x ``side`` tokens), each window by rows."""
    orders, first = [], 0
    for time, height, width in sizes:
        grid, row, column = torch.meshgrid(
            torch.arange(time), torch.arange(height // merge), torch.arange(width // merge), indexing="ij"
        )
        across = width // merge // side + 1
        down = height // merge // side + 1
        window = (grid * down + row // side) * across + column // side
        orders.append(first + window.flatten().argsort(stable=True))
        first += window.numel()
    return torch.cat(orders)


def _by_head(states: Tensor, heads: int) -> Tensor:
    """[T, H, d] from [T, H * d]."""
    return states.view(len(states), heads, -1)


def _windows(steps: int) -> list[int]:
    """``steps`` in parts of two seconds, the last one shorter."""
    return [min(WINDOW_STEPS, steps - start) for start in range(0, steps, WINDOW_STEPS)]
