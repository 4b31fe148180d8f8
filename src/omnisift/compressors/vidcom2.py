"""VidCom2: frames unlike the video get more, and in a frame those tokens stay that are unlike video and frame."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.frames import Frames
from omnisift.compressors.groups import group
from omnisift.compressors.integer_shares import per_frame
from omnisift.compressors.merging import add_rows
from omnisift.compressors.paired import VideoCompressor
from omnisift.compressors.segment_ops import group_means, softmax_by, strips
from omnisift.tokens import Modality, Selection, TokenStream

BANDWIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Of the Gaussians that are summed to one similarity."""

TEMPERATURE = 0.01
"""Of the softmax over frames."""


class VidCom2Compressor(VideoCompressor):
    """Video compression commander (arXiv 2505.14454, rules as in the released code for omni models).

    On the half of the channels that vary least: similarity of each token to the clip's centre and to its frame's;
    frames little like the clip get a larger share of its total (`Scope.CLIP` in total); in a frame the least similar
    stay. "The video" of the paper is a clip here, so that clips of one prompt don't change each other.

    Deviations: the released rounding of every frame's share gives another total than the budget's; here the shares are
    weights, and the total is split by largest remainder. Where frames differ in size, a share is one of the frame's
    tokens.
    """

    name: ClassVar[str] = "vidcom2"
    idea: ClassVar[str] = "keeps patches unlike clip and frame, gives more to unlike frames"
    source: ClassVar[str] = "arXiv 2505.14454"

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Frame budgets by uniqueness, then the least similar of every frame."""
        frames = Frames.of(stream)
        to_clip, to_frame = likeness(stream, frames)
        counts = _split(stream, frames, counts, to_clip)
        scores = torch.full((len(stream),), torch.nan, device=stream.embeds.device)
        scores[frames.order.to(scores.device)] = -(to_clip + to_frame)
        return Selection(group(stream, counts, modality=Modality.VIDEO).highest(scores), scores)


def adaptive_counts(stream: TokenStream, counts: Counts) -> Counts:
    """``counts`` with each clip's video total split over its frames by VidCom2's rule; for other methods."""
    frames = Frames.of(stream)
    return _split(stream, frames, counts, likeness(stream, frames)[0])


def frame_weights(to_clip: Tensor, frames: Frames, retain: Tensor) -> Tensor:
    """[F] float64 on the CPU, in (0, 1]: share of each frame's tokens to keep, before it meets the total.

    ``r_t = min(1, R (1 + p_t - 1 / T))`` with p the softmax over the clip's T frames of ``u_t / 0.01``, and ``u_t``
    minus the mean of ``to_clip`` [V] (of `likeness`). ``retain`` [F] float64 on the CPU: R, the kept share of the
    frame's clip.
    """
    # Summed on the CPU: always in the same order, and the budget is needed there anyway.
    frame = frames.number[frames.order]
    total = torch.zeros(len(frames), dtype=torch.float64).index_add_(0, frame, to_clip.cpu().double())
    share = softmax_by(-total / frames.size / TEMPERATURE, frames.clip)
    frames_in_clip = torch.bincount(frames.clip)[frames.clip].double()
    return (retain * (1 + share - 1 / frames_in_clip)).clamp(max=1)


def likeness(stream: TokenStream, frames: Frames) -> tuple[Tensor, Tensor]:
    """[V] float32 each on the device, in (0, 5], in the order of ``frames.order``: similarity of each video token to
    its clip's centre and to its frame's.

    Centres are means of the normalised tokens; neither is normalised again. The similarity is the sum over the
    bandwidths a of ``exp(-|x - c|^2 / 2 a)``.
    """
    embeds, clip_of_frame = stream.embeds, frames.clip.to(stream.embeds.device)
    order = frames.order.to(embeds.device)
    frame = frames.number[frames.order].to(embeds.device)
    clip = clip_of_frame[frame]
    channels = _still_channels(embeds, frames)
    centre = torch.zeros(len(frames), embeds.shape[1], device=embeds.device)
    for some, tokens in strips(embeds, order):
        add_rows(centre, frame[some], F.normalize(tokens * channels[clip[some]], dim=-1))
    whole = torch.zeros_like(channels)
    add_rows(whole, clip_of_frame, centre)
    whole /= torch.zeros(len(whole)).index_add_(0, frames.clip, frames.size.float())[:, None].to(embeds.device)
    centre /= frames.size[:, None].to(embeds.device)
    to_clip, to_frame = torch.empty(2, len(order), device=embeds.device)
    for some, tokens in strips(embeds, order):
        normal = F.normalize(tokens * channels[clip[some]], dim=-1)
        to_clip[some] = _gaussians(normal - whole[clip[some]])
        to_frame[some] = _gaussians(normal - centre[frame[some]])
    return to_clip, to_frame


def _still_channels(embeds: Tensor, frames: Frames) -> Tensor:
    """[clips, D] float32: 1 in the half of the channels whose variance over the clip's video tokens is least, else 0.

    Ties go to the first channel; an odd half is rounded down.
    """
    clip = frames.clip.repeat_interleave(frames.size)
    index = torch.full((len(embeds),), -1).index_copy_(0, frames.order, clip)
    means = group_means(embeds, index, int(clip.max()) + 1 if len(clip) else 0)
    spread, clip = torch.zeros_like(means), clip.to(embeds.device)
    for some, tokens in strips(embeds, frames.order.to(embeds.device)):
        add_rows(spread, clip[some], (tokens - means[clip[some]]).square())
    still = torch.sort(spread, dim=1, stable=True).indices[:, : max(1, embeds.shape[1] // 2)]
    return torch.zeros_like(spread).scatter_(1, still, 1.0)


def _gaussians(away: Tensor) -> Tensor:
    """[n] from the differences [n, D]."""
    square = away.square().sum(dim=-1)
    return torch.stack([torch.exp(-square / (2 * width)) for width in BANDWIDTHS]).sum(dim=0)


def _split(stream: TokenStream, frames: Frames, counts: Counts, to_clip: Tensor) -> Counts:
    """The clip's total over its frames, by `frame_weights` and size."""
    shapes = ChunkShapes.of(stream)
    clips = int(shapes.clip.max()) + 1 if len(shapes) else 0
    kept = torch.zeros(clips, dtype=torch.int64).index_add_(0, shapes.clip, counts.frame0 + counts.frame1)
    tokens = torch.zeros(clips, dtype=torch.int64).index_add_(0, shapes.clip, shapes.frame0 + shapes.frame1)
    retain = (kept.double() / tokens)[frames.clip]
    weight = frame_weights(to_clip, frames, retain) * frames.size
    return per_frame(counts, shapes, frames.table(weight, len(shapes)))
