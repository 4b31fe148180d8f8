"""OmniZip's audio: the most attended tokens of the clip, and evenly spaced anchors that others are merged into."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.ops.contextual_anchors import anchor_count, best_match, evenly_among
from omnisift.ops.groups import Scope, group
from omnisift.ops.topk import segment_topk
from omnisift.tokens import Modality, TokenStream


@dataclass(frozen=True)
class KeptAudio:
    """The audio that OmniZip keeps. All on the device."""

    keep: Tensor
    """[L] bool: dominant tokens and anchors; True for all but the audio of chunks."""
    anchor: Tensor
    """[L] bool: the anchors."""
    scores: Tensor
    """[L] float32: attention received within the clip; NaN for all but the audio of chunks."""

    def shares(self, stream: TokenStream, shapes: ChunkShapes) -> Tensor:
        """Return the kept share of each chunk's audio, [C] float64 on the CPU; NaN without audio. One device sync."""
        audio = (stream.modality == Modality.AUDIO) & (stream.chunk >= 0)
        kept = torch.bincount(stream.chunk[audio & self.keep.cpu()], minlength=len(shapes))
        return kept.double() / shapes.audio


def choose_audio(stream: TokenStream, counts: Counts, contextual: float) -> KeptAudio:
    """Choose dominant tokens by attention over the clip, then anchors among the rest (steps 1 and 2).

    Published: round((1 - rho_a) N) dominant tokens, and c N anchors on top. Here both together are the budget's total
    for the clip, so c N of it are anchors (at most all but one), and there are fewer dominant tokens by that number.

    Args:
        stream: a stream with the extra ``audio_attention``.
        counts: kept tokens of every chunk.
        contextual: c, the share of the audio tokens that become anchors.

    Returns:
        The kept audio.
    """
    device = stream.embeds.device
    groups = group(stream, counts, Scope.CLIP, modality=Modality.AUDIO)
    anchors = anchor_count(groups.size, groups.kept, contextual)
    audio = (groups.group >= 0).to(device)
    # Step 1: the most attended tokens.
    scores = torch.where(audio, stream.extras["audio_attention"].to(device).float(), torch.nan)
    dominant = replace(groups, kept=groups.kept - anchors).highest(scores)
    # Step 2: evenly spaced tokens among the others.
    anchor = evenly_among(groups, ~dominant, anchors)
    return KeptAudio(dominant | anchor, anchor, scores)


def consolidate(stream: TokenStream, kept_audio: KeptAudio, members: int) -> tuple[Tensor, Tensor]:
    """Assign dropped audio tokens to anchors (step 3).

    Every dropped token belongs to its most similar anchor (cosine). Of an anchor's tokens, the ``members`` most similar
    to any video token of the clip join it, weighted by the softmax of that similarity; the others are dropped. The
    video is the unpruned one. Runs clip by clip, with two device syncs in all.

    Args:
        stream: the tokens of the batch.
        kept_audio: from `choose_audio`.
        members: tokens that join each anchor.

    Returns:
        The anchor that each token joins, [L] int64 on the device (-1: none), and its weight, [L] float32.
    """
    device, length = stream.embeds.device, len(stream)
    into, weight = torch.full((length,), -1, device=device), torch.zeros(length, device=device)
    audio, video = ((stream.modality == kind) & (stream.chunk >= 0) for kind in (Modality.AUDIO, Modality.VIDEO))
    dropped, anchor = audio & ~kept_audio.keep.cpu(), audio & kept_audio.anchor.cpu()
    for clip in torch.unique(stream.clip[anchor]).tolist():
        in_clip = (_indices(tokens & (stream.clip == clip), device) for tokens in (dropped, anchor, video))
        tokens, anchors, video_tokens = in_clip
        if len(tokens):
            similarity, _ = best_match(stream.embeds, tokens, video_tokens)
            _, nearest = best_match(stream.embeds, tokens, anchors)
            # The best members of each anchor join it.
            row = torch.searchsorted(anchors, nearest)
            joins = segment_topk(similarity, row, torch.full_like(anchors, members))
            into[tokens] = torch.where(joins, nearest, -1)
            weight[tokens] = similarity.exp()  # cosines: no overflow; `averaged` divides by the sum
    return into, weight


def _indices(mask: Tensor, device: torch.device) -> Tensor:
    return torch.nonzero(mask, as_tuple=True)[0].to(device)
