"""Evidence of a batch is the sum of its clips, each counted on its own."""

import numpy as np
import torch

from omnisift.lab.benchmark.evidence_recall import Evidence
from omnisift.world import count_kept, make_scene, questions, truth


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
    expected = {name: np.zeros(2, int) for name in result}
    for facts, of_clip, kept in zip(truths, asked, keep, strict=True):
        video, audio = kept[modality == 1].numpy(), kept[modality == 2].numpy()
        for name, mask, chosen in (
            ("video", video, np.ones(96, bool)),
            ("audio", audio, np.ones(150, bool)),
            ("tied_tokens", audio, facts.audio_owner > 0),
            ("distractor_tokens", audio, facts.audio_owner < 0),
        ):
            expected[name] += [mask[chosen].sum(), chosen.sum()]
        for kind, mask in (("shape", video), ("sound", audio)):
            events = [event.tokens for q in of_clip for event in facts.evidence(q) if event.kind == kind]
            count = count_kept(events, mask)
            expected[f"{kind}_tokens"] += [count.tokens, count.tokens_all]
            expected[f"{kind}_events"] += [count.events, count.events_all]
    assert result == {name: counts.tolist() for name, counts in expected.items()}


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
