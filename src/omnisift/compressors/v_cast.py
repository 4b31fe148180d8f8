"""V-CAST: more tokens where the path of the frames bends, and in a frame the unusual and the strong ones."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.frames import Frames, row_cosine
from omnisift.compressors.groups import group
from omnisift.compressors.integer_shares import per_frame
from omnisift.compressors.paired import VideoCompressor
from omnisift.compressors.segment_ops import group_means, softmax_by, strips
from omnisift.tokens import Modality, Selection, TokenStream

TEMPERATURE = 0.7
"""Of the softmax over frames (arXiv 2603.27650): bounds two frames' shares to a ratio of e^(2 / 0.7) = 17."""


class VCastCompressor(VideoCompressor):
    """Curvature-aware budgets (arXiv 2603.27650): one token to every frame, and the rest of the clip's total split by
    the softmax of the frames' curvature; in a frame, distance to its mean plus norm (`Scope.CLIP` in total).

    Deviations. The total is the budget's. What does not fit into a frame is split again by the same weights, where the
    released code gives it away one by one. A frame's weight is multiplied by its size, which matters only where sizes
    differ. A clip of one frame is cut like any other; the released code leaves it whole.
    """

    name: ClassVar[str] = "v_cast"
    idea: ClassVar[str] = "gives frames more where motion bends, keeps unusual and strong patches"
    source: ClassVar[str] = "arXiv 2603.27650"

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Frame budgets by curvature, then the best of every frame."""
        frames = Frames.of(stream)
        means = F.normalize(group_means(stream.embeds, frames.number, len(frames)), dim=-1, eps=1e-6)
        weight = softmax_by(curvature(means, frames.clip) / TEMPERATURE, frames.clip) * frames.size
        shapes = ChunkShapes.of(stream)
        counts = per_frame(counts, shapes, frames.table(weight, len(shapes)), least=1)
        unusual = 1 - row_cosine(stream.embeds, means, frames.number)
        scores = unusual + strength(stream.embeds, frames)
        return Selection(group(stream, counts, modality=Modality.VIDEO).highest(scores), scores)


def curvature(means: Tensor, clip: Tensor) -> Tensor:
    """[F] float32 on the device, in [0, 2]: one minus the cosine of the step to a frame and the step away from it.

    ``means`` [F, D]: the frames' normalised means; ``clip`` [F] int64 on the CPU. 1 at both ends of a clip, and where
    nothing moves.
    """
    bend = torch.ones(len(means), device=means.device)
    if len(means) > 2:
        step = means.diff(dim=0)
        inner = (clip[:-2] == clip[2:]).to(means.device)  # frames are sorted by clip: so is the one between
        bend[1:-1] = torch.where(inner, 1 - F.cosine_similarity(step[:-1], step[1:], dim=-1), 1.0)
    return bend


def strength(embeds: Tensor, frames: Frames) -> Tensor:
    """[L] float32 on the device, in [0, 1]: norm of each video token, from its frame's least to its frame's largest;
    NaN for all others."""
    order = frames.order.to(embeds.device)
    frame = frames.number[frames.order].to(embeds.device)
    norm = torch.zeros(len(order), device=embeds.device)
    for some, tokens in strips(embeds, order):
        norm[some] = torch.linalg.vector_norm(tokens, dim=-1)
    low = torch.full((len(frames),), torch.inf, device=embeds.device).scatter_reduce_(0, frame, norm, reduce="amin")
    high = torch.zeros(len(frames), device=embeds.device).scatter_reduce_(0, frame, norm, reduce="amax")
    result = torch.full((len(embeds),), torch.nan, device=embeds.device)
    result[order] = (norm - low[frame]) / (high - low + 1e-6)[frame]  # equal norms count as 0
    return result
