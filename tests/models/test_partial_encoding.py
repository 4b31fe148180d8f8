"""A part of the places through the vision encoder of every family, against the encoder with the other places hidden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.families import FAMILIES, Family
from tests.helpers.partial_encoding import FAMILY, GRID, apart, check_close, encoder_of, noise, some, whole
from torch import Tensor, nn
from transformers import AttentionInterface

from omnisift.errors import UnsupportedModel, UsageError
from omnisift.models import adapter_for
from omnisift.models.encoder_probes import window_order
from omnisift.models.partial_encoding import encode, patches_of, window_side
from omnisift.models.window_attention import batched_windows
from omnisift.pipeline import load


@FAMILY
def test_all_places_are_the_encoder_itself(family: Family) -> None:
    encoder = encoder_of(family)
    patches, everything = noise(encoder), torch.ones(3, 10, 7, dtype=torch.bool)
    expected = whole(encoder, patches)
    assert len(expected[1]) == (3 if family.model_type.startswith(("qwen3_vl", "qwen3_omni")) else 0)
    check_close(apart(encoder, patches, everything), expected, tolerance=0)


@FAMILY
def test_others_are_as_if_they_were_hidden(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(family)
    patches, encoded = noise(encoder), some()
    made = apart(encoder, patches, encoded)
    hide(monkeypatch, encoder, encoded)
    embeddings, levels = whole(encoder, patches)
    chosen = encoded.flatten()
    check_close(made, (embeddings[chosen], [level[chosen] for level in levels]), tolerance=1e-5)
    # The others matter: hidden, they change the result.
    monkeypatch.undo()
    assert float((whole(encoder, patches)[0][chosen] - made[0]).norm() / made[0].norm()) > 1e-3


def hide(monkeypatch: pytest.MonkeyPatch, encoder: Any, encoded: Tensor) -> None:
    """Let no patch of the encoder attend to those of tokens that are not encoded."""
    order = window_order([list(GRID)], 2, 4) if getattr(encoder, "window_size", None) else torch.arange(encoded.numel())
    visible = encoded.flatten()[order].repeat_interleave(4)
    done: dict[nn.Module, int] = {}

    def masked(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        first = done.get(module, 0) % len(visible)
        done[module] = first + key.shape[2]
        seen = visible[first : first + key.shape[2]]
        # Rows without anything to attend to are of no interest.
        seen = seen if bool(seen.any()) else ~seen
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen.expand(1, 1, len(seen), -1), scale=options["scaling"]
        )
        return attended.transpose(1, 2), None

    AttentionInterface.register("partial_encoding_test", masked)
    for config in {id(block.attn.config): block.attn.config for block in encoder.blocks}.values():
        monkeypatch.setattr(config, "_attn_implementation", "partial_encoding_test")


@FAMILY
def test_with_batched_windows(family: Family) -> None:
    model = family.model()
    encoder: Any = adapter_for(model).parts.vision_encoder
    patches = noise(encoder)
    expected = apart(encoder, patches, some())
    with batched_windows(model):
        check_close(apart(encoder, patches, some()), expected)


def test_what_can_not_be() -> None:
    encoder = encoder_of(FAMILIES["qwen2_5_vl"])
    patches = noise(encoder)
    with pytest.raises(UsageError, match="needs 840 patches and some of"):
        apart(encoder, patches, torch.zeros(3, 10, 7, dtype=torch.bool))
    with pytest.raises(UsageError, match="needs 840 patches and some of"):
        apart(encoder, patches, torch.ones(3, 7, 10, dtype=torch.bool))
    with pytest.raises(UsageError, match="got 280 patches"):
        encode(encoder, patches[0].flatten(0, 1), GRID, some())
    other = type("OtherEncoder", (nn.Module,), {})()
    with pytest.raises(UnsupportedModel, match="OtherEncoder is not one of"):
        apart(other, patches, some())


def test_window_side() -> None:
    assert window_side(encoder_of(FAMILIES["qwen2_5_vl"])) == 4
    assert window_side(encoder_of(FAMILIES["qwen3_vl"])) == 1
    # Windows that no layer attends within.
    assert window_side(adapter_for(load("nano").host.thinker).parts.vision_encoder) == 1


def test_patches_of_tokens() -> None:
    assert patches_of(torch.tensor([0, 3]), 4).tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
