"""OmniZip's picture: how much each chunk keeps, by its sound, and which tokens of its frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.density_peaks import density, separation
from omnisift.compressors.frames import Frames, pair_cosine
from omnisift.compressors.groups import CELLS, Groups
from omnisift.compressors.integer_shares import allocate
from omnisift.errors import UnreachableBudget
from omnisift.tokens import TokenStream

LOW, HIGH = 0.35, 0.75
"""Published bounds of a chunk's drop rate."""
USUAL = 0.6
"""The drop rate of the whole picture that the bounds were published with."""
NEIGHBOURS = 5
"""k of the density."""


def chunk_totals(counts: Counts, shapes: ChunkShapes, shares: Tensor, rebounded: bool) -> Tensor:
    """[C] int64 on the CPU: video tokens of each chunk that stay; each clip's sum is the budget's.

    ``shares`` [C] float64: share of the chunk's sound that is kept, NaN without sound. Raises `UnreachableBudget` for a
    clip whose total is below what the bounds leave.
    """
    size, found = shapes.frame0 + shapes.frame1, counts.frame0 + counts.frame1
    for clip in torch.unique(shapes.clip).tolist():
        here = shapes.clip == clip
        if not bool(shares[here].isnan().all()):
            found[here] = _clip_totals(found[here], size[here], shares[here], rebounded)
    return found


def _clip_totals(nominal: Tensor, size: Tensor, shares: Tensor, rebounded: bool) -> Tensor:
    """Step 4 for one clip: drop rates ``high - (high - low) * share``, moved to meet the total.

    Published: rates are scaled to the mean, but for the extreme chunks of clips with more than two, clipped, and the
    remainder spread once, which misses the total by a little. Here each chunk has its least for sure, and what it
    wishes above that is scaled so that integers meet the total exactly (`allocate`). Bounds are rounded in favour of
    more room: down for the least, up for the most. A chunk without sound has the clip's own rate, as published.
    """
    total, tokens = int(nominal.sum()), int(size.sum())
    rho = 1 - total / tokens
    low, high = _rebounded(rho) if rebounded else (LOW, HIGH)
    rate = torch.where(shares.isnan(), rho, high - (high - low) * shares).clamp(low, high)
    # A billionth undoes the error of products like 100 * (1 - .35).
    least = torch.floor(size * (1 - high) + 1e-9).long()
    most = torch.ceil(size * (1 - low) - 1e-9).long()
    if total < int(least.sum()):
        raise UnreachableBudget(
            f"omnizip can't keep {total} of {tokens} video tokens: it keeps a quarter of every chunk, at least "
            f"{int(least.sum())}; raise retain or retain_video, or set rebounded=true"
        )
    if total > int(most.sum()):
        return nominal
    return least + allocate(size * (1 - rate) - least, most - least, total - int(least.sum()))


def _rebounded(rho: float) -> tuple[float, float]:
    """Bounds around ``rho`` in [0, 1) as the published ones lie around .6: the lower in the same ratio to what is
    dropped, the upper in the same ratio to what is kept. At .6 they are the published ones, and always in [0, 1)."""
    return rho * LOW / USUAL, 1 - (1 - rho) * (1 - HIGH) / (1 - USUAL)


def picture_scores(stream: TokenStream) -> Tensor:
    """[L] float32 on the device, higher stays; NaN for all but video tokens. Step 5, ISTC.

    First frames: density peaks. Second frames: one minus the cosine with the same place in the first. A second frame
    of another size than its first has no such place and goes like a first one.
    """
    frames = Frames.of(stream)
    # len(frames) leads nowhere: first frames have no neighbour here.
    first = frames.neighbour(torch.where(frames.cell % 2 == 1, -1, len(frames)))
    alone = torch.where(first < 0, frames.number, -1)
    scores = 1 - pair_cosine(stream.embeds, first)
    groups = Groups(alone, torch.zeros(len(frames), dtype=torch.int64))
    widest = int(groups.size.max()) if len(frames) else 1
    # Neither the embeddings of a block nor its distances are more than CELLS numbers (or one frame's).
    cells = max(1, CELLS // max(stream.width, widest))
    for window in groups.windows(stream.embeds.device, power=1, cells=cells):
        peaks = _peaks(stream.embeds[window.place], window.valid)
        scores[window.place[window.valid]] = peaks[window.valid]
    return scores


def _peaks(embeds: Tensor, valid: Tensor) -> Tensor:
    """[G, N] float32: density times separation of ``embeds`` [G, N, D], by cosine distance."""
    unit = F.normalize(embeds.float(), dim=-1)
    distance = (1 - torch.bmm(unit, unit.transpose(1, 2))).clamp(min=0)
    # A product may differ from its mirror image in the last bit, which would decide between two equal tokens.
    distance = (distance + distance.transpose(1, 2)) / 2
    crowd = density(distance, valid, NEIGHBOURS)
    return crowd * separation(distance, crowd, valid)
