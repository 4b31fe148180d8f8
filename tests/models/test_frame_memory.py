"""Places that stand still, in the vision encoder of every family: what was encoded before stands in for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers.families import FAMILIES, Family
from tests.helpers.partial_encoding import FAMILY, check_close, encoder_of, noise, part, some, whole

from omnisift.errors import UsageError
from omnisift.models import adapter_for
from omnisift.models.frame_memory import FrameMemory
from omnisift.models.partial_encoding import encode
from omnisift.models.window_attention import batched_windows
from omnisift.pipeline import load
from omnisift.pipeline.preparation import lay_out, normalize_patches
from omnisift.pipeline.window_cache import WindowCache
from omnisift.world import SceneConfig, make_scene, render_images


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
def test_memory_with_batched_windows(family: Family) -> None:
    model = family.model()
    encoder: Any = adapter_for(model).parts.vision_encoder
    patches, encoded = noise(encoder), torch.ones(3, 10, 7, dtype=torch.bool)
    encoded[1:, 4:] = False
    expected = part(FrameMemory(encoder).encode, patches, encoded)
    with batched_windows(model):
        check_close(part(FrameMemory(encoder).encode, patches, encoded), expected)


@FAMILY
def test_memory_over_calls(family: Family) -> None:
    encoder = encoder_of(family)
    patches, encoded = noise(encoder, (4, 20, 14)), torch.zeros(4, 10, 7, dtype=torch.bool)
    encoded[0], encoded[1, :4, :4], encoded[3, 4:8, 4:] = True, True, True
    together = part(FrameMemory(encoder).encode, patches, encoded)
    memory = FrameMemory(encoder)
    calls = [
        part(memory.encode, patches[part_of], encoded[part_of]) for part_of in (slice(2), slice(2, 3), slice(3, 4))
    ]
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
    encoder: Any = adapter_for(host.thinker).parts.vision_encoder
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
