"""Store where a kept token belongs in columns appended to its embedding, the only data that an engine's caches keep.

Each row of a clip holds its rotary ids, its index among the clip's kept tokens, and their number. A part of a clip (a
chunk of a long prompt, the rest after a cached prefix) therefore says itself where it belongs. Numbers are split into
digits of base 256, because bfloat16 rounds larger integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DIGITS = 4
VALUES = 5
"""Three rotary ids, the index of the token, and the number of tokens."""
COLUMNS = VALUES * DIGITS


@dataclass(frozen=True)
class PositionColumns:
    """The content of the columns of consecutive rows of one clip."""

    position_ids: Tensor
    """[3, n] int64 rotary ids, relative to the start of the clip, as `ClipLayout` counts them."""
    first: int
    """Index of the first of these rows among the clip's kept tokens."""
    total: int
    """Number of tokens kept of the clip."""


def attach_columns(embeds: Tensor, position_ids: Tensor) -> Tensor:
    """Append the columns to the kept embeddings of a clip.

    Args:
        embeds: [K, D].
        position_ids: [3, K] int64 rotary ids.

    Returns:
        [K, D + COLUMNS] in the dtype of ``embeds``.
    """
    count = len(embeds)
    index = torch.arange(count)
    values = torch.stack([*position_ids.cpu(), index, torch.full_like(index, count)], dim=1)
    # Lowest digit of all values first.
    digits = [(values >> (8 * digit)) & 255 for digit in range(DIGITS)]
    return torch.cat([embeds, torch.cat(digits, dim=1).to(embeds)], dim=1)


def detach_columns(rows: Tensor, width: int) -> tuple[Tensor, PositionColumns | None]:
    """Split rows into embeddings and columns.

    Args:
        rows: [n, width + COLUMNS], or of another width without columns.
        width: of the rows of a clip without columns.

    Returns:
        The rows without columns, and the content of the columns; None if there are none.
    """
    if rows.shape[1] != width + COLUMNS:
        return rows, None
    digits = rows[:, width:].round().long().cpu().view(-1, DIGITS, VALUES)
    values = digits[:, 0]
    for digit in range(1, DIGITS):
        values = values + (digits[:, digit] << (8 * digit))
    return rows[:, :width], PositionColumns(values[:, :3].t(), int(values[0, 3]), int(values[0, 4]))
