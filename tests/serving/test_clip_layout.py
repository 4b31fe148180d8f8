"""The geometry of a clip against Transformers' own rule for whole prompts, and against `attach`'s stream."""

from __future__ import annotations

import random

import pytest
import torch
from tests.tiny import AUDIO, AUDIO_END, AUDIO_START, VIDEO, VISION_END, VISION_START, thinker

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, build_stream
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.serving.clip_layout import ClipLayout, Clock
from omnisift.tokens import Modality

WORD = 30


@pytest.fixture(scope="module")
def adapter() -> Qwen25OmniAdapter:
    return Qwen25OmniAdapter(thinker())


def geometry(seed: int) -> tuple[tuple[int, int, int], float, int]:
    """(frames, rows, columns), seconds a frame, audio tokens: also slow films, one frame, no sound."""
    rng = random.Random(seed)
    grid = (rng.randint(1, 9), rng.randint(1, 5), rng.randint(1, 5))
    return grid, rng.choice([0.08, 0.5, 1.0, 1.0, 1.1428571, 2.0, 3.7]), rng.choice([0, 1, 2, rng.randint(3, 260)])


def prompt_of(span: ClipLayout) -> torch.Tensor:
    """Text, the clip with its marks, text: [1, S]."""
    labels = torch.where(span.modality == Modality.AUDIO, AUDIO, VIDEO)
    ends = ([AUDIO_START], [AUDIO_END]) if span.has_sound else ([], [])
    return torch.tensor(
        [[WORD, WORD, VISION_START, *ends[0], *labels.tolist(), *ends[1], VISION_END, WORD, WORD, WORD]]
    )


@pytest.mark.parametrize("seed", range(60))
def test_positions_are_the_hosts(adapter: Qwen25OmniAdapter, seed: int) -> None:
    grid, pace, audio = geometry(seed)
    span = ClipLayout.of(grid, pace, audio, Clock())
    ids = prompt_of(span)
    arguments = {"video_grid_thw": torch.tensor([[grid[0], 2 * grid[1], 2 * grid[2]]])}
    arguments |= {"video_second_per_grid": torch.tensor([pace]), "use_audio_in_video": span.has_sound}
    if audio:
        arguments["audio_feature_lengths"] = torch.tensor([4 * audio])
    host = adapter.position_ids(ids, torch.ones_like(ids), arguments)[:, 0]
    start = 3 + span.has_sound
    assert torch.equal(host[:, start : start + len(span)] - 3, span.position)
    assert int(host[0, start + len(span)]) == 3 + span.end, "what follows the clip"


@pytest.mark.parametrize("seed", range(60))
def test_counts_are_those_of_the_stream(seed: int) -> None:
    """What a budget says of the span, before any embedding, is what it says of the whole prompt's stream."""
    grid, pace, audio = geometry(seed)
    span = ClipLayout.of(grid, pace, audio, Clock())
    budget = random.Random(seed).choice([Budget(retain=0.25), Budget(retain_video=0.1, retain_audio=0.7)])
    ids = prompt_of(span)[0]
    modality = torch.zeros(len(ids), dtype=torch.int8)
    modality[ids == VIDEO], modality[ids == AUDIO] = int(Modality.VIDEO), int(Modality.AUDIO)
    position = torch.zeros(3, len(ids), dtype=torch.int64)
    position[:, modality > 0] = span.position + 7
    stream = build_stream(torch.zeros(len(ids), 1), modality, position, torch.zeros(len(ids)), 0.04)
    expected = budget.counts(ChunkShapes.of(stream)).by_segment()
    assert torch.equal(span.counts(budget).by_segment(), expected)
    assert len(span.kept(budget)) == int(expected.sum())
    assert span.kept(Budget(retain=1.0)).count(Modality.VIDEO) == grid[0] * grid[1] * grid[2]


def test_order_takes_every_row_once() -> None:
    span = ClipLayout.of((5, 2, 3), 1.0, 131, Clock())
    assert sorted(span.order.tolist()) == list(range(30 + 131))
    assert torch.equal(span.modality == Modality.AUDIO, span.order >= 30)
