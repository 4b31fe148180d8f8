"""The learned video score: size, padding, frames without a partner, unusual prompts, saving and loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.prompts import random_prompt

from omnisift.budget import from_rho
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.stvp import video_logits
from omnisift.tokens import Modality
from omnisift.vgas import RELEASED_PREFIX, VGAS, VGASConfig
from omnisift.video_score import VideoScore

WIDTH = 16


def score() -> VideoScore:
    torch.manual_seed(0)
    return VideoScore(WIDTH).eval()


def selector() -> VGAS:
    torch.manual_seed(0)
    return VGAS(VGASConfig(input_size=WIDTH, hidden_size=16, num_attention_heads=2, video_score=True)).eval()


def test_its_size_at_the_width_of_7b() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in VideoScore(3584).parameters()) == 1_117_441
        assert VGAS(VGASConfig()).video_score is None  # the paper's selector has none


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    first, second = torch.randn(2, 6, WIDTH), torch.randn(2, 6, WIDTH)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[:, 6:] = False
    noise = torch.randn(2, 3, WIDTH)
    wide = (torch.cat([frame, noise], dim=1) for frame in (first, second))
    for result, wanted in zip(score()(*wide, valid), score()(first, second), strict=True):
        torch.testing.assert_close(result[:, :6], wanted)


@torch.no_grad()
def test_a_frame_without_a_partner_of_its_size_is_scored_by_itself() -> None:
    first, second = torch.randn(2, 6, WIDTH), torch.randn(2, 6, WIDTH)
    by_itself, nothing = score()(first, None)
    assert nothing is None
    before, _ = score()(first, second, None, torch.tensor([False, True]))
    torch.testing.assert_close(before[0], by_itself[0])
    assert not torch.allclose(before[1], by_itself[1])


@torch.no_grad()
def test_similarity_reverses_the_order() -> None:
    first, second = torch.randn(3, 8, WIDTH), torch.randn(3, 8, WIDTH)
    for logits, similarity in zip(score()(first, second), score().similarities(first, second), strict=True):
        assert torch.equal(logits.argsort(dim=1), similarity.argsort(dim=1, descending=True))


@pytest.mark.parametrize("seed", range(40))
@torch.no_grad()
def test_odd_prompts_keep_what_the_budget_says_and_the_highest_scores(seed: int) -> None:
    """Ragged batches, odd frames, unequal frames: counts equal STVP's, and the highest scores are kept."""
    stream = random_prompt(seed, WIDTH, samples=2).stream()
    learned = selector()
    result = OmniSiftCompressor(from_rho(0.67, 0.4), learned).eval()(stream)
    plain = OmniSiftCompressor(from_rho(0.67, 0.4), VGAS(VGASConfig(WIDTH, 16, 2))).eval()(stream)
    segment, parts = segment_of(stream), 3 * len(ChunkShapes.of(stream))
    inside = segment >= 0
    counts = [torch.bincount(segment[one.keep & inside], minlength=parts).tolist() for one in (result, plain)]
    assert counts[0] == counts[1]
    logits = video_logits(learned.video_score, stream)
    for part in range(parts):
        here = torch.nonzero((segment == part) & (stream.modality == int(Modality.VIDEO)))[:, 0]
        if len(here) and not logits[here].isnan().any():
            kept = here[result.keep[here]]
            assert set(kept.tolist()) == set(here[logits[here].topk(len(kept)).indices].tolist())


def test_gradients_reach_it() -> None:
    stream = random_prompt(3, WIDTH, samples=1).stream()
    video_score = score()
    video_logits(video_score, stream).nan_to_num(0.0).sum().backward()
    assert all(p.grad is not None for p in video_score.parameters())
    assert float(video_score.proj.weight.grad.abs().sum()) > 0


def test_it_is_saved_with_the_selector_and_read_back(tmp_path: Path) -> None:
    made = selector()
    made.save_pretrained(tmp_path / "own")
    save_file({RELEASED_PREFIX + name: t for name, t in made.state_dict().items()}, tmp_path / "model.safetensors")
    assert any(name.startswith("picture.") for name in load_file(tmp_path / "own" / "model.safetensors"))
    for read in (VGAS.from_pretrained(str(tmp_path / "own")), VGAS.from_checkpoint(tmp_path, num_attention_heads=2)):
        assert read.label == "video score"
        for name, tensor in made.state_dict().items():
            assert torch.equal(tensor, read.state_dict()[name])
