"""The sum over blocks equals the plain formula for every size and block, and makes no full matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from omnisift.models.attention_probe import BLOCK, received_attention
from omnisift.models.encoder_probes import pair_means, window_order


def by_formula(query: Tensor, key: Tensor, scale: float, lengths: list[int]) -> Tensor:
    parts, start = [], 0
    for length in lengths:
        q, k = (side[:, start : start + length].float() for side in (query, key))
        parts.append((q @ k.transpose(1, 2) * scale).softmax(-1).sum(1).mean(0))
        start += length
    return torch.cat(parts)


class Largest(TorchDispatchMode):
    """The most elements that any tensor had."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor):
            self.elements = max(self.elements, output.numel())
        return output


LENGTHS = [[1], [17], [5, 5, 5, 5], [5, 5, 3, 1, 1, 5], [0, 4, 0, 0, 9], [100, 100, 37]]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("block", [1, 7, 25, 60, 4096, BLOCK])
def test_the_sum_over_blocks_equals_the_full_matrix(lengths: list[int], block: int) -> None:
    torch.manual_seed(sum(lengths) + block)
    query, key = torch.randn(2, 3, sum(lengths), 8)
    before = key.clone()
    result = received_attention(query, key, 0.6, lengths, block)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, by_formula(query, key, 0.6, lengths))
    torch.testing.assert_close(result.sum(), torch.tensor(float(sum(lengths))), rtol=1e-5, atol=1e-4)
    assert torch.equal(key, before)


def test_random_sizes_and_blocks() -> None:
    random = torch.Generator().manual_seed(1)
    for _ in range(60):
        heads, parts, width = (int(torch.randint(1, 6, (), generator=random)) for _ in range(3))
        lengths = torch.randint(0, 24, (parts,), generator=random).tolist()
        block = int(torch.randint(1, 900, (), generator=random))
        query, key = torch.randn(2, heads, sum(lengths), width, generator=random)
        torch.testing.assert_close(
            received_attention(query, key, 1.0, lengths, block), by_formula(query, key, 1.0, lengths)
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_softmax_is_in_float32_for_every_dtype_and_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key = (4 * torch.randn(2, 2, 40, 8)).to(dtype)
    expected = by_formula(query, key, 0.35, [25, 15])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(received_attention(query, key, 0.35, [25, 15]), expected)


def test_it_takes_no_gradient() -> None:
    query, key = torch.randn(2, 2, 9, 4, requires_grad=True)
    assert not received_attention(query, key, 0.5, [9]).requires_grad


def test_lengths_must_cover_all_steps() -> None:
    with pytest.raises(ValueError, match="sum to the 9 steps"):
        received_attention(torch.randn(1, 9, 2), torch.randn(1, 9, 2), 1.0, [4, 4])


@pytest.mark.parametrize(("steps", "block"), [(300, 2000), (300, 300), (4500, BLOCK)])
def test_no_tensor_has_the_size_of_a_full_matrix(steps: int, block: int) -> None:
    query, key = torch.randn(2, 1, steps, 2)
    with Largest() as largest:
        received_attention(query, key, 1.0, [steps], block)
    assert largest.elements <= max(block, 2 * steps) < steps**2


def test_pairs_stay_within_one_audio_clip_and_an_odd_last_step_makes_no_token() -> None:
    steps = torch.tensor([1.0, 3.0, 100.0, 5.0, 7.0, 200.0, 9.0, 11.0])
    assert pair_means(steps, [3, 2, 1, 2]).tolist() == [2.0, 6.0, 10.0]


def test_the_order_by_windows_is_the_hosts() -> None:
    """Grids smaller than a window, equal to one, and with a rest."""
    from transformers.vision_utils import get_vision_window_index

    sizes = [[1, 2, 2], [2, 8, 8], [3, 10, 14], [1, 18, 6], [2, 16, 24]]
    grids = torch.tensor(sizes)
    expected, _ = get_vision_window_index(grids, spatial_merge_size=2, window_size=32, patch_size=4)
    assert window_order(sizes, merge_size=2, side=4).tolist() == expected.tolist()
