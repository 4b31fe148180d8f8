"""The layout of a clip against Transformers' rule for complete prompts, and against the stream of `attach`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.helpers.models import AUDIO, AUDIO_END, AUDIO_START, VIDEO, VISION_END, VISION_START, thinker

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, build_stream
from omnisift.models import adapter_for
from omnisift.serving.clip_layout import ClipLayout, TimeConfig
from omnisift.tokens import Modality

WORD = 30


@pytest.fixture(scope="module")
def host_rule() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """``get_rope_index`` of the host."""
    core: Any = adapter_for(thinker()).parts.core
    return core.get_rope_index


def geometry(seed: int) -> tuple[tuple[int, int, int], float, int]:
    """(frames, rows, columns), seconds per frame, audio tokens; also slow videos, one frame, no audio."""
    rng = random.Random(seed)
    grid = (rng.randint(1, 9), rng.randint(1, 5), rng.randint(1, 5))
    return grid, rng.choice([0.08, 0.5, 1.0, 1.0, 1.1428571, 2.0, 3.7]), rng.choice([0, 1, 2, rng.randint(3, 260)])


def prompt_of(layout: ClipLayout) -> torch.Tensor:
    """[1, S]: text, the clip with its marks, text."""
    labels = torch.where(layout.modality == Modality.AUDIO, AUDIO, VIDEO)
    ends = ([AUDIO_START], [AUDIO_END]) if layout.has_audio else ([], [])
    return torch.tensor(
        [[WORD, WORD, VISION_START, *ends[0], *labels.tolist(), *ends[1], VISION_END, WORD, WORD, WORD]]
    )


@pytest.mark.parametrize("seed", range(60))
def test_positions_are_those_of_the_host(host_rule: Callable[..., Any], seed: int) -> None:
    grid, seconds, audio = geometry(seed)
    layout = ClipLayout.of(grid, seconds, audio, TimeConfig())
    ids = prompt_of(layout)
    host = host_rule(
        ids,
        video_grid_thw=torch.tensor([[grid[0], 2 * grid[1], 2 * grid[2]]]),
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=layout.has_audio,
        audio_seqlens=torch.tensor([4 * audio]) if audio else None,
        second_per_grids=torch.tensor([seconds]),
    )[0][:, 0]
    start = 3 + layout.has_audio
    assert torch.equal(host[:, start : start + len(layout)] - 3, layout.position_ids)
    assert int(host[0, start + len(layout)]) == 3 + layout.end, "what follows the clip"


@pytest.mark.parametrize("seed", range(60))
def test_counts_are_those_of_the_stream(seed: int) -> None:
    """A budget gives the same counts for the layout, before any embedding, as for the stream of the prompt."""
    grid, seconds, audio = geometry(seed)
    layout = ClipLayout.of(grid, seconds, audio, TimeConfig())
    budget = random.Random(seed).choice([Budget(retain=0.25), Budget(retain_video=0.1, retain_audio=0.7)])
    ids = prompt_of(layout)[0]
    modality = torch.zeros(len(ids), dtype=torch.int8)
    modality[ids == VIDEO], modality[ids == AUDIO] = int(Modality.VIDEO), int(Modality.AUDIO)
    position = torch.zeros(3, len(ids), dtype=torch.int64)
    position[:, modality > 0] = layout.position_ids + 7
    stream = build_stream(torch.zeros(len(ids), 1), modality, position, torch.zeros(len(ids)), 0.04)
    expected = budget.counts(ChunkShapes.of(stream)).by_segment()
    assert torch.equal(layout.counts(budget).by_segment(), expected)
    assert len(layout.kept_labels(budget)) == int(expected.sum())
    assert layout.kept_labels(Budget(retain=1.0)).count(Modality.VIDEO) == grid[0] * grid[1] * grid[2]


def test_order_takes_every_row_once() -> None:
    layout = ClipLayout.of((5, 2, 3), 1.0, 131, TimeConfig())
    assert sorted(layout.order.tolist()) == list(range(30 + 131))
    assert torch.equal(layout.modality == Modality.AUDIO, layout.order >= 30)
