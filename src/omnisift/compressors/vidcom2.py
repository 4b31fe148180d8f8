"""VidCom2: distinctive frames get more budget, and keep the tokens that differ from video and frame."""

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
from omnisift.ops.segments import add_rows, group_means, softmax_by
from omnisift.ops.similarity import blocks
from omnisift.tokens import Modality, Selection, TokenStream

BANDWIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Bandwidths of the Gaussians whose sum is the similarity."""

TEMPERATURE = 0.01
"""Temperature of the softmax over frames."""


class VidCom2Compressor(VideoCompressor):
    """Video compression commander (arXiv 2505.14454, as in the released code for omni-modal models).

    On the half of the channels that vary least, it measures the similarity of each token to the centre of its clip and
    of its frame. Frames with little similarity to the clip get a larger share of its total (`Scope.CLIP` in total);
    within a frame the least similar tokens are kept. The paper's "video" is a clip here, so that clips of one prompt
    don't change each other.

    Deviations: the released rounding of each frame's share gives another total than the budget's; here the shares are
    weights, and the total is divided by largest remainder. Where frames differ in size, a share is one of the frame's
    tokens.
    """

    name: ClassVar[str] = "vidcom2"
    idea: ClassVar[str] = "keeps patches unlike clip and frame, gives distinctive frames more budget"
    source: ClassVar[str] = "arXiv 2505.14454"

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Divide the budget by uniqueness, then keep the least similar tokens of every frame.

        See `Compressor.select_video`.
        """
        frames = Frames.of(stream)
        to_clip, to_frame = similarities(stream, frames)
        counts = _split(stream, frames, counts, to_clip)
        scores = torch.full((len(stream),), torch.nan, device=stream.embeds.device)
        scores[frames.order.to(scores.device, non_blocking=True)] = -(to_clip + to_frame)
        return Selection(group(stream, counts, modality=Modality.VIDEO).highest(scores), scores)


def adaptive_counts(stream: TokenStream, counts: Counts) -> Counts:
    """Divide each clip's video total over its frames by VidCom2's rule; for other methods (paper table 11).

    Args:
        stream: the tokens of the batch.
        counts: kept tokens of every chunk, for the totals.

    Returns:
        ``counts`` with other numbers for the frames.
    """
    frames = Frames.of(stream)
    return _split(stream, frames, counts, similarities(stream, frames)[0])


def frame_weights(to_clip: Tensor, frames: Frames, retain: Tensor) -> Tensor:
    """Compute the share of each frame's tokens to keep, before it is fitted to the total.

    ``r_t = min(1, R (1 + p_t - 1 / T))``, with p the softmax over the clip's T frames of ``u_t / 0.01``, and ``u_t``
    the negative mean similarity of the frame to the clip.

    Args:
        to_clip: [V], from `similarities`.
        frames: the frames of the stream.
        retain: [F] float64 on the CPU: R, the kept share of the frame's clip.

    Returns:
        [F] float64 on the CPU, in (0, 1].
    """
    # u_t. Summed on the CPU, always in the same order; the budget is needed there anyway.
    frame = frames.number[frames.order]
    total = torch.zeros(len(frames), dtype=torch.float64).index_add_(0, frame, to_clip.cpu().double())
    # p_t and r_t.
    share = softmax_by(-total / frames.size / TEMPERATURE, frames.clip)
    frames_in_clip = torch.bincount(frames.clip)[frames.clip].double()
    return (retain * (1 + share - 1 / frames_in_clip)).clamp(max=1)


def similarities(stream: TokenStream, frames: Frames) -> tuple[Tensor, Tensor]:
    """Compute the similarity of each video token to the centre of its clip and of its frame.

    Centres are means of the normalised tokens, not normalised again. The similarity is the sum over the bandwidths a of
    ``exp(-|x - c|^2 / 2 a)``.

    Args:
        stream: the tokens of the batch.
        frames: its frames.

    Returns:
        Two [V] float32 on the device, in (0, 5], in the order of ``frames.order``.
    """
    embeds = stream.embeds.detach()  # the choice has no gradient
    clip_of_frame = frames.clip.to(stream.embeds.device, non_blocking=True)
    order = frames.order.to(embeds.device, non_blocking=True)
    frame = frames.number[frames.order].to(embeds.device, non_blocking=True)
    clip = clip_of_frame[frame]
    channels = _still_channels(embeds, frames)
    # Centres of frames and clips.
    frame_centre = torch.zeros(len(frames), embeds.shape[1], device=embeds.device)
    for part in blocks(len(order), embeds.shape[1]):
        add_rows(frame_centre, frame[part], F.normalize(embeds[order[part]].float() * channels[clip[part]], dim=-1))
    clip_centre = torch.zeros_like(channels)
    add_rows(clip_centre, clip_of_frame, frame_centre)
    clip_size = torch.zeros(len(clip_centre)).index_add_(0, frames.clip, frames.size.float())
    clip_centre /= clip_size[:, None].to(embeds.device, non_blocking=True)
    frame_centre /= frames.size[:, None].to(embeds.device, non_blocking=True)
    # Similarities to both.
    to_clip, to_frame = torch.empty(2, len(order), device=embeds.device)
    for part in blocks(len(order), embeds.shape[1]):
        unit = F.normalize(embeds[order[part]].float() * channels[clip[part]], dim=-1)
        to_clip[part] = _gaussians(unit - clip_centre[clip[part]])
        to_frame[part] = _gaussians(unit - frame_centre[frame[part]])
    return to_clip, to_frame


def _still_channels(embeds: Tensor, frames: Frames) -> Tensor:
    """1 in the half of the channels that vary least over the clip's video tokens, else 0: [clips, D] float32.

    Of equal variances the first channel counts; an odd half is rounded down.
    """
    clip = frames.clip.repeat_interleave(frames.size)
    group = torch.full((len(embeds),), -1).index_copy_(0, frames.order, clip)
    means = group_means(embeds, group, int(clip.max()) + 1 if len(clip) else 0)
    variation, clip = torch.zeros_like(means), clip.to(embeds.device, non_blocking=True)
    order = frames.order.to(embeds.device, non_blocking=True)
    for part in blocks(len(order), embeds.shape[1]):
        add_rows(variation, clip[part], (embeds[order[part]].float() - means[clip[part]]).square())
    still = torch.sort(variation, dim=1, stable=True).indices[:, : max(1, embeds.shape[1] // 2)]
    return torch.zeros_like(variation).scatter_(1, still, 1.0)


def _gaussians(difference: Tensor) -> Tensor:
    """Sum of Gaussians [n] of the differences [n, D]."""
    square = difference.square().sum(dim=-1)
    return torch.stack([torch.exp(-square / (2 * width)) for width in BANDWIDTHS]).sum(dim=0)


def _split(stream: TokenStream, frames: Frames, counts: Counts, to_clip: Tensor) -> Counts:
    """The clip's total divided over its frames, by `frame_weights` and size."""
    shapes = ChunkShapes.of(stream)
    clips = int(shapes.clip.max()) + 1 if len(shapes) else 0
    kept = torch.zeros(clips, dtype=torch.int64).index_add_(0, shapes.clip, counts.frame0 + counts.frame1)
    tokens = torch.zeros(clips, dtype=torch.int64).index_add_(0, shapes.clip, shapes.frame0 + shapes.frame1)
    retain = (kept.double() / tokens)[frames.clip]
    weight = frame_weights(to_clip, frames, retain) * frames.size
    return per_frame(counts, shapes, frames.table(weight, len(shapes)))
