"""The ground truth of generated clips: recovered from the file, and only used where it matches the clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import write_video

from omnisift.inspector import Inspection
from omnisift.inspector.evidence import evidence_of, find_question, find_scene, setting_of
from omnisift.inspector.trace import Trace
from omnisift.lab.benchmark.evidence_recall import Evidence
from omnisift.media import Media, read
from omnisift.world import SETTINGS, count_kept, make_scene, questions, truth, write_clip


def at_size(path: Path) -> Media:
    return read(path, min_pixels=784, max_pixels=112 * 112)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_recovered(tmp_path: Path, name: str) -> None:
    scene = make_scene(5, "validation", SETTINGS[name].config)
    write_clip(scene, tmp_path / "clip.mp4")
    result = find_scene(at_size(tmp_path / "clip.mp4"))
    assert result == scene
    assert setting_of(result) == name


def test_a_comment_alone_proves_nothing(clip: Path) -> None:
    media = at_size(clip)
    assert find_scene(media) is not None
    assert find_scene(replace(media, tags={"comment": "omnisift world test 8"})) is None
    assert find_scene(replace(media, tags={"comment": "a holiday"})) is None
    assert find_scene(replace(media, images=media.images[:, :, ::-1])) is None
    assert find_scene(replace(media, images=media.images[:-2])) is None, "not sampled at the clip's own rate"


def test_every_question_is_found_by_its_text() -> None:
    for seed in range(3):
        scene = make_scene(seed)
        for question in questions(scene, np.random.default_rng(100 + seed)):
            result = find_question(scene, f"  {question.text.upper()} ")
            assert result is not None
            assert (result.type, result.answer, result.shapes, result.sounds) == (
                question.type,
                question.answer,
                question.shapes,
                question.sounds,
            )
    assert find_question(make_scene(0), "What is the meaning of it?") is None


def test_recall_matches_the_benchmark(compared: Inspection) -> None:
    trace = compared.trace
    scene = make_scene(7, "test")
    selection = trace.methods[1].selection
    assert selection is not None
    for question in questions(scene, np.random.default_rng(1)):
        evidence = evidence_of(scene, question.text, trace.tokens)
        assert evidence is not None
        recall = count_kept([event.tokens for event in evidence.events], selection.kept)
        batch = Evidence.of(torch.from_numpy(trace.tokens.modality), [truth(scene)], [[question]])
        counted = batch.kept_counts(torch.from_numpy(selection.kept)[None])
        events, tokens = ([counted[f"shape_{what}"], counted[f"sound_{what}"]] for what in ("events", "tokens"))
        assert [recall.events, recall.events_all] == [sum(pair) for pair in zip(*events, strict=True)]
        assert [recall.tokens, recall.tokens_all] == [sum(pair) for pair in zip(*tokens, strict=True)]
        assert evidence.answer == question.answer


def test_the_default_question_has_evidence(compared: Inspection) -> None:
    trace: Trace = compared.trace
    assert trace.evidence is not None
    assert {event.kind for event in trace.evidence.events} == {"shape", "sound"}
    full, cut = trace.methods[0].kept_evidence, trace.methods[1].kept_evidence
    assert full is not None
    assert cut is not None
    assert (full.tokens, full.events) == (full.tokens_all, full.events_all)
    assert cut.tokens_all == full.tokens_all >= cut.tokens


def test_other_clips_and_questions_have_no_evidence(inspected, clip: Path, tmp_path: Path) -> None:
    trace = inspected(clip, "uniform", question="Who made it?").trace
    assert trace.evidence is None
    assert any("not one of the generated questions" in notice for notice in trace.notices)
    trace = inspected(clip, "uniform", question="Who made it?", fps=1.0).trace
    assert any("does not match" in notice for notice in trace.notices)
    trace = inspected(write_video(tmp_path / "video.mp4", 2), "uniform").trace
    assert trace.evidence is None
    assert trace.methods[1].kept_evidence is None
