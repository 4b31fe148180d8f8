"""A learned score for the picture, in STVP's place: which patches the full-token model itself would look at.

It sees what STVP sees and nothing else: a patch, its frame's mean, and its place in the other frame of the chunk. Our
addition to the paper; taught without labels (docs/distill.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 256


class VideoScore(nn.Module):
    """Scores video tokens chunk by chunk. 1,117,441 parameters at width 3584."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, HIDDEN)
        self.token_norm = nn.LayerNorm(HIDDEN)
        self.mean_norm = nn.LayerNorm(HIDDEN)
        self.other_norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Sequential(nn.Linear(3 * HIDDEN + 4, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))

    def forward(
        self, first: Tensor, second: Tensor | None, valid: Tensor | None = None, alike: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [C, P] of the tokens of the first and of the second frame of C chunks, float32, higher stays.

        ``first``, ``second`` [C, P, D]; without ``second`` its logits are None. ``valid`` [C, P] bool where frames are
        padded; padding gets logits that mean nothing. ``alike`` [C] bool: in which chunks both frames are of one size
        (None: in all); elsewhere a frame is scored by itself.
        """
        dtype = self.proj.weight.dtype
        first = first.to(dtype)
        if second is None:
            return self._logits(first, first, torch.zeros_like(first[:, 0, 0]), valid, 0.0), None
        second = second.to(dtype)
        paired = torch.ones_like(first[:, 0, 0]) if alike is None else alike.to(dtype)
        before = self._logits(first, second, paired, valid, 0.0)
        return before, self._logits(second, first, paired, valid, 1.0)

    def similarities(
        self, first: Tensor, second: Tensor | None, valid: Tensor | None = None, alike: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `forward`, but in (0, 1) and low stays: STVP's cosines, so that the rest of the method need not know."""
        before, after = self(first, second, valid, alike)
        return torch.sigmoid(-before), None if after is None else torch.sigmoid(-after)

    def _logits(self, frame: Tensor, other: Tensor, paired: Tensor, valid: Tensor | None, second: float) -> Tensor:
        """[C, P]; ``paired`` [C] is 0 where ``other`` must not be looked at."""
        weight = torch.ones_like(frame[..., 0]) if valid is None else valid.to(frame.dtype)
        mean = (weight[..., None] * frame).sum(1, keepdim=True) / weight.sum(1).clamp(min=1)[:, None, None]
        there = paired[:, None].expand_as(weight)
        change = (1 - F.cosine_similarity(frame, other, dim=-1)) * there
        unlike = 1 - F.cosine_similarity(frame, mean, dim=-1)
        token = self.proj(frame)
        moved = (token - self.proj(other)) * there[..., None]
        plain = torch.stack([unlike, change, there, torch.full_like(there, second)], dim=-1)
        parts = [self.token_norm(token), self.mean_norm(token - self.proj(mean)), self.other_norm(moved), plain]
        logits: Tensor = self.head(torch.cat(parts, dim=-1)).squeeze(-1)
        return logits.float()
