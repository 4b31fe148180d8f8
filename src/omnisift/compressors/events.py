"""OmniPack's event signals (arXiv 2608.03812): change, detail and curvature of video, change of audio."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.ops.cosine import rounded
from omnisift.ops.frames import MAX_ELEMENTS, Frames, of_modality, pair_cosine
from omnisift.ops.segment_ops import mean_distance
from omnisift.tokens import Modality, TokenStream


def video_events(stream: TokenStream) -> tuple[Tensor, Tensor]:
    """Compute evidence and curvature of the video tokens.

    Evidence is the largest of the cosine distances to the same place in the previous frame, in the next frame, and to
    the mean of the token's own frame. Curvature is the cosine distance between the step from the previous frame and
    the step to the next one. A frame that is missing or of another size counts as no change and no curvature.

    Returns:
        Evidence and curvature, [L] float32 in [0, 2] on the device each; 0 for all but video tokens.
    """
    frames, embeds = Frames.of(stream), stream.embeds.detach()
    previous, following = frames.neighbour(-1), frames.neighbour(1)
    evidence = mean_distance(embeds, frames.number, len(frames))  # NaN outside, which `rounded` makes 0
    for other in (previous, following):
        evidence = torch.maximum(evidence, 1 - pair_cosine(embeds, other, default=1.0))
    return rounded(evidence), _curvature(embeds, previous, following)


def audio_changes(stream: TokenStream) -> Tensor:
    """Compute the change of the audio tokens.

    Returns:
        [L] float32 in [0, 2] on the device: the larger cosine distance to the previous and the next audio token of the
        clip; 0 for all but audio tokens, and where there is no other.
    """
    audio = torch.nonzero(of_modality(stream, Modality.AUDIO), as_tuple=True)[0]
    same_clip = stream.clip[audio[1:]] == stream.clip[audio[:-1]]
    previous, following = torch.full((len(stream),), -1), torch.full((len(stream),), -1)
    previous[audio[1:]] = torch.where(same_clip, audio[:-1], -1)
    following[audio[:-1]] = torch.where(same_clip, audio[1:], -1)
    embeds = stream.embeds.detach()
    similar = (pair_cosine(embeds, other, default=1.0) for other in (previous, following))
    return rounded(1 - torch.minimum(*similar))


def _curvature(embeds: Tensor, previous: Tensor, following: Tensor) -> Tensor:
    """Curvature [L] float32; ``previous`` and ``following`` are token indices on the CPU, -1 for none."""
    curvature = torch.zeros(len(embeds), device=embeds.device)
    between = torch.nonzero((previous >= 0) & (following >= 0), as_tuple=True)[0]
    step = max(1, MAX_ELEMENTS // max(1, embeds.shape[1]))
    for begin in range(0, len(between), step):
        block = between[begin : begin + step]
        old, now, new = (embeds[i.to(embeds.device)].float() for i in (previous[block], block, following[block]))
        curvature[block.to(embeds.device)] = 1 - F.cosine_similarity(now - old, new - now, dim=-1)
    return rounded(curvature)
