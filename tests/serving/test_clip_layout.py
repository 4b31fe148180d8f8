"""The layout of a clip against Transformers' rules for complete prompts, and against the stream of `attach`."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tests.helpers.families import FAMILIES, Clip
from tests.helpers.models import AUDIO, AUDIO_END, AUDIO_START, VIDEO, VISION_END, VISION_START

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.models import adapter_for
from omnisift.models.adapter import Adapter, Prompt
from omnisift.serving.clip_layout import PARTS, ClipLayout, TimeConfig
from omnisift.serving.vllm.positions import MediaSpan, prompt_positions
from omnisift.tokens import Modality

WORD = 30
RULES = {"qwen2_5_omni_thinker": TimeConfig(), "qwen3_omni_moe_thinker": TimeConfig(13, None)}


@pytest.fixture(scope="module", params=RULES)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """A random host of each served family."""
    return adapter_for(FAMILIES[request.param].model())


@pytest.fixture
def rule(adapter: Adapter) -> TimeConfig:
    return TimeConfig.of(adapter.config)


def test_the_rules_are_read_from_the_configuration(adapter: Adapter, rule: TimeConfig) -> None:
    assert rule == RULES[adapter.config.model_type]
    assert [rule.audio_tokens(frames) for frames in range(700)] == [
        adapter.audio_tokens(frames) for frames in range(700)
    ]


def geometry(seed: int) -> tuple[tuple[int, int, int], float, int]:
    """(frames, rows, columns), seconds per frame, mel frames; also slow videos, one frame, no audio."""
    rng = random.Random(seed)
    grid = (rng.randint(1, 9), rng.randint(1, 5), rng.randint(1, 30 if seed % 4 == 0 else 5))
    seconds = rng.choice([0.08, 0.5, 1.0, 1.0, 2 / 1.75, 2.0, 3.7, 2 / 29.97, rng.uniform(0.05, 4)])
    return grid, seconds, rng.choice([0, 4, 8, rng.randint(9, 1040)])


def layout_of(rule: TimeConfig, seed: int) -> tuple[ClipLayout, tuple[int, int, int], float, int]:
    grid, seconds, mel = geometry(seed)
    return ClipLayout.of(grid, seconds, rule.audio_tokens(mel), rule), grid, seconds, mel


def prompt_of(layout: ClipLayout) -> torch.Tensor:
    """[1, S]: text, the clip with its marks, text."""
    labels = torch.where(layout.modality == Modality.AUDIO, AUDIO, VIDEO)
    ends = ([AUDIO_START], [AUDIO_END]) if layout.has_audio else ([], [])
    return torch.tensor(
        [[WORD, WORD, VISION_START, *ends[0], *labels.tolist(), *ends[1], VISION_END, WORD, WORD, WORD]]
    )


@pytest.mark.parametrize("seed", range(120))
def test_positions_are_those_of_the_host(adapter: Adapter, rule: TimeConfig, seed: int) -> None:
    """Whole ids exactly; fractions to the nearest of `PARTS`, beyond which float32 itself rounds."""
    layout, grid, seconds, mel = layout_of(rule, seed)
    ids = prompt_of(layout)
    core: Any = adapter.parts.core
    host = core.get_rope_index(
        ids,
        video_grid_thw=torch.tensor([[grid[0], 2 * grid[1], 2 * grid[2]]]),
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=layout.has_audio,
        audio_seqlens=torch.tensor([mel]) if layout.has_audio else None,
        second_per_grids=torch.tensor([seconds]),
    )[0][:, 0]
    start = 3 + layout.has_audio
    span = MediaSpan(3, len(layout) + 2 * layout.has_audio, layout=layout)
    position = prompt_positions(ids.shape[1], [span], layout.parts)
    position[:, start : start + len(layout)] = layout.position_ids + position[:, start - 1 : start] + layout.parts
    difference = position.double() / layout.parts - host.double()
    assert float(difference.abs().max()) <= (0.6 / PARTS if layout.parts > 1 else 0)
    assert (float(host[0, start]) == int(host[0, start])) or layout.parts > 1


@pytest.mark.parametrize("seed", range(120))
def test_the_stream_is_that_of_attach(adapter: Adapter, rule: TimeConfig, seed: int) -> None:
    """Chunks, frames, times and places, before any embedding; so a budget gives the same counts."""
    layout, grid, seconds, _ = layout_of(rule, seed)
    budget = random.Random(seed).choice([Budget(retain=0.25), Budget(retain_video=0.1, retain_audio=0.7)])
    ids = prompt_of(layout)
    arguments = {"video_grid_thw": torch.tensor([[grid[0], 2 * grid[1], 2 * grid[2]]])}
    arguments["video_second_per_grid"] = torch.tensor([seconds])
    expected = adapter.layout(Prompt(ids, ids > 0, adapter.modality(ids), arguments)).stream(torch.zeros(*ids.shape, 1))
    inside = expected.clip >= 0
    stream = layout.stream(torch.zeros(len(layout), 1))
    for name in ("modality", "chunk", "frame", "clip", "time"):
        assert torch.equal(getattr(stream, name), getattr(expected, name)[inside]), name
    assert torch.equal(stream.position, expected.position[:, inside])
    counts = budget.counts(ChunkShapes.of(expected)).by_segment()
    assert torch.equal(layout.counts(budget).by_segment(), counts)
    assert len(layout.kept_labels(budget)) == int(counts.sum())
    assert layout.kept_labels(Budget(retain=1.0)).count(Modality.VIDEO) == grid[0] * grid[1] * grid[2]


@pytest.mark.parametrize("rule", RULES.values())
def test_order_takes_every_row_once(rule: TimeConfig) -> None:
    layout = ClipLayout.of((5, 2, 3), 1.0, 131, rule)
    assert sorted(layout.order.tolist()) == list(range(30 + 131))
    assert torch.equal(layout.modality == Modality.AUDIO, layout.order >= 30)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2 / 1.75, 2 / 29.97])
def test_tokens_lie_in_the_order_of_the_processor(seconds: float) -> None:
    family, rule = FAMILIES["qwen3_omni_moe_thinker"], RULES["qwen3_omni_moe_thinker"]
    labels = family.interleaved(Clip(frames=7, height=2, width=3, sound=4), seconds)
    layout = ClipLayout.of((7, 2, 3), seconds, 52, rule)
    assert torch.where(layout.modality == Modality.AUDIO, AUDIO, VIDEO).tolist() == labels
