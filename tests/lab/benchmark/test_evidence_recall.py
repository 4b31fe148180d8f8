"""Evidence of a batch, counted at once, is the clip-by-clip count of `omnisift.lab.benchmark.evidence`."""

import numpy as np
import torch

from omnisift.lab.benchmark.evidence import count_kept
from omnisift.lab.benchmark.evidence_recall import Evidence
from omnisift.world import make_scene, questions, truth

VIDEO, AUDIO = 96, 150


def layout():
    """Three chunks of 32 video and 50 audio tokens between two words."""
    return torch.tensor([0, *([1] * 32 + [2] * 50) * 3, 0], dtype=torch.int8)


def test_counts_are_those_clip_by_clip():
    modality = layout()
    scenes = [make_scene(seed, "test") for seed in range(12)]
    asked = [questions(scene, np.random.default_rng(scene.number)) for scene in scenes]
    truths = [truth(scene) for scene in scenes]
    keep = torch.rand(12, len(modality), generator=torch.Generator().manual_seed(0)) < 0.2
    result = Evidence.of(modality, truths, asked).kept_counts(keep)
    single = [
        count_kept(t, q, k[modality == 1].numpy(), k[modality == 2].numpy())
        for t, q, k in zip(truths, asked, keep, strict=True)
    ]
    for name, old in (
        ("shape_events", "shape_events"),
        ("sound_events", "sound_events"),
        ("video", "video"),
        ("audio", "audio"),
        ("tied_tokens", "tied_tokens"),
        ("distractor_tokens", "distractor_tokens"),
    ):
        assert result[name] == [sum(getattr(s, old) for s in single), sum(getattr(s, f"{old}_all") for s in single)]


def test_token_recall_counts_tokens_not_events():
    modality = layout()
    scene = make_scene(0, "test")
    asked = [q for q in questions(scene, np.random.default_rng(0)) if q.type == "color_of_shape"]
    evidence = Evidence.of(modality, [truth(scene)], [asked])
    tokens = truth(scene).flat_video(asked[0].shapes[0])
    keep = torch.zeros(1, len(modality), dtype=torch.bool)
    keep[0, torch.nonzero(modality == 1)[:, 0][tokens[0]]] = True
    result = evidence.kept_counts(keep)
    assert result["shape_tokens"] == [1, len(tokens)]
    assert result["shape_events"] == [1, 1]
    assert result["sound_events"] == [0, 0]
