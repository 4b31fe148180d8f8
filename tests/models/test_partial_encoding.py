"""A part of the places through the vision encoder of every family, against the encoder with the other places hidden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers.families import FAMILIES, Family
from torch import Tensor, nn
from transformers import AttentionInterface

from omnisift.errors import UnsupportedModel, UsageError
from omnisift.models import adapter_for
from omnisift.models.encoder_probes import window_order
from omnisift.models.partial_encoding import FrameMemory, encode, patches_of, window_side
from omnisift.models.window_attention import batched_windows
from omnisift.pipeline import load
from omnisift.pipeline.patch_pruning import WindowCache
from omnisift.pipeline.preparation import lay_out, normalize_patches
from omnisift.world import SceneConfig, make_scene, render_images

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
    changed = torch.ones(3, 10, 7, dtype=torch.bool)
    changed[1:, 4:] = False
    expected = apart(encoder, patches, some()), part(FrameMemory(encoder).encode, patches, changed)
    with batched_windows(model):
        check_close(apart(encoder, patches, some()), expected[0])
        check_close(part(FrameMemory(encoder).encode, patches, changed), expected[1])


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
    assert window_side(load("nano").host.thinker.model.visual) == 1


def test_patches_of_tokens() -> None:
    assert patches_of(torch.tensor([0, 3]), 4).tolist() == [0, 1, 2, 3, 12, 13, 14, 15]


@FAMILY
def test_memory_with_everything_encoded(family: Family) -> None:
    encoder = encoder_of(family)
    patches = noise(encoder)
    made = part(FrameMemory(encoder).encode, patches, torch.ones(3, 10, 7, dtype=torch.bool))
    check_close(made, whole(encoder, patches))


@FAMILY
def test_memory_of_frames_that_stand_still(family: Family) -> None:
    encoder = encoder_of(family)
    patches = noise(encoder)[:1].repeat(3, 1, 1, 1)
    # Whole windows, some of which are encoded again although nothing changed: what stands in is what would be there.
    encoded = torch.ones(3, 10, 7, dtype=torch.bool)
    encoded[1], encoded[2, :4] = False, False
    check_close(part(FrameMemory(encoder).encode, patches, encoded), whole(encoder, patches))


@FAMILY
def test_memory_over_calls(family: Family) -> None:
    encoder = encoder_of(family)
    patches, encoded = noise(encoder, (4, 20, 14)), torch.zeros(4, 10, 7, dtype=torch.bool)
    encoded[0], encoded[1, :4, :4], encoded[3, 4:8, 4:] = True, True, True
    together = part(FrameMemory(encoder).encode, patches, encoded)
    memory = FrameMemory(encoder)
    calls = [part(memory.encode, patches[step : step + 1], encoded[step : step + 1]) for step in range(4)]
    joined = [torch.cat(values) for values in zip(*([call[0], *call[1]] for call in calls), strict=True)]
    check_close((joined[0], joined[1:]), together)
    # Places that are not encoded keep their tokens.
    frames = together[0].view(4, 70, -1)
    same = (frames[1:] == frames[:-1]).all(dim=2)
    assert torch.equal(same, ~encoded[1:].flatten(1))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in encoder.modules())


def test_memory_needs_a_first_frame() -> None:
    encoder = encoder_of(FAMILIES["qwen3_vl"])
    patches = noise(encoder)
    with pytest.raises(UsageError, match="encode all places of a clip's first time step"):
        part(FrameMemory(encoder).encode, patches, some())
    memory = FrameMemory(encoder)
    part(memory.encode, patches, torch.ones(3, 10, 7, dtype=torch.bool))
    with pytest.raises(UsageError, match="frames of one size"), torch.inference_mode():
        memory.encode(patches[0, :40].flatten(0, 1), (1, 10, 16), torch.ones(1, 5, 8, dtype=torch.bool))


def test_what_stands_in_helps_a_trained_encoder() -> None:
    host = load("nano").host
    encoder: Any = host.thinker.model.visual
    # A shape appears before a still background.
    images = render_images(make_scene(3, split="test", config=replace(SceneConfig(), noise=0.0)))
    patches, grid = lay_out(images, 14, 2, 2)
    pixels = normalize_patches(host.processor, {"pixel_values_videos": patches})["pixel_values_videos"]
    encoded = WindowCache(1, side=2).changed(patches, grid, 2)
    new = encoded.flatten()
    assert 0 < int(encoded[1:].sum()) < 0.6 * encoded[1:].numel()
    with torch.inference_mode():
        expected = encoder(pixels, grid_thw=torch.tensor([grid])).pooler_output
        alone = encode(encoder, pixels, grid, encoded)[0]
        memory = FrameMemory(encoder).encode(pixels, grid, encoded)[0]
    error = [float((made - expected[new]).norm() / expected[new].norm()) for made in (memory[new], alone)]
    assert error[0] < 0.03 < 0.3 < error[1]
