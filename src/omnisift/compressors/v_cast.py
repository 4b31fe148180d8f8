"""V-CAST: more budget where the path of the frames bends; within a frame, the unusual and the strong tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.paired import VideoCompressor
from omnisift.ops.frames import Frames
from omnisift.ops.groups import group
from omnisift.ops.integer_shares import per_frame
from omnisift.ops.segments import group_means, softmax_by
from omnisift.ops.similarity import blocks, row_cosine
from omnisift.tokens import Modality, Selection, TokenStream

TEMPERATURE = 0.7
"""Temperature of the softmax over frames (arXiv 2603.27650): the shares of two frames differ by at most
a factor of e^(2 / 0.7) = 17."""
_TINY = 1e-2
"""Range of a frame's norms, relative to the largest, that is not stretched: rounding makes equal norms differ."""


class VCastCompressor(VideoCompressor):
    """Curvature-aware budgets (arXiv 2603.27650).

    Every frame gets one token, and the rest of the clip's total is divided by the softmax of the frames' curvature
    (`Scope.CLIP` in total). Within a frame, the score is the distance to the frame's mean plus the norm.

    Deviations: the total is the budget's. What does not fit into a frame is divided again by the same weights, where
    the released code assigns it one by one. A frame's weight is multiplied by its size, which matters only where
    sizes differ. A clip of one frame is pruned like any other; the released code keeps it in full.
    Norms of a frame that differ by less than a hundredth are not stretched to [0, 1].
    """

    name: ClassVar[str] = "v_cast"
    idea: ClassVar[str] = "gives more budget where motion changes direction, keeps unusual and strong patches"
    source: ClassVar[str] = "arXiv 2603.27650"

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Divide the budget by curvature, then keep the highest scores of every frame.

        See `Compressor.select_video`.
        """
        # Frame budgets: softmax of the curvature of the path of frame means.
        frames = Frames.of(stream)
        means = F.normalize(group_means(stream.embeds, frames.number, len(frames)), dim=-1, eps=1e-6)
        weight = softmax_by(curvature(means, frames.clip) / TEMPERATURE, frames.clip) * frames.size
        shapes = ChunkShapes.of(stream)
        counts = per_frame(counts, shapes, frames.table(weight, len(shapes)), minimum=1)
        # Token scores: distance to the frame's mean plus scaled norm.
        unusual = 1 - row_cosine(stream.embeds, means, frames.number)
        scores = unusual + strength(stream.embeds, frames)
        return Selection(group(stream, counts, modality=Modality.VIDEO).highest(scores), scores)


def curvature(means: Tensor, clip: Tensor) -> Tensor:
    """Compute one minus the cosine of the step to a frame and the step away from it.

    Args:
        means: [F, D], the normalised means of the frames.
        clip: [F] int64 on the CPU: clip of each frame.

    Returns:
        [F] float32 on the device, in [0, 2]; 1 at both ends of a clip and where nothing moves.
    """
    result = torch.ones(len(means), device=means.device)
    if len(means) > 2:
        step = means.diff(dim=0)
        inner = (clip[:-2] == clip[2:]).to(
            means.device, non_blocking=True
        )  # frames are sorted by clip, so the one between is in it too
        result[1:-1] = torch.where(inner, 1 - F.cosine_similarity(step[:-1], step[1:], dim=-1), 1.0)
    return result


def strength(embeds: Tensor, frames: Frames) -> Tensor:
    """Scale the norm of each video token from its frame's smallest (0) to its frame's largest (1).

    Where the norms of a frame differ by less than a hundredth, the largest stays below 1: their order is rounding.

    Args:
        embeds: [L, D].
        frames: the frames of the stream.

    Returns:
        [L] float32 on the device; NaN for all but video tokens.
    """
    order = frames.order.to(embeds.device, non_blocking=True)
    frame = frames.number[frames.order].to(embeds.device, non_blocking=True)
    norm = torch.empty(len(embeds), device=embeds.device)
    for part in blocks(*embeds.shape):
        norm[part] = torch.linalg.vector_norm(embeds[part].float(), dim=-1)
    norm = norm[order]
    low = torch.full((len(frames),), torch.inf, device=embeds.device).scatter_reduce_(0, frame, norm, reduce="amin")
    high = torch.zeros(len(frames), device=embeds.device).scatter_reduce_(0, frame, norm, reduce="amax")
    result = torch.full((len(embeds),), torch.nan, device=embeds.device)
    span = torch.maximum(high - low, _TINY * high) + 1e-6
    result[order] = (norm - low[frame]) / span[frame]  # equal norms become 0
    return result
