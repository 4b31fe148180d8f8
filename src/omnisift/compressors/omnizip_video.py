"""OmniZip's video: how much each chunk keeps, by its audio, and which tokens of its frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.errors import UnreachableBudget
from omnisift.ops.density_peaks import density, separation
from omnisift.ops.frames import Frames, pair_cosine
from omnisift.ops.groups import MAX_ELEMENTS, Groups
from omnisift.ops.integer_shares import allocate
from omnisift.tokens import TokenStream

LOW, HIGH = 0.35, 0.75
"""Published bounds of a chunk's drop rate."""
NOMINAL = 0.6
"""The drop rate of the video as a whole for which the bounds were published."""
NEIGHBOURS = 5
"""k of the density."""


def chunk_totals(counts: Counts, shapes: ChunkShapes, shares: Tensor, rebounded: bool) -> Tensor:
    """Divide each clip's video total over its chunks by the share of audio that they kept (step 4).

    Args:
        counts: kept tokens of every chunk, for the totals.
        shapes: token counts of the chunks.
        shares: [C] float64: kept share of the chunk's audio, NaN without audio.
        rebounded: whether the bounds are scaled around the clip's own drop rate.

    Returns:
        [C] int64 on the CPU: kept video tokens of each chunk.

    Raises:
        UnreachableBudget: a clip's total is below what the bounds allow.
    """
    size, totals = shapes.frame0 + shapes.frame1, counts.frame0 + counts.frame1
    for clip in torch.unique(shapes.clip).tolist():
        in_clip = shapes.clip == clip
        if not bool(shares[in_clip].isnan().all()):
            totals[in_clip] = _clip_totals(totals[in_clip], size[in_clip], shares[in_clip], rebounded)
    return totals


def _clip_totals(nominal: Tensor, size: Tensor, shares: Tensor, rebounded: bool) -> Tensor:
    """Step 4 for one clip: drop rates ``high - (high - low) * share``, shifted to meet the total.

    Published: rates are scaled to the mean, except for the extreme chunks of clips with more than two, clipped, and the
    remainder is spread once, which misses the total by a little. Here each chunk gets its minimum, and what its
    rate gives above that is scaled so that integers meet the total exactly (`allocate`). Bounds are rounded outwards. A
    chunk without audio has the clip's own rate, as published.
    """
    total, tokens = int(nominal.sum()), int(size.sum())
    rho = 1 - total / tokens
    low, high = _rebounded(rho) if rebounded else (LOW, HIGH)
    rate = torch.where(shares.isnan(), rho, high - (high - low) * shares).clamp(low, high)
    # A billionth undoes the error of products such as 100 * (1 - .35).
    minimum = torch.floor(size * (1 - high) + 1e-9).long()
    maximum = torch.ceil(size * (1 - low) - 1e-9).long()
    if total < int(minimum.sum()):
        raise UnreachableBudget(
            f"omnizip can't keep {total} of {tokens} video tokens: it keeps a quarter of every chunk, at least "
            f"{int(minimum.sum())}; raise retain or retain_video, or set rebounded=true"
        )
    if total > int(maximum.sum()):
        return nominal
    return minimum + allocate(size * (1 - rate) - minimum, maximum - minimum, total - int(minimum.sum()))


def _rebounded(rho: float) -> tuple[float, float]:
    """Bounds around ``rho`` that equal the published ones at .6 and stay in [0, 1).

    The lower one keeps its ratio to what is dropped, the upper one its ratio to what is kept.
    """
    return rho * LOW / NOMINAL, 1 - (1 - rho) * (1 - HIGH) / (1 - NOMINAL)


def video_scores(stream: TokenStream) -> Tensor:
    """Score the video tokens (step 5, ISTC).

    First frames: density peaks. Second frames: one minus the cosine with the same place in the first. A second frame
    whose size differs from its first is scored like a first one.

    Returns:
        [L] float32 on the device; the highest are kept. NaN for all but video tokens.
    """
    # Second frames. A step of len(frames) is out of range: first frames have no neighbour here.
    frames = Frames.of(stream)
    first = frames.neighbour(torch.where(frames.cell % 2 == 1, -1, len(frames)))
    scores = 1 - pair_cosine(stream.embeds, first)
    # First frames, and others without a partner.
    alone = torch.where(first < 0, frames.number, -1)
    groups = Groups(alone, torch.zeros(len(frames), dtype=torch.int64))
    widest = int(groups.size.max()) if len(frames) else 1
    # Neither the embeddings of a batch nor its distances exceed MAX_ELEMENTS (or one frame's).
    max_elements = max(1, MAX_ELEMENTS // max(stream.width, widest))
    for window in groups.windows(stream.embeds.device, power=1, max_elements=max_elements):
        peaks = _peaks(stream.embeds[window.index], window.valid)
        scores[window.index[window.valid]] = peaks[window.valid]
    return scores


def _peaks(embeds: Tensor, valid: Tensor) -> Tensor:
    """Density times separation [G, N] float32 of ``embeds`` [G, N, D], by cosine distance."""
    unit = F.normalize(embeds.float(), dim=-1)
    distance = (1 - torch.bmm(unit, unit.transpose(1, 2))).clamp(min=0)
    # A product may differ from its mirror image in the last bit, which would decide between two equal tokens.
    distance = (distance + distance.transpose(1, 2)) / 2
    local_density = density(distance, valid, NEIGHBOURS)
    return local_density * separation(distance, local_density, valid)
