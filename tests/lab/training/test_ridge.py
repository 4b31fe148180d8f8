"""Ridge regression finds a linear target, sees the kept video only if asked to, and keeps the budget."""

import pytest
import torch

from omnisift.budget import kept_count
from omnisift.lab.training.ridge import fit_ridge, ridge_features


@pytest.mark.parametrize("retain", [None, 0.25])
def test_a_linear_target_is_found(features, retain):
    video, audio = features.video.float(), features.audio.float()
    seen = ridge_features(video, audio, retain)
    assert seen.shape == (20, 150, 3 * 128 + 1 + 128 * (retain is not None))
    target = seen @ torch.randn(seen.shape[-1], generator=torch.Generator().manual_seed(0)).double()
    ridge = fit_ridge(features, target.float(), 1e-9, retain)
    found = ridge.scores(video, audio, 0.25).flatten(1)
    assert torch.corrcoef(torch.stack([found.flatten(), target.flatten()]))[0, 1] > 0.999


def test_a_high_penalty_shrinks_the_weights(features):
    target = torch.rand(20, 150, generator=torch.Generator().manual_seed(0))
    low, high = (fit_ridge(features, target, penalty).weight.norm() for penalty in (1e-3, 1e3))
    assert high < 0.01 * low


def test_the_selection_keeps_the_counts_and_the_highest_scores(features):
    video, audio = features.video[:2].float(), features.audio[:2].float()
    ridge = fit_ridge(features, torch.rand(20, 150, generator=torch.Generator().manual_seed(0)), 0.1)
    kept = ridge.selection(0.25)(video, audio)
    assert kept.video.shape == (2, 6 * kept_count(16, 0.25))
    best = ridge.scores(video, audio, 0.25).topk(kept_count(50, 0.25)).indices + torch.tensor([0, 50, 100])[:, None]
    assert torch.equal(kept.audio, best.flatten(1).sort(1).values)
