"""Max-min choice, density and separation against loops, in padded windows."""

from __future__ import annotations

import math

import pytest
import torch

from omnisift.ops.diversity import density, max_min, separation

SIZES = (7, 1, 12, 2, 5)


def padded(seed: int, coarse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric distances of windows of several sizes; padding and diagonal hold invalid values.

    ``coarse`` makes ties."""
    distance = torch.rand(len(SIZES), max(SIZES), max(SIZES), generator=torch.Generator().manual_seed(seed))
    distance = (4 * distance).round() / 4 if coarse else distance
    distance = torch.triu(distance, 1) + torch.triu(distance, 1).mT
    distance.diagonal(dim1=1, dim2=2).fill_(-5)
    valid = torch.arange(max(SIZES)) < torch.tensor(SIZES)[:, None]
    distance.masked_fill_(~valid[:, None, :] | ~valid[:, :, None], -3)
    return distance, valid


@pytest.mark.parametrize("k", [1, 3, 5, 40])
@pytest.mark.parametrize("squared", [False, True])
def test_density_equals_the_loop(k: int, squared: bool):
    distance, valid = padded(k)
    result = density(distance, valid, k, squared)
    for g, size in enumerate(SIZES):
        for i in range(size):
            near = sorted(float(distance[g, i, j]) for j in range(size) if j != i)[:k]
            near = [d * d if squared else d for d in near]
            wanted = math.exp(-sum(near) / len(near)) if near else 1.0
            assert float(result[g, i]) == pytest.approx(wanted, abs=1e-6)
    assert (result[~valid] == 0).all()


@pytest.mark.parametrize("seed", range(10))
def test_separation_equals_the_loop(seed: int):
    distance, valid = padded(seed, coarse=True)
    crowd = (3 * torch.rand(valid.shape, generator=torch.Generator().manual_seed(seed))).round()
    result = separation(distance, crowd, valid)
    for g, size in enumerate(SIZES):
        peaks = 0
        for i in range(size):
            rank = (-float(crowd[g, i]), i)
            denser = [float(distance[g, i, j]) for j in range(size) if (-float(crowd[g, j]), j) < rank]
            peaks += not denser
            others = [float(distance[g, i, j]) for j in range(size) if j != i]
            assert float(result[g, i]) == (min(denser) if denser else max(others, default=0.0))
        assert peaks == 1
    assert (result[~valid] == 0).all()


def test_holes_in_a_window_are_padding():
    """Valid need not be the first columns: OmniPack looks at what remains of a window."""
    distance, valid = padded(3)
    holes = valid & (torch.arange(max(SIZES)) % 3 != 1)
    crowd = density(distance, holes, 3)
    apart = separation(distance, crowd, holes)
    some = torch.nonzero(holes[2]).flatten()
    alone = distance[2][some][:, some].unsqueeze(0)
    everything = torch.ones(1, len(some), dtype=torch.bool)
    torch.testing.assert_close(crowd[2, some], density(alone, everything, 3)[0])
    torch.testing.assert_close(apart[2, some], separation(alone, crowd[2, some].unsqueeze(0), everything)[0])


def test_centres_of_two_crowds():
    """Two tight crowds and a stray token: the two best by density times separation are one of each crowd."""
    points = torch.cat([torch.randn(9, 2) * 0.01, torch.randn(6, 2) * 0.01 + 3, torch.tensor([[20.0, -20.0]])])
    distance = torch.cdist(points, points).unsqueeze(0)
    valid = torch.ones(1, len(points), dtype=torch.bool)
    crowd = density(distance, valid, 3)
    best = (crowd * separation(distance, crowd, valid))[0].topk(2).indices
    assert sorted(int(i) // 9 for i in best) == [0, 1]
    assert 15 not in best.tolist()


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
