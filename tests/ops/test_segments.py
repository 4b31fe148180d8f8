"""Means, distances and softmax over groups, and merging, against loops; blocks of any size."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.oracle import unlike_mean
from torch import Tensor

from omnisift.ops import similarity
from omnisift.ops.segments import add_rows, averaged, group_means, mean_distance, softmax_by, value_means

GROUP = torch.tensor([2, 0, -1, 2, 4, 0, 2, -1])
EMBEDS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [1, 10, 1 << 24])
def test_means_of_groups(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "MAX_ELEMENTS", block)
    result = group_means(EMBEDS, GROUP, 6)
    for number in range(6):
        tokens = EMBEDS[torch.eq(GROUP, number)]
        torch.testing.assert_close(result[number], tokens.mean(dim=0) if len(tokens) else torch.zeros(5))


def test_short_floats_are_summed_in_float32():
    many = torch.full((3000, 4), 1.001).bfloat16()
    assert torch.equal(group_means(many, torch.zeros(3000, dtype=torch.int64), 1), many[:1].float())


def test_distance_to_the_mean_is_nan_outside():
    result = mean_distance(EMBEDS, GROUP, 6)
    assert torch.equal(result.isnan(), GROUP < 0)
    places = [0, 3, 6]
    torch.testing.assert_close(result[places], torch.tensor(unlike_mean(EMBEDS, places)))
    assert mean_distance(torch.zeros(2, 3), torch.tensor([0, 0]), 1).tolist() == [1, 1]  # the cosine of zero is 0


def test_softmax_by_group_bears_any_size():
    values = torch.tensor([1e6, 0.0, 1e6, -1e6, 3.0, 2.0])
    result = softmax_by(values, torch.tensor([0, 0, 0, 1, 3, 3]))
    wanted = torch.tensor([0.5, 0, 0.5, 1, *torch.tensor([3.0, 2.0]).softmax(dim=0).tolist()])
    torch.testing.assert_close(result, wanted.double())
    assert softmax_by(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_means_of_values():
    values, group = torch.tensor([1.0, 2.0, 5.0, 7.0]), torch.tensor([2, 0, -1, 2])
    result = value_means(values, group, 3)
    assert result[:3].tolist() == [2.0, 0.0, 4.0]
    assert result[-1].isnan()  # what an index of -1 reads


LENGTH, WIDTH = 40, 6


def case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    embeds = torch.randn(LENGTH, WIDTH, generator=random)
    keep = torch.rand(LENGTH, generator=random) < 0.5
    keep[0] = True
    kept = torch.nonzero(keep).flatten()
    into = kept[torch.randint(len(kept), (LENGTH,), generator=random)]
    into[torch.rand(LENGTH, generator=random) < 0.3] = -1
    weight = torch.rand(LENGTH, generator=random)
    weight[torch.rand(LENGTH, generator=random) < 0.2] = 0.0
    return embeds, keep, into, weight


def by_loop(embeds: Tensor, keep: Tensor, into: Tensor, weight: Tensor, own: float | None) -> tuple[Tensor, list[bool]]:
    """float64 [K, D], and whether anything of weight joined each row."""
    rows, touched = [], []
    x, w = embeds.double(), weight.double()
    for place in torch.nonzero(keep).flatten().tolist():
        joined = [i for i in range(len(x)) if not keep[i] and into[i] == place and w[i] > 0]
        touched.append(bool(joined))
        if not joined:
            rows.append(x[place])
        elif own is None:
            members = [place, *joined]
            rows.append(sum(w[i] * x[i] for i in members) / sum(w[i] for i in members))
        else:
            rows.append(own * x[place] + (1 - own) * sum(w[i] * x[i] for i in joined) / sum(w[i] for i in joined))
    return torch.stack(rows), touched


@pytest.mark.parametrize("own", [None, 0.5, 0.0, 1.0, 0.3])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("block", [1, 20, 1 << 24])
def test_equals_the_loop(block: int, weighted: bool, own: float | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "MAX_ELEMENTS", block)
    for seed in range(5):
        embeds, keep, into, weight = case(seed)
        before = embeds.clone()
        result = averaged(embeds, keep, into, weight if weighted else None, own)
        wanted, touched = by_loop(embeds, keep, into, weight if weighted else torch.ones(LENGTH), own)
        torch.testing.assert_close(result.double(), wanted, rtol=1e-5, atol=1e-6)
        untouched = ~torch.tensor(touched)
        assert untouched.any()
        assert not untouched.all()
        assert torch.equal(result[untouched], embeds[keep][untouched])
        assert torch.equal(embeds, before)


def test_where_a_kept_token_says_to_go_is_ignored():
    embeds, keep, into, weight = case(7)
    elsewhere = torch.where(keep, 0, into)
    assert torch.equal(averaged(embeds, keep, into, weight), averaged(embeds, keep, elsewhere, weight))


@pytest.mark.parametrize("own", [None, 0.5])
def test_no_weight_changes_nothing(own: float | None):
    embeds, keep, into, _ = case(3)
    assert torch.equal(averaged(embeds, keep, into, torch.zeros(LENGTH), own), embeds[keep])


def test_one_joins_by_its_weight():
    embeds = torch.tensor([[0.0], [4.0], [100.0]])
    keep, into = torch.tensor([True, False, False]), torch.tensor([-1, 0, -1])
    weight = torch.tensor([1.0, 3.0, 9.0])
    assert averaged(embeds, keep, into).tolist() == [[2.0]]
    assert averaged(embeds, keep, into, weight).tolist() == [[3.0]]
    assert averaged(embeds, keep, into, weight, self_weight=0.25).tolist() == [[3.0]]
    weight[0] = 0.0
    assert averaged(embeds, keep, into, weight).tolist() == [[4.0]]


@pytest.mark.parametrize("all_kept", [True, False])
def test_everything_or_nothing_kept(all_kept: bool):
    embeds, keep = torch.randn(5, 3), torch.full((5,), all_kept)
    assert torch.equal(averaged(embeds, keep, torch.full((5,), -1)), embeds[keep])


def test_short_floats_are_summed_in_float32_and_come_back_short():
    embeds = torch.full((3001, 2), 1.0).bfloat16()
    embeds[1:, 1] = 1.0078125  # the next number
    keep = torch.zeros(3001, dtype=torch.bool)
    keep[0] = True
    result = averaged(embeds, keep, torch.zeros(3001, dtype=torch.int64), self_weight=0.0)
    assert result.dtype is torch.bfloat16
    assert result.tolist() == [[1.0, 1.0078125]]


def test_a_gradient_reaches_all_that_joined():
    embeds, keep, into, _ = case(2)
    embeds.requires_grad_()
    averaged(embeds, keep, into).sum().backward()
    assert torch.equal(embeds.grad.ne(0).any(dim=1), keep | (into >= 0))


def test_rows_are_added_in_place():
    total = torch.ones(3, 2)
    add_rows(total, torch.tensor([2, 0, 2]), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert total.tolist() == [[4, 5], [1, 1], [7, 9]]
