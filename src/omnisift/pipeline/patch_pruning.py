"""Decide by the pixels of frames which tokens the vision encoder encodes; the others never exist."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from omnisift.budget import kept_count
from omnisift.errors import BudgetError, UsageError
from omnisift.utils.parsing import shown

MIN_WINDOWS = 16
"""Windows of a frame below which they are divided: of few windows, the best half holds much that is plain."""
_CHANNELS = 3


class PatchPruner:
    """Choose the places to encode by contrast, detail and change. The choice for a clip is that for its parts.

    The score of a token is their sum, in steps of 8-bit values:

    - *Contrast*: distance of its mean colour from the median of the frame's tokens.
    - *Detail*: mean standard deviation of the pixels of its patches.
    - *Change*: mean distance of the colours of its patches from those in the first frame of the chunk.

    A window, a square of tokens, has the largest score of its tokens in both frames of a chunk, and the same places of
    both frames are encoded.

    Args:
        share: fraction of the tokens of every frame that are encoded at least, in (0, 1].
        side: tokens along one side of a window. It is halved for frames of fewer than `MIN_WINDOWS` windows.

    Raises:
        BudgetError: ``share`` is out of range.
        UsageError: ``side`` is no integer above 0.
    """

    def __init__(self, share: float, side: int = 1) -> None:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise BudgetError(
                f"retain_encoded is the fraction of tokens that are encoded, in (0, 1], got {shown(share)}"
            )
        check_side(side)
        self.share, self.side = share, side

    def places(self, patches: Tensor, grid: Sequence[int], merge: int) -> Tensor:
        """Choose the places of whole chunks, from the beginning of a clip or of a later chunk.

        Args:
            patches: [t * h * w, C] uint8, from `omnisift.pipeline.preparation.lay_out`.
            grid: (t, h, w): time steps, and rows and columns of patches.
            merge: patches along one side of a token.

        Returns:
            [t, rows, columns] bool on the CPU: which tokens are encoded; in every frame at least ``share`` of them,
            and one.
        """
        steps, rows, columns = token_grid(patches, grid, merge)
        side = self.side
        while side > 1 and _count(rows, columns, side) < MIN_WINDOWS:
            side //= 2
        window = window_numbers(rows, columns, side)
        sizes = torch.bincount(window)
        # The largest score in both frames of a chunk, for every window; a single last frame is a chunk of its own.
        scores = _scores(patches, steps, rows * columns)
        first, second = scores[0::2], scores[1::2]
        scores = torch.maximum(first, torch.cat([second, first[len(second) :]]))
        scores = scores.new_zeros(len(first), len(sizes)).scatter_reduce_(1, window.expand_as(scores), scores, "amax")
        # Windows from the highest score on, until there are enough tokens.
        order = scores.sort(dim=1, descending=True, stable=True).indices
        before = sizes[order].cumsum(dim=1) - sizes[order]
        taken = before < max(1, kept_count(rows * columns, self.share))
        chosen = torch.zeros_like(taken).scatter_(1, order, taken)
        return chosen[:, window].repeat_interleave(2, dim=0)[:steps].view(steps, rows, columns)


def window_numbers(rows: int, columns: int, side: int) -> Tensor:
    """[rows * columns] int64: the window of each token, of ``side`` x ``side`` tokens and less at the last edges."""
    across = math.ceil(columns / side)
    return (torch.arange(rows)[:, None] // side * across + torch.arange(columns) // side).flatten()


def _scores(patches: Tensor, steps: int, tokens: int) -> Tensor:
    """[t, tokens] float32 on the CPU: contrast, detail and change."""
    # One frame after the other, which stays in a cache.
    colours, deviations = [], []
    for frame in patches.chunk(steps):
        pixels = frame.view(len(frame), _CHANNELS, -1).float()
        colours.append(pixels.mean(dim=2, keepdim=True))
        deviations.append(torch.linalg.vector_norm(pixels.sub_(colours[-1]), dim=2) / pixels.shape[2] ** 0.5)
    colour, detail = (torch.cat(values).view(steps, tokens, -1, _CHANNELS).cpu() for values in (colours, deviations))
    mean = colour.mean(dim=2)
    contrast = (mean - mean.median(dim=1, keepdim=True).values).norm(dim=2)
    change = torch.zeros(steps, tokens)
    change[1::2] = (colour[1::2] - colour[0::2][: steps // 2]).norm(dim=3).mean(dim=2)
    scores: Tensor = contrast + detail.mean(dim=(2, 3)) + change
    return scores


def token_grid(patches: Tensor, grid: Sequence[int], merge: int) -> tuple[int, int, int]:
    """Time steps, and rows and columns of tokens; `UsageError` if the patches are no bytes of such a grid."""
    steps, height, width = (int(size) for size in grid)
    if patches.dtype != torch.uint8 or len(patches) != steps * height * width or not len(patches):
        got = f"{len(patches)} of {patches.dtype}"
        raise UsageError(f"the grid {list(grid)} needs {steps * height * width} patches of bytes, got {got}")
    return steps, height // merge, width // merge


def _count(rows: int, columns: int, side: int) -> int:
    """Windows of a frame."""
    return math.ceil(rows / side) * math.ceil(columns / side)


def check_side(side: int) -> None:
    """`UsageError` unless ``side`` can be a number of tokens along one side of a window."""
    if type(side) is not int or side < 1:
        raise UsageError(f"side is the number of tokens along one side of a window, got {shown(side)}")
