"""Fractional rotary ids in whole numbers, and the rotation by them against Transformers'."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.helpers.families import FAMILIES
from torch import nn
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as host

from omnisift.serving.clip_layout import PARTS
from omnisift.serving.vllm.fractions import (
    WHOLE,
    FractionalRope,
    pack,
    position_delta,
    unpack,
    use_fractions,
)


def random_positions(count: int, largest: int = WHOLE) -> torch.Tensor:
    return torch.randint(0, largest * PARTS, (3, count), generator=torch.Generator().manual_seed(0))


def test_packed_ids_fit_in_31_bits_and_come_back() -> None:
    positions = torch.cat([random_positions(1000), torch.tensor([[WHOLE * PARTS - 1]] * 3)], dim=1)
    packed = pack(positions, PARTS)
    assert int(packed.max()) == 2**31 - 1
    assert torch.equal(packed.int().long(), packed)
    assert torch.equal(unpack(packed.int(), PARTS), positions)
    assert torch.equal(pack(positions, 1), positions)
    assert torch.equal(unpack(positions, 1), positions)


def test_the_engine_adds_one_for_each_new_token() -> None:
    """The fraction of the last prompt token stays."""
    prompt = torch.tensor([[0, PARTS, 5 * PARTS + 77]] * 3)
    packed = pack(prompt, PARTS)
    for step in range(1, 4):
        index = prompt.shape[1] + step - 1
        new = torch.tensor(index + position_delta(packed))
        assert int(unpack(new, PARTS)) == (5 + step) * PARTS + 77


@pytest.fixture(scope="module")
def config() -> object:
    return FAMILIES["qwen3_omni_moe_thinker"].config().text_config


def rope_of(config: object, scale: float = 1.0) -> tuple[FractionalRope, nn.Module]:
    theirs = host.Qwen3OmniMoeThinkerTextRotaryEmbedding(config)
    return FractionalRope(theirs.inv_freq, theirs.mrope_section, config.head_dim, scale), theirs  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotations_are_those_of_the_host(config: object, dtype: torch.dtype) -> None:
    ours, theirs = rope_of(config)
    size, count = config.head_dim, 50  # type: ignore[attr-defined]
    query, key = torch.randn(count, 4, size).to(dtype), torch.randn(count, 2, size).to(dtype)
    positions = random_positions(count, 4096)
    cosine, sine = theirs(query, (positions.double() / PARTS).float()[:, None])
    expected = host.apply_rotary_pos_emb(query.transpose(0, 1)[None], key.transpose(0, 1)[None], cosine, sine)
    turned = ours(pack(positions, PARTS), query.flatten(1), key.flatten(1))
    for got, wanted in zip(turned, expected, strict=True):
        assert torch.allclose(got.view(count, -1, size), wanted[0].transpose(0, 1), atol=0, rtol=0)
    whole = ours(pack(positions // PARTS * PARTS, PARTS), query.flatten(1), key.flatten(1))
    assert not torch.allclose(whole[0], turned[0], atol=0.1), "a fraction makes a difference"


def test_text_has_one_row_of_positions(config: object) -> None:
    ours, _ = rope_of(config, scale=0.5)
    query = torch.randn(5, 32)
    rows = torch.arange(5)
    one, three = ours(rows, query, query[:, :16]), ours(rows.expand(3, -1), query, query[:, :16])
    assert torch.equal(one[0], three[0])
    assert torch.allclose(one[0].norm(dim=1), query.norm(dim=1) / 2)


def test_layers_that_share_a_module_share_the_new_one() -> None:
    old, other = nn.Identity(), nn.Identity()
    layers = nn.ModuleList([nn.Module() for _ in range(3)])
    for layer, rope in zip(layers, (old, old, other), strict=True):
        layer.rotary_emb = rope
    made = []

    def make(rope: object) -> FractionalRope:
        made.append(rope)
        return FractionalRope(torch.ones(2), [2, 0, 0], 4)

    use_fractions(layers, make)
    assert made == [old, other]
    assert layers[0].rotary_emb is layers[1].rotary_emb
    assert layers[2].rotary_emb is not layers[0].rotary_emb
    assert SimpleNamespace(kind=type(layers[2].rotary_emb)).kind is FractionalRope
