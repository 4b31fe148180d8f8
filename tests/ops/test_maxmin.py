"""Greedy max-min choice by itself."""

from __future__ import annotations

import pytest
import torch

from omnisift.ops.maxmin import max_min


def on_a_line(*places: float) -> torch.Tensor:
    line = torch.tensor(places, dtype=torch.float32)
    return (line[:, None] - line[None]).abs().unsqueeze(0)


def chosen(distance: torch.Tensor, kept: int, weight: torch.Tensor | None = None) -> list[int]:
    valid = torch.ones(distance.shape[:2], dtype=torch.bool)
    return torch.nonzero(max_min(distance, valid, torch.tensor([kept]), weight)[0]).flatten().tolist()


def test_starts_at_the_loneliest_and_goes_to_the_farthest():
    line = on_a_line(0, 1, 2, 6, 12)
    assert chosen(line, 1) == [4]
    assert chosen(line, 2) == [0, 4]
    assert chosen(line, 3) == [0, 3, 4]
    assert chosen(line, 4) == [0, 2, 3, 4]


def test_weight_is_the_candidates():
    line = on_a_line(0, 1, 2, 6, 12)
    weight = torch.tensor([[1.0, 50.0, 1.0, 1.0, 1.0]])
    assert chosen(line, 1, weight) == [1]
    assert chosen(line, 2, weight) == [1, 4]
    assert chosen(line, 2, torch.zeros(1, 5)) == [0, 1]


def test_ties_take_the_lowest_index():
    assert chosen(torch.zeros(1, 6, 6), 3) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_a_window_is_cut_the_same_beside_larger_ones(seed: int):
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(4, 9, 3, generator=random)
    distance = torch.cdist(points, points)
    sizes, kept = torch.tensor([9, 1, 6, 2]), torch.tensor([7, 1, 2, 0])
    valid = torch.arange(9) < sizes[:, None]
    result = max_min(distance.masked_fill(~valid[:, None], -1.0), valid, kept)
    for g, (size, count) in enumerate(zip(sizes.tolist(), kept.tolist(), strict=True)):
        alone = distance[g : g + 1, :size, :size]
        assert torch.nonzero(result[g]).flatten().tolist() == chosen(alone, count)
        assert int(result[g].sum()) == count


def test_no_window_at_all():
    assert max_min(torch.zeros(0, 3, 3), torch.zeros(0, 3, dtype=torch.bool), torch.zeros(0)).shape == (0, 3)
