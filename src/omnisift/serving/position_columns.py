"""Where a kept token belongs, written into columns behind its embedding: all that survives an engine's cache.

Each row of a clip carries its rotary ids, its number in the clip and the clip's length. So a part of a clip (a chunk of
a long prompt, the rest behind a cached prefix) says itself where it belongs, and writing it twice changes nothing.
Numbers are split into digits of base 256, which bfloat16 holds exactly; larger whole numbers it would round.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DIGITS = 3
COLUMNS = 5 * DIGITS


@dataclass(frozen=True)
class PositionColumns:
    """What the columns of consecutive rows of one clip say."""

    position: Tensor
    """[3, n] int64 rotary ids, counted from the clip's start."""
    first: int
    """Number of the first of these rows among the clip's kept tokens."""
    total: int
    """How many tokens the clip kept."""


def attach_columns(embeds: Tensor, position: Tensor) -> Tensor:
    """[K, D + COLUMNS] from the kept embeddings [K, D] of a whole clip and their rotary ids [3, K]."""
    count = len(embeds)
    number = torch.arange(count)
    values = torch.stack([*position.cpu(), number, torch.full_like(number, count)], dim=1)
    digits = [(values >> (8 * digit)) & 255 for digit in range(DIGITS)]
    return torch.cat([embeds, torch.cat(digits, dim=1).to(embeds)], dim=1)


def detach_columns(rows: Tensor, width: int) -> tuple[Tensor, PositionColumns | None]:
    """The embeddings [n, width] of ``rows``, and their places; None if the rows carry none."""
    if rows.shape[1] == width:
        return rows, None
    digits = rows[:, width:].round().long().cpu().view(-1, DIGITS, 5)
    values = sum(digits[:, digit] << (8 * digit) for digit in range(DIGITS))
    assert isinstance(values, Tensor)
    return rows[:, :width], PositionColumns(values[:, :3].t(), int(values[0, 3]), int(values[0, 4]))
