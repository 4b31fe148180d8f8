"""Top-k of ragged segments and of rows, and the gradient of the hard mask."""

from __future__ import annotations

import torch

from omnisift.estimators.straight_through import topk_mask
from omnisift.ops.topk import row_topk, segment_topk


def test_each_segment_keeps_its_own_count():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.2, 0.8])
    segment = torch.tensor([0, 0, 1, 1, 0, 1])
    assert segment_topk(scores, segment, torch.tensor([1, 2])).tolist() == [False, True, True, False, False, True]


def test_ties_keep_the_lowest_index():
    keep = segment_topk(torch.ones(6), torch.tensor([1, 0, 1, 0, 1, 0]), torch.tensor([1, 2]))
    assert keep.tolist() == [True, True, True, False, False, False]


def test_empty_segments_and_zero_counts():
    keep = segment_topk(torch.ones(2), torch.tensor([2, 2]), torch.tensor([3, 0, 0]))
    assert keep.tolist() == [False, False]
    nothing = torch.zeros(0, dtype=torch.int64)
    assert segment_topk(torch.ones(0), nothing, nothing).numel() == 0


def test_random_segments_equal_topk_of_each():
    generator = torch.Generator().manual_seed(0)
    segment = torch.randint(0, 20, (500,), generator=generator)
    scores = torch.rand(500, generator=generator)
    counts = torch.bincount(segment, minlength=20) // 3
    keep = segment_topk(scores, segment, counts)
    for number in range(20):
        places = torch.nonzero(segment == number).flatten()
        best = places[scores[places].topk(int(counts[number])).indices]
        assert sorted(best.tolist()) == torch.nonzero(keep & (segment == number)).flatten().tolist()


def test_rows_take_the_first_of_equals_and_no_padding():
    among = torch.tensor([[True, False, True, True], [False, True, True, False]])
    result = row_topk(torch.zeros(2, 4), torch.tensor([2, 1]), among)
    assert result.tolist() == [[True, False, True, False], [False, True, False, False]]
    assert row_topk(torch.zeros(2, 4), torch.tensor([4, 4]), among).equal(among)
    assert row_topk(torch.tensor([[1.0, 3.0, 3.0]]), torch.tensor([1])).tolist() == [[False, True, False]]


def test_rows_are_segments_of_equal_length():
    scores = torch.randint(4, (6, 9), generator=torch.Generator().manual_seed(1)).float()
    counts, row = torch.arange(6), torch.arange(6).repeat_interleave(9)
    assert row_topk(scores, counts).flatten().equal(segment_topk(scores.flatten(), row, counts))


def test_forward_is_exactly_one_or_zero():
    scores = torch.sigmoid(torch.randn(200_000, generator=torch.Generator().manual_seed(0)) * 4)
    keep = torch.arange(len(scores)) % 2 == 0
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        mask = topk_mask(scores.to(dtype), keep)
        assert torch.equal(mask, keep.to(dtype))


def test_backward_is_the_identity():
    scores = torch.tensor([0.2, 0.7], requires_grad=True)
    (topk_mask(scores, torch.tensor([False, True])) * torch.tensor([3.0, 5.0])).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [3.0, 5.0]
