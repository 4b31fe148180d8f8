"""The formulas agree with torch's counter to the last operation, on tiny models and on the whole 7B."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.models import MELS, PATCH, language_model, thinker, thinker_config
from transformers import DynamicCache, Qwen2_5OmniThinkerForConditionalGeneration

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, build_stream
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.profiling import flops
from omnisift.profiling.gauges import torch_counter
from omnisift.profiling.sizes import host_config as published
from omnisift.tokens import Modality
from omnisift.vgas import VGAS, VGASConfig

ATTENTION = pytest.mark.parametrize("attention", ["sdpa", "eager"])


def read(model: Any, new: int, cached: int = 0, logits: int | None = None) -> int:
    """What torch counts when the language model reads ``new`` tokens behind ``cached`` ones."""
    text = model.config.text_config
    device = model.lm_head.weight.device
    lm = language_model(model)

    def step(count: int, cache: Any, start: int) -> Any:
        embeds = torch.zeros(1, count, text.hidden_size, device=device, dtype=model.lm_head.weight.dtype)
        positions = torch.arange(start, start + count, device=device).expand(3, 1, count)
        return lm(inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=cache is not None)

    cache = DynamicCache() if cached else None
    with torch.inference_mode():
        if cached:
            step(cached, cache, 0)
        with torch_counter() as counter:
            model.lm_head(step(new, cache, cached).last_hidden_state[:, -(logits or new) :])
    return counter.get_total_flops()


@ATTENTION
@pytest.mark.parametrize(("new", "cached", "logits"), [(1, 0, 1), (37, 0, 1), (37, 0, None), (1, 40, None), (5, 40, 2)])
def test_the_language_model(attention: str, new: int, cached: int, logits: int | None) -> None:
    model = thinker(attention=attention)
    result = flops.language_model(model.config.text_config, new, cached, logits)
    assert result.total == read(model, new, cached, logits)
    assert result.pairs == 4 * 2 * new * (new + cached) * 32  # layers 2, width 32


def test_grouped_heads_of_another_width() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    model = thinker(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, rope_parameters=rope)
    assert flops.language_model(model.config.text_config, 19).total == read(model, 19)


@pytest.mark.parametrize("name", ["7b", "3b"])
def test_the_published_sizes_on_the_meta_device(name: str) -> None:
    """Every shape of the real language model, 2,000 tokens, without a byte of it."""
    config = published(name)
    with torch.device("meta"):
        model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    counted = flops.language_model(config.text_config, 2000)
    assert counted.total == read(model, 2000)
    billions = sum(p.numel() for p in model.parameters()) / 1e9
    assert billions == pytest.approx({"7b": 8.93, "3b": 4.70}[name], abs=0.01)


@pytest.mark.parametrize("full", [[0], [1], [0, 1, 2], []])
@pytest.mark.parametrize("grid", [(1, 1, 1), (3, 2, 3), (2, 4, 8), (2, 5, 9)])
def test_the_vision_encoder(grid: tuple[int, int, int], full: list[int]) -> None:
    config = thinker_config()
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 3, full
    model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    tower = next(module for name, module in model.named_modules() if name.endswith("visual"))
    frames, height, width = grid
    pixels = torch.zeros(frames * 4 * height * width, 3 * 2 * PATCH * PATCH)
    with torch.inference_mode(), torch_counter() as counter:
        tower(pixels, grid_thw=torch.tensor([[frames, 2 * height, 2 * width]]))
    assert flops.vision_encoder(config.vision_config, *grid).total == counter.get_total_flops()


@pytest.mark.parametrize("mel", [4, 99, 100, 101, 200, 437])
def test_the_audio_encoder(mel: int) -> None:
    model = thinker()
    tower = next(module for name, module in model.named_modules() if name.endswith("audio_tower"))
    with torch.inference_mode(), torch_counter() as counter:
        out = tower(torch.zeros(MELS, mel), feature_lens=torch.tensor([mel]), aftercnn_lens=torch.tensor([mel // 2]))
    assert flops.audio_encoder(model.config.audio_config, mel).total == counter.get_total_flops()
    assert flops.audio_tokens(mel) == len(out.last_hidden_state)


def test_no_sound_costs_nothing() -> None:
    assert flops.audio_encoder(thinker_config().audio_config, 0).total == 0
    assert flops.audio_tokens(0) == 0


@pytest.mark.parametrize("layers", [1, 3])
def test_the_selector_on_one_chunk(layers: int) -> None:
    config = VGASConfig(input_size=48, hidden_size=16, num_attention_heads=2, num_hidden_layers=layers)
    selector = VGAS(config).eval()
    one = torch.ones(1, dtype=torch.int64)
    shapes = ChunkShapes(frame0=20 * one, frame1=20 * one, audio=50 * one, clip=0 * one)
    counts = Budget(retain_video=0.25, retain_audio=0.5).counts(shapes)
    with torch.inference_mode(), torch_counter() as counter:
        selector(torch.zeros(1, 10, 48), torch.zeros(1, 50, 48))
    assert flops.selector(config, shapes, counts).total == counter.get_total_flops()


def test_compression_of_a_whole_clip() -> None:
    """Chunks of equal size run without padding: the selector, and the dot products of first frames."""
    width, chunks, patches = 32, 6, 12
    config = VGASConfig(input_size=width, hidden_size=16, num_attention_heads=2)
    kinds, times = [], []
    for chunk in range(chunks):
        kinds += [int(Modality.VIDEO)] * 2 * patches + [int(Modality.AUDIO)] * 50
        times += [50 * chunk] * patches + [50 * chunk + 25] * patches + list(range(50 * chunk, 50 * chunk + 50))
    stream = build_stream(
        embeds=torch.randn(len(kinds), width),
        modality=torch.tensor(kinds, dtype=torch.int8),
        position=torch.tensor(times).repeat(3, 1),
        sample=torch.zeros(len(kinds), dtype=torch.int64),
        seconds_per_position=0.04,
    )
    budget, shapes = Budget(retain=0.35), ChunkShapes.of(stream)
    compressor = OmniSiftCompressor(budget, VGAS(config)).eval()
    with torch.inference_mode(), torch_counter() as counter:
        compressor(stream)
    expected = flops.selector(config, shapes, budget.counts(shapes)).total + flops.spatial_dots(shapes, width)
    assert counter.get_total_flops() == expected
    assert flops.video_pruning(shapes, width).total == width * chunks * (5 * patches + 4 * patches)


def test_sound_that_is_not_scored_costs_nothing() -> None:
    """One audio token, or none: the released code skips the selector, and so do we."""
    one = torch.ones(2, dtype=torch.int64)
    shapes = ChunkShapes(frame0=4 * one, frame1=4 * one, audio=torch.tensor([0, 1]), clip=0 * one)
    counts = Budget(retain=0.5).counts(shapes)
    assert flops.selector(VGASConfig(input_size=48), shapes, counts).total == 0


def test_a_prompt_is_its_encoders_and_its_prefill() -> None:
    config = thinker_config()
    parts = (
        flops.vision_encoder(config.vision_config, 3, 2, 2),
        flops.audio_encoder(config.audio_config, 200),
        flops.language_model(config.text_config, 90, logits=1),
    )
    assert flops.prompt(config, (3, 2, 2), 200, 90) == parts[0] + parts[1] + parts[2]
    assert flops.prompt(config, (0, 0, 0), 200, 90) == parts[1] + parts[2]
    assert flops.prompt(config, (3, 2, 2), 0, 90) == parts[0] + parts[2]
