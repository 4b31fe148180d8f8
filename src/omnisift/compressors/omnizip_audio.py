"""OmniZip's sound: the most attended tokens of the clip, and even anchors that take in what goes with the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.anchors import anchor_count, best_match, evenly_among
from omnisift.compressors.groups import Scope, group
from omnisift.straight_through import segment_topk
from omnisift.tokens import Modality, TokenStream


@dataclass(frozen=True)
class Sound:
    """What OmniZip keeps of the sound, and what that takes in. All on the device."""

    keep: Tensor
    """[L] bool: dominant tokens and anchors; True for all but sound of chunks."""
    anchor: Tensor
    """[L] bool: the anchors."""
    scores: Tensor
    """[L] float32: attention received over the whole clip; NaN for all but sound of chunks."""

    def shares(self, stream: TokenStream, shapes: ChunkShapes) -> Tensor:
        """[C] float64 on the CPU, in [0, 1]: share of each chunk's sound that is kept; NaN without sound. One sync."""
        sound = (stream.modality == Modality.AUDIO) & (stream.chunk >= 0)
        kept = torch.bincount(stream.chunk[sound & self.keep.cpu()], minlength=len(shapes))
        return kept.double() / shapes.audio


def choose_sound(stream: TokenStream, counts: Counts, contextual: float) -> Sound:
    """Steps 1 and 2 (OmniZip, arXiv 2511.14582): dominant by attention over the clip, then anchors among the rest.

    Published: round((1 - rho_a) N) dominant tokens and c N anchors on top. Here both together are the budget's total
    for the clip, so that c N of it are anchors (at most all but one) and the dominant part is smaller by these.
    """
    device = stream.embeds.device
    groups = group(stream, counts, Scope.CLIP, modality=Modality.AUDIO)
    anchors = anchor_count(groups.size, groups.kept, contextual)
    sound = (groups.index >= 0).to(device)
    scores = torch.where(sound, stream.extras["audio_attention"].to(device).float(), torch.nan)
    dominant = replace(groups, kept=groups.kept - anchors).highest(scores)
    anchor = evenly_among(groups, ~dominant, anchors)
    return Sound(dominant | anchor, anchor, scores)


def consolidate(stream: TokenStream, sound: Sound, members: int) -> tuple[Tensor, Tensor]:
    """[L] int64 and [L] float32 on the device: the anchor that each token joins (-1: none), and its weight.

    Step 3: every dropped token belongs to the anchor most like it (cosine). Of an anchor's tokens the ``members`` most
    like any video token of the clip join, weighted by the softmax of that similarity; the others are dropped. The
    picture is the whole one, before it is cut. Clip by clip, with two device syncs for all.
    """
    device, length = stream.embeds.device, len(stream)
    into, weight = torch.full((length,), -1, device=device), torch.zeros(length, device=device)
    audio, video = ((stream.modality == kind) & (stream.chunk >= 0) for kind in (Modality.AUDIO, Modality.VIDEO))
    dropped, anchor = audio & ~sound.keep.cpu(), audio & sound.anchor.cpu()
    for clip in torch.unique(stream.clip[anchor]).tolist():
        mine, anchors, picture = (_places(part & (stream.clip == clip), device) for part in (dropped, anchor, video))
        if len(mine):
            seen, _ = best_match(stream.embeds, mine, picture)
            _, nearest = best_match(stream.embeds, mine, anchors)
            row = torch.searchsorted(anchors, nearest)
            joins = segment_topk(seen, row, torch.full_like(anchors, members))
            into[mine] = torch.where(joins, nearest, -1)
            weight[mine] = seen.exp()  # cosines: no overflow; `averaged` divides by the sum
    return into, weight


def _places(mask: Tensor, device: torch.device) -> Tensor:
    return torch.nonzero(mask, as_tuple=True)[0].to(device)
