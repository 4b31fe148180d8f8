"""A learned score for video tokens, in place of STVP: which patches the full-token model itself attends to.

Not in the paper. It reads what STVP reads (a patch, the mean of its frame, and the same place in the other frame of
the chunk) and is trained without labels, by distillation (docs/distill.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 256
"""Width of the projections and of the head."""


class VideoScore(nn.Module):
    """Score video tokens chunk by chunk. 1,117,441 parameters at ``input_size`` 3584.

    Args:
        input_size: width D of the language model's embeddings.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(input_size, HIDDEN)
        self.token_norm = nn.LayerNorm(HIDDEN)
        self.mean_norm = nn.LayerNorm(HIDDEN)
        self.other_norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Sequential(nn.Linear(3 * HIDDEN + 4, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))

    def forward(
        self, first: Tensor, second: Tensor | None, valid: Tensor | None = None, paired: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the logits of the video tokens of C chunks.

        Args:
            first: [C, P, D] tokens of the first frames.
            second: [C, P, D] tokens of the second frames, or None.
            valid: [C, P] bool, False on padding; None if nothing is padded.
            paired: [C] bool, True where both frames have the same size; None if all have. Elsewhere each frame is
                scored by itself.

        Returns:
            Logits of the first and of the second frame, [C, P] float32 each (None without ``second``). The highest are
            kept; those of padding are meaningless.
        """
        dtype = self.proj.weight.dtype
        first = first.to(dtype)
        if second is None:
            return self._logits(first, first, torch.zeros_like(first[:, 0, 0]), valid, 0.0), None
        second = second.to(dtype)
        weight = torch.ones_like(first[:, 0, 0]) if paired is None else paired.to(dtype)
        return self._logits(first, second, weight, valid, 0.0), self._logits(second, first, weight, valid, 1.0)

    def similarities(
        self, first: Tensor, second: Tensor | None, valid: Tensor | None = None, paired: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return `forward` as values in (0, 1) of which the lowest are kept, in place of STVP's cosines.

        Arguments and shapes are those of `forward`.
        """
        first_logits, second_logits = self(first, second, valid, paired)
        return torch.sigmoid(-first_logits), None if second_logits is None else torch.sigmoid(-second_logits)

    def _logits(self, frame: Tensor, other: Tensor, paired: Tensor, valid: Tensor | None, second: float) -> Tensor:
        """Logits [C, P] of one frame; ``paired`` [C] is 0 where ``other`` must not be read."""
        # The mean of the frame, without padding.
        weight = torch.ones_like(frame[..., 0]) if valid is None else valid.to(frame.dtype)
        mean = (weight[..., None] * frame).sum(1, keepdim=True) / weight.sum(1).clamp(min=1)[:, None, None]
        # STVP's two distances, two flags ...
        has_other = paired[:, None].expand_as(weight)
        temporal = (1 - F.cosine_similarity(frame, other, dim=-1)) * has_other
        spatial = 1 - F.cosine_similarity(frame, mean, dim=-1)
        scalars = torch.stack([spatial, temporal, has_other, torch.full_like(has_other, second)], dim=-1)
        # ... and the projected token with its differences to mean and other frame.
        token = self.proj(frame)
        change = (token - self.proj(other)) * has_other[..., None]
        parts = [self.token_norm(token), self.mean_norm(token - self.proj(mean)), self.other_norm(change), scalars]
        logits: Tensor = self.head(torch.cat(parts, dim=-1)).squeeze(-1)
        return logits.float()
