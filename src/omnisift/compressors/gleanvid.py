"""GleanVID: more budget for frames with new content, and tokens that add to what earlier frames kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from omnisift.ops.segments import group_means
from omnisift.ops.similarity import blocks, rounded, row_cosine
from omnisift.ops.topk import row_topk
from omnisift.tokens import Modality, Selection, TokenStream

ALPHA_MIN, ALPHA_MAX = 0.2, 0.6
"""Share of a clip's total that is divided evenly: from the most uneven novelty to the most even one."""
SHARPNESS = 4.0
"""tau of the local representativeness."""
RIDGE = 1e-4
"""epsilon: what is added to the diagonal of products, relative to their mean."""
SPAN = 16
"""Frames of a window, after which the basis of the kept tokens starts again; also the most earlier frames that novelty
reads."""
STEPS = 12
"""Lanczos steps for the clip's dominant direction."""
_TINY = RIDGE**0.5
"""Share of a token's length up to which a residual counts as nothing: the ridge leaves about as much."""


class GleanVidCompressor(VideoCompressor):
    """Progressive selection of complementary tokens (arXiv 2609.37042).

    - *Debiasing*: tokens lose the part of their distance to the clip's mean that lies in its dominant direction.
    - *Budget*: the novelty of a place is the length of what the same place in earlier frames does not span, on means of
      2 x 2 tokens. The clip's total is divided evenly and by novelty (`Scope.CLIP` in total), the more by novelty the
      more unevenly it is distributed.
    - *Choice*: frame by frame, the highest sum of two scores that are scaled to [0, 1] in the frame: how much more a
      token is like its 2 x 2 neighbourhood than like its frame, and the length of what the tokens kept in earlier
      frames do not span.

    Deviations from the paper:

    - the basis of the kept tokens starts again every 16 frames: its size and the work per frame stay bounded, and it
      can't come to span everything, after which the second score would be zero. Novelty reads 16 earlier frames, the
      paper all; up to 16 frames both are the same;
    - projections onto kept tokens are those of the paper's formula for novelty, with the ridge 1e-4 on the diagonal,
      instead of a basis from QR, which depends on the order of equal tokens;
    - a residual below a hundredth of the token's length, which the ridge may leave, counts as 0, and smaller
      differences are not stretched: else rounding would decide once everything is spanned;
    - where frames differ in size, the even part is by size. Places are those of the model's grid; frames without a grid
      are one place. Of equal scores the first token is kept.
    """

    name: ClassVar[str] = "gleanvid"
    idea: ClassVar[str] = "gives new content more budget, keeps patches that add to those kept before"
    source: ClassVar[str] = "arXiv 2609.37042"

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Divide the budget by novelty, then select frame by frame. See `Compressor.select_video`."""
        frames, embeds = Frames.of(stream), stream.embeds.detach()
        if not len(frames):
            return Selection(keep=torch.ones(len(stream), dtype=torch.bool, device=embeds.device))
        cells = Cells.of(stream, frames)
        bias = Bias.of(embeds, frames)
        means = group_means(embeds, cells.number, len(cells.frame))
        # Frame budgets by novelty.
        new = novelty(bias.removed(means, frames.clip[cells.frame]), cells.earlier)
        weight = frame_weights(new.cpu() * cells.size, cells.frame, frames)
        shapes = ChunkShapes.of(stream)
        counts = per_frame(counts, shapes, frames.table(weight, len(shapes)))
        # Token scores, frame by frame.
        local = representativeness(embeds, means, cells, frames)
        kept = torch.stack([counts.frame0, counts.frame1], dim=1).flatten()[frames.cell]
        scores = torch.full((len(stream),), torch.nan, device=embeds.device)
        for window in Window.of(frames, kept, embeds.shape[1]):
            index = window.index.to(embeds.device, non_blocking=True)
            valid = window.valid.to(embeds.device, non_blocking=True)
            tokens = bias.removed(embeds[index].float(), window.clip[:, None, None])
            scores[index[valid]] = progressive(tokens, local[index], valid, window.kept)[valid]
        return Selection(group(stream, counts, modality=Modality.VIDEO).highest(scores), scores)


@dataclass(frozen=True)
class Cells:
    """The 2 x 2 neighbourhoods of all frames; on the CPU, from positions alone."""

    number: Tensor
    """[L] int64: cell of each video token; -1 for all other tokens."""
    frame: Tensor
    """[S] int64: frame of each cell."""
    size: Tensor
    """[S] int64: tokens of each cell."""
    earlier: Tensor
    """[SPAN + 1, S] int64: the cell at the same place so many frames earlier in the clip; -1 where there is none."""

    @classmethod
    def of(cls, stream: TokenStream, frames: Frames) -> Cells:
        """Number the cells of ``stream``."""
        number = frames.number[frames.order]
        place = stream.position[1:, frames.order]
        # Rows and columns from the corner of the frame, halved.
        corner = torch.full((2, len(frames)), torch.iinfo(torch.int64).max)
        corner.scatter_reduce_(1, number.expand(2, -1), place, reduce="amin")
        row, column = (place - corner[:, number]) // 2
        spot, spot_of = torch.unique(row * (int(column.max()) + 1) + column, return_inverse=True)
        key, cell, size = torch.unique(number * len(spot) + spot_of, return_inverse=True, return_counts=True)
        frame = key // len(spot)
        table = torch.full((len(frames), len(spot)), -1)
        table.view(-1)[key] = torch.arange(len(key))
        lag = torch.arange(SPAN + 1)[:, None]
        before = torch.where(lag <= frames.rank[frame], frame - lag, -1)
        earlier = torch.where(before >= 0, table[before.clamp(min=0), key % len(spot)], -1)
        result = torch.full((len(stream),), -1).index_copy_(0, frames.order, cell)
        return cls(result, frame, size, earlier)


@dataclass(frozen=True)
class Bias:
    """What tokens of a clip share, on the device."""

    mean: Tensor
    """[clips, D] float32: mean video token of each clip."""
    direction: Tensor
    """[clips, D] float32: the direction in which its tokens vary most, of length 1."""

    @classmethod
    def of(cls, embeds: Tensor, frames: Frames) -> Bias:
        """Measure the clips of a stream, each by itself, so that a batch equals its rows."""
        number = torch.full((len(embeds),), -1)
        number[frames.order] = frames.clip.repeat_interleave(frames.size)
        clips = int(frames.clip.max()) + 1
        mean = group_means(embeds, number, clips)
        order = frames.order.to(embeds.device, non_blocking=True)
        tokens = torch.bincount(number[frames.order], minlength=clips).tolist()
        # Lanczos: the dominant direction is a combination of the basis.
        steps = [lanczos(embeds, index, mean[clip]) for clip, index in enumerate(torch.split(order, tokens))]
        basis, image = (torch.stack(parts) for parts in zip(*steps, strict=True))
        small = torch.nan_to_num(torch.bmm(basis, image.mT), nan=0.0, posinf=0.0, neginf=0.0)
        vectors = torch.linalg.eigh((small + small.mT) / 2).eigenvectors
        return cls(mean, torch.bmm(vectors[:, None, :, -1], basis)[:, 0].float())

    def removed(self, tokens: Tensor, clip: Tensor) -> Tensor:
        """Return ``tokens`` [..., D] without their part in the dominant direction (eq 3).

        Args:
            tokens: [..., D] float32.
            clip: [...] int64 on the CPU, broadcast: clip of each.
        """
        clip = clip.to(tokens.device, non_blocking=True)
        direction = self.direction[clip]
        of_mean = torch.linalg.vecdot(self.mean, self.direction)[clip]
        along: Tensor = torch.linalg.vecdot(tokens, direction) - of_mean
        return tokens - along[..., None] * direction


def lanczos(embeds: Tensor, index: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Make an orthonormal basis that comes close to the directions in which tokens vary most, from a fixed start.

    Args:
        embeds: [L, D].
        index: [n] int64 on the device: the tokens.
        mean: [D] float32.

    Returns:
        The basis Q, [`STEPS`, D] float64, and ``Q X' X`` for the centred tokens X; a row is 0 once nothing is new.
    """
    width = embeds.shape[1]
    vector = torch.randn(width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = vector.to(embeds.device, non_blocking=True)
    basis = torch.zeros(min(STEPS, width), width, dtype=torch.float64, device=embeds.device)
    image, least = torch.zeros_like(basis), 0.0 * vector[0]
    for step in range(len(basis)):
        length = torch.linalg.vector_norm(vector)
        basis[step] = torch.where(length > least, vector / length, 0.0)
        for part in blocks(len(index), width):
            rows = embeds[index[part]].float() - mean
            image[step] += (rows.T @ (rows @ basis[step].float())).double()
        if step == 0:
            least = 1e-9 * torch.linalg.vector_norm(image[0])
        # The next direction is what is new in the image.
        vector = image[step]
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
    return basis, image


def novelty(places: Tensor, earlier: Tensor) -> Tensor:
    """Compute the length of what earlier frames do not span (eq 4 and 11).

    With H the same place in earlier frames, ``G = H H' + epsilon tr(H H') / h I`` and ``b = H z``, that is
    ``sqrt(z z - b' G^-1 b)``.

    Args:
        places: [S, D] float32: mean debiased token of each cell.
        earlier: [SPAN + 1, S] int64 on the CPU, from `Cells`.

    Returns:
        [S] float32 on the device.
    """
    device, history = places.device, earlier.to(places.device, non_blocking=True)
    # Products of each cell with itself and with the same place up to SPAN frames earlier.
    product = torch.zeros(history.shape, dtype=torch.float64, device=device)
    for part in blocks(len(places), places.shape[1]):
        for back in range(len(history)):
            other = history[back, part]
            both = (places[part] * places[other.clamp(min=0)]).sum(dim=1, dtype=torch.float64)
            product[back, part] = torch.where(other >= 0, both, 0.0)
    # G, from the products of each two earlier frames; frames that are missing become rows of the identity.
    step = torch.arange(SPAN, device=device)
    low, lag = torch.minimum(step[:, None], step) + 1, (step[:, None] - step).abs()
    result = torch.empty(len(places), dtype=torch.float64, device=device)
    for part in blocks(len(places), SPAN * SPAN):
        exists = history[1:, part].T >= 0
        both = exists[:, :, None] & exists[:, None, :]
        gram = torch.where(both, product[lag[None], history[:, part].T[:, low].clamp(min=0)], 0.0)
        right = torch.where(exists, product[1:, part].T, 0.0)
        explained = (right * ridge_solve(gram, right[:, :, None], exists)[:, :, 0]).sum(dim=1)
        result[part] = (product[0, part] - explained).clamp(min=0).sqrt()
    return result.float()


def ridge_solve(gram: Tensor, right: Tensor, exists: Tensor) -> Tensor:
    """Solve ``(gram + epsilon tr(gram) / k I) x = right``, where k counts the rows that exist; the others are 0.

    Args:
        gram: [G, K, K] products, 0 in rows and columns that don't exist.
        right: [G, K, M].
        exists: [G, K] bool.
    """
    mean = gram.diagonal(dim1=1, dim2=2).sum(dim=1) / exists.sum(dim=1).clamp(min=1)
    ridge = torch.where(exists & (mean > 0)[:, None], (RIDGE * mean)[:, None], 1.0)
    # Without a check of the result, which would wait for the device.
    factor = torch.linalg.cholesky_ex(gram + torch.diag_embed(ridge)).L
    return torch.cholesky_solve(right, factor)


def frame_weights(new: Tensor, frame: Tensor, frames: Frames) -> Tensor:
    """Compute each frame's share of its clip's total (eq 5-7).

    Args:
        new: [S] on the CPU: novelty of each cell, times its tokens.
        frame: [S] int64: frame of each cell.
        frames: the frames of the stream.

    Returns:
        [F] float64 >= 0, of sum 1 over a clip.
    """
    total = torch.zeros(len(frames), dtype=torch.float64)
    total.index_add_(0, frame, torch.nan_to_num(new.double(), nan=0.0, posinf=0.0))
    weight = torch.zeros_like(total)
    for clip in torch.unique(frames.clip).tolist():
        mine = frames.clip == clip
        amount, size = total[mine], frames.size[mine].double()
        even = size / size.sum()
        share = amount / amount.sum() if amount.sum() > 0 else even
        rank = torch.arange(1, len(amount) + 1)
        gini = float(2 * (rank * share.sort().values).sum() / len(amount) - (len(amount) + 1) / len(amount))
        alpha = ALPHA_MAX - (ALPHA_MAX - ALPHA_MIN) * gini
        weight[mine] = alpha * even + (1 - alpha) * rounded(share)
    return weight


def representativeness(embeds: Tensor, means: Tensor, cells: Cells, frames: Frames) -> Tensor:
    """Compute how much more a token is like its neighbourhood than like its frame (eq 8).

    Returns:
        [L] float32 > 0 on the device; not meant to be read for all but video tokens.
    """
    near = rounded(row_cosine(embeds, means, cells.number))
    frame = rounded(row_cosine(embeds, group_means(embeds, frames.number, len(frames)), frames.number))
    return F.softplus(SHARPNESS * (near - frame)) / SHARPNESS


@dataclass(frozen=True)
class Window:
    """Up to `SPAN` frames each of some clips, padded; on the CPU."""

    index: Tensor
    """[G, W, N] int64: token indices in the stream."""
    valid: Tensor
    """[G, W, N] bool, False on padding."""
    kept: Tensor
    """[G, W] int64: kept tokens of each frame."""
    clip: Tensor
    """[G] int64."""

    @classmethod
    def of(cls, frames: Frames, kept: Tensor, width: int) -> Iterator[Window]:
        """Yield all windows in batches of bounded size, or one at a time.

        Args:
            frames: the frames of the stream.
            kept: [F] int64: kept tokens of each frame.
            width: D.
        """
        slot = frames.rank % SPAN
        number = torch.cumsum(slot == 0, dim=0) - 1
        table = torch.full((int(number[-1]) + 1, SPAN), -1)
        table[number, slot] = torch.arange(len(frames))
        column = torch.arange(int(frames.size.max()))
        for part in blocks(len(table), SPAN * len(column) * width):
            some = table[part, : int((table[part] >= 0).sum(dim=1).max())]
            frame = some.clamp(min=0)
            valid = (some >= 0)[:, :, None] & (column < frames.size[frame][:, :, None])
            index = frames.order[torch.where(valid, frames.start[frame][:, :, None] + column, 0)]
            yield cls(index, valid, torch.where(some >= 0, kept[frame], 0), frames.clip[some[:, 0]])


def progressive(tokens: Tensor, local: Tensor, valid: Tensor, kept: Tensor) -> Tensor:
    """Score the tokens of each frame by representativeness and by what the kept tokens before do not span (eq 9-10).

    Args:
        tokens: [G, W, N, D] float32: debiased tokens; changed in place.
        local: [G, W, N] float32: representativeness.
        valid: [G, W, N] bool, False on padding.
        kept: [G, W] int64 on the CPU: kept tokens of each frame.

    Returns:
        [G, W, N] float32 in [0, 2].
    """
    tokens.masked_fill_(~valid[..., None], 0.0)
    length = torch.linalg.vector_norm(tokens, dim=-1)
    largest = length.amax(dim=2, keepdim=True).clamp(min=1e-30)
    count, scores = kept.to(tokens.device, non_blocking=True), torch.zeros_like(local)
    for step in range(tokens.shape[1]):
        here = valid[:, step]
        left = torch.linalg.vector_norm(tokens[:, step], dim=-1)
        beyond = (left - _TINY * length[:, step]).clamp(min=0)
        scores[:, step] = _scaled(local[:, step], here) + _scaled(rounded(beyond / largest[:, step]), here)
        most = int(kept[:, step].max())
        if most and step + 1 < tokens.shape[1]:
            chosen = row_topk(rounded(scores[:, step]), count[:, step], here)
            column = torch.argsort((~chosen).byte(), dim=1, stable=True)[:, :most]
            exists = (chosen & (beyond > 0)).gather(1, column)
            rows = tokens[:, step].gather(1, column[..., None].expand(-1, -1, tokens.shape[3]))
            _deflate(tokens[:, step + 1 :], rows.masked_fill_(~exists[..., None], 0.0), exists)
    return rounded(scores)


def _scaled(values: Tensor, valid: Tensor) -> Tensor:
    """Values [G, N] scaled to [0, 1]; differences below `_TINY` are not stretched to it. 0 on padding."""
    low = values.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
    high = values.masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True)
    return ((values - low) / (high - low).clamp(min=_TINY)).masked_fill(~valid, 0.0)


def _deflate(tokens: Tensor, rows: Tensor, exists: Tensor) -> None:
    """Remove from ``tokens`` [G, W, N, D], in place, what ``rows`` [G, K, D] span; rows that don't exist are 0."""
    rest = tokens.flatten(1, 2)  # a view, also of the last frames of a window
    weight = ridge_solve(torch.bmm(rows, rows.mT), torch.bmm(rows, rest.mT), exists)
    rest.baddbmm_(weight.mT, rows, alpha=-1)
