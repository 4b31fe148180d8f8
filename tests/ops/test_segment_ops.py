"""Means, distances and softmax over groups against loops; groups without tokens; blocks of any size."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.frame_methods import unlike_mean

from omnisift.ops import segment_ops
from omnisift.ops.segment_ops import group_means, mean_distance, softmax_by

GROUP = torch.tensor([2, 0, -1, 2, 4, 0, 2, -1])
EMBEDS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [1, 10, 1 << 24])
def test_means_of_groups(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segment_ops, "MAX_ELEMENTS", block)
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
