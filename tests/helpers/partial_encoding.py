"""Noise for vision encoders, a mask of its places, and both through an encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.families import FAMILIES, Family
from torch import Tensor

from omnisift.models import adapter_for
from omnisift.models.partial_encoding import encode

GRID = (3, 20, 14)
"""In patches: frames of 10 x 7 tokens, with windows of 4 x 4, 4 x 3, 2 x 4 and 2 x 3 tokens."""
FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
Outputs = tuple[Tensor, list[Tensor]]


def encoder_of(family: Family) -> Any:
    return adapter_for(family.model()).parts.vision_encoder


def noise(encoder: Any, grid: tuple[int, int, int] = GRID) -> Tensor:
    """[t, tokens, 4, C]: random patches."""
    steps, height, width = grid
    shape = (steps, height * width // 4, 4, 6 * encoder.config.patch_size**2)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def some(steps: int = 3) -> Tensor:
    """About half of the tokens; none of the second frame, and none of the first window of the first."""
    encoded = torch.rand(steps, 10, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    encoded[1], encoded[0, :4, :4] = False, False
    return encoded


@torch.inference_mode()
def whole(encoder: Any, patches: Tensor) -> Outputs:
    """The outputs of the encoder itself for frames [t, 70, 4, C]."""
    output = encoder(patches.flatten(0, 2), grid_thw=torch.tensor([[len(patches), *GRID[1:]]]))
    return output.pooler_output, list(getattr(output, "deepstack_features", None) or [])


@torch.inference_mode()
def part(encode_with: Any, patches: Tensor, encoded: Tensor) -> Outputs:
    embeddings, levels = encode_with(patches.flatten(0, 2), (len(patches), *GRID[1:]), encoded)
    return embeddings, levels


def apart(encoder: Any, patches: Tensor, encoded: Tensor) -> Outputs:
    return part(lambda *arguments: encode(encoder, *arguments), patches, encoded)


def check_close(made: Outputs, expected: Outputs, tolerance: float = 1e-6) -> None:
    assert len(made[1]) == len(expected[1])
    for one, other in zip([made[0], *made[1]], [expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))
