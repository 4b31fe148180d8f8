"""Similarities of video frames against the paper's formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omnisift import stvp
from omnisift.stvp import norms, saliency, spatial_similarity, temporal_similarity


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_spatial_is_the_cosine_with_the_mean():
    x = frames(3, 7, 32)
    mean = x.sum(dim=1, keepdim=True) / 7
    expected = (x * mean).sum(-1) / (x.norm(dim=-1) * mean.norm(dim=-1))
    torch.testing.assert_close(spatial_similarity(x), expected, atol=1e-6, rtol=0)


def test_temporal_is_the_cosine_with_the_same_position():
    a, b = frames(3, 7, 32), frames(3, 7, 32, seed=1)
    expected = F.cosine_similarity(a, b, dim=-1)
    torch.testing.assert_close(temporal_similarity(a, b), expected, atol=1e-6, rtol=0)


def test_padding_does_not_move_the_mean():
    x = frames(2, 5, 8)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    result = spatial_similarity(x, valid)
    torch.testing.assert_close(result[0], spatial_similarity(x[:1])[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(result[1, :3], spatial_similarity(x[1:, :3])[0], atol=1e-6, rtol=0)


def test_the_odd_one_out_is_most_salient():
    x = torch.ones(1, 6, 4)
    x[0, 4] = torch.tensor([1.0, -1.0, 0.0, 0.0])
    assert saliency(spatial_similarity(x)).argmax().item() == 4
    assert saliency(temporal_similarity(torch.ones(1, 6, 4), x)).argmax().item() == 4


def test_a_zero_vector_is_similar_to_nothing():
    x = torch.zeros(1, 2, 4)
    assert torch.equal(spatial_similarity(x), torch.zeros(1, 2))
    assert torch.equal(temporal_similarity(x, x), torch.zeros(1, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_bit_equal_to_torch(dtype: torch.dtype):
    """In these dtypes rounding decides ties, so the library calls the same torch function as the released code."""
    a, b = frames(2, 7, 64).to(dtype), frames(2, 7, 64, seed=1).to(dtype)
    assert torch.equal(temporal_similarity(a, b), F.cosine_similarity(a, b, dim=-1))
    assert torch.equal(spatial_similarity(a), F.cosine_similarity(a, a.mean(dim=1, keepdim=True), dim=-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strips_do_not_show(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    a, b = frames(3, 7, 32).to(dtype), frames(3, 7, 32, seed=1).to(dtype)
    complete = spatial_similarity(a), temporal_similarity(a, b)
    monkeypatch.setitem(stvp._STRIP, "cpu", 1)
    torch.testing.assert_close((spatial_similarity(a), temporal_similarity(a, b)), complete, atol=0, rtol=0)


def test_known_norms_are_used():
    a, b = frames(2, 5, 8), frames(2, 5, 8, seed=1)
    assert torch.equal(spatial_similarity(a, norm0=norms(a)), spatial_similarity(a))
    assert torch.equal(temporal_similarity(a, b, norms(a)), temporal_similarity(a, b))
