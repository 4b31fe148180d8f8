"""How much happens at a token: change, detail and turns of the picture; change of the sound (OmniPack, 2608.03812)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.compressors.cosine import rounded
from omnisift.compressors.frames import BLOCK, Frames, of_modality, pair_cosine
from omnisift.compressors.segment_ops import mean_distance
from omnisift.tokens import Modality, TokenStream


def picture_events(stream: TokenStream) -> tuple[Tensor, Tensor]:
    """([L] evidence, [L] curvature), float32 in [0, 2] on the device; 0 for all but video tokens.

    Evidence is the largest of the cosine distances to the same place in the frame before, in the frame after, and to
    the mean of the token's own frame. Curvature is the cosine distance between the step from the frame before and the
    step to the frame after. A frame that is missing, or of another size, changes nothing and turns nowhere.
    """
    frames, embeds = Frames.of(stream), stream.embeds.detach()
    before, after = frames.neighbour(-1), frames.neighbour(1)
    evidence = mean_distance(embeds, frames.number, len(frames))  # NaN outside, which `rounded` makes 0
    for other in (before, after):
        evidence = torch.maximum(evidence, 1 - pair_cosine(embeds, other, default=1.0))
    return rounded(evidence), _curvature(embeds, before, after)


def sound_changes(stream: TokenStream) -> Tensor:
    """[L] float32 in [0, 2] on the device: the larger cosine distance to the audio token before or after it in its
    clip; 0 for all but audio tokens and where there is no other."""
    audio = torch.nonzero(of_modality(stream, Modality.AUDIO), as_tuple=True)[0]
    same = stream.clip[audio[1:]] == stream.clip[audio[:-1]]
    before, after = torch.full((len(stream),), -1), torch.full((len(stream),), -1)
    before[audio[1:]] = torch.where(same, audio[:-1], -1)
    after[audio[:-1]] = torch.where(same, audio[1:], -1)
    embeds = stream.embeds.detach()
    similar = (pair_cosine(embeds, other, default=1.0) for other in (before, after))
    return rounded(1 - torch.minimum(*similar))


def _curvature(embeds: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """[L] float32; ``before`` and ``after`` [L] int64 on the CPU, -1 for none."""
    turn = torch.zeros(len(embeds), device=embeds.device)
    here = torch.nonzero((before >= 0) & (after >= 0), as_tuple=True)[0]
    step = max(1, BLOCK // max(1, embeds.shape[1]))
    for begin in range(0, len(here), step):
        some = here[begin : begin + step]
        old, now, new = (embeds[place.to(embeds.device)].float() for place in (before[some], some, after[some]))
        turn[some.to(embeds.device)] = 1 - F.cosine_similarity(now - old, new - now, dim=-1)
    return rounded(turn)
