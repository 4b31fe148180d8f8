"""The learned video score: it trains on the same attention, is saved with the selector, and is used by a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.benchmarks import load_benchmark
from typer.testing import CliRunner

from omnisift.budget import Budget
from omnisift.cli.app import app
from omnisift.compressors import make_compressor
from omnisift.models.selector import new_selector
from omnisift.stvp import video_logits
from omnisift.tokens import Modality
from omnisift.training.distill import find_clips
from omnisift.training.distill.learn import train_video_score, video_agreement, video_targets
from omnisift.training.distill.samples import DistillSample, stream_of
from omnisift.vgas import VGAS

ASKED = "What colour is the square?"


def test_targets_cover_video_and_have_a_maximum_of_one(samples: list[DistillSample]) -> None:
    target, stream = video_targets(samples), stream_of(samples)
    assert torch.equal(~target.isnan(), stream.modality == int(Modality.VIDEO))
    for row in range(len(samples)):
        assert target[(stream.sample == row) & ~target.isnan()].max() == pytest.approx(1.0)


def test_losses_are_those_of_the_record(samples: list[DistillSample]) -> None:
    """The record is of commit 397ee60, which had a loop for distillation alone."""
    video_score: Any = new_selector(128, True, 0, video_score=True).picture
    recorded = [0.624518, 0.600821, 0.556748, 0.498688, 0.435218, 0.393072]
    assert train_video_score(video_score, samples, 6, 1e-3, 0) == pytest.approx(recorded, rel=1e-4)


def test_it_learns_and_then_chooses_the_anchors(samples: list[DistillSample]) -> None:
    selector = new_selector(128, True, 0, video_score=True)
    video_score: Any = selector.picture

    def found() -> dict[str, float]:
        return video_agreement(lambda stream, _: video_logits(video_score, stream), samples, 0.25)

    before = found()
    losses = train_video_score(video_score, samples, 60, 1e-3, 0)
    after = found()
    assert losses[-1] < losses[0] / 2
    assert after["attention"] > before["attention"] + 0.1
    assert after["rank"] > before["rank"] + 0.1
    # The compressor keeps the video tokens with the highest of these scores in every frame.
    stream = stream_of(samples[:1])
    kept = make_compressor("omnisift", Budget(retain=0.25), selector=selector)(stream).keep
    logits = video_logits(video_score, stream).detach()
    for chunk in range(int(stream.chunk.max()) + 1):
        for frame in (0, 1):
            tokens = torch.nonzero((stream.chunk == chunk) & (stream.frame == frame))[:, 0]
            assert set(tokens[kept[tokens]].tolist()) == set(tokens[logits[tokens].topk(4).indices].tolist())
    plain = make_compressor("omnisift", Budget(retain=0.25), selector=new_selector(128, True, 0))(stream).keep
    video = stream.modality == int(Modality.VIDEO)
    assert not torch.equal(plain[video], kept[video])


def test_the_command_trains_and_saves_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "selector"
    command = ["distill", "--media", str(folder), "-o", str(out), "--picture", "--steps", "5"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "video, 25 % kept" in shown.stdout
    report = json.loads((out / "report.json").read_text())
    assert set(report["picture"]["0.15"]) == {"learned", "stvp", "salient", "random"}
    selector = VGAS.from_pretrained(str(out))
    assert selector.picture is not None
    assert selector.label == "time+video score"
    asked = CliRunner().invoke(app, ["ask", str(find_clips(folder)[0]), ASKED, "--selector", str(out), "--json"])
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["compressor"] == "omnisift+time+video score"


def test_the_page_shows_the_committed_result() -> None:
    page = load_benchmark("video_score").page
    root = Path(__file__).parents[3]
    table = page(root / "benchmarks/results/picture.jsonl")
    assert table in (root / "docs/distill.md").read_text(encoding="utf-8"), "run: benchmarks/accuracy/video_score.py"
