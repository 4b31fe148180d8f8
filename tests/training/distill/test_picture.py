"""A score for the picture from the same teacher: it learns, is saved with the selector, and a run takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from omnisift.budget import Budget
from omnisift.cli.app import app
from omnisift.compressors import make_compressor
from omnisift.compressors.pruning import picture_logits
from omnisift.tokens import Modality
from omnisift.training.distill import clips_in
from omnisift.training.distill.learn import learn_picture, picture_agreement, picture_targets_of
from omnisift.training.distill.samples import Lesson, stream_of
from omnisift.training.selector import new_selector
from omnisift.vgas import VGAS

ASKED = "What colour is the square?"


def test_targets_lie_on_the_picture_and_end_at_one(lessons: list[Lesson]) -> None:
    target, stream = picture_targets_of(lessons), stream_of(lessons)
    assert torch.equal(~target.isnan(), stream.modality == int(Modality.VIDEO))
    for row in range(len(lessons)):
        assert target[(stream.sample == row) & ~target.isnan()].max() == pytest.approx(1.0)


def test_it_learns_and_then_chooses_the_anchors(lessons: list[Lesson]) -> None:
    selector = new_selector(128, True, 0, picture=True)
    picture: Any = selector.picture

    def found() -> dict[str, float]:
        return picture_agreement(lambda stream, _: picture_logits(picture, stream), lessons, 0.25)

    before = found()
    losses = learn_picture(picture, lessons, 60, 1e-3, 0)
    after = found()
    assert losses[-1] < losses[0] / 2
    assert after["attention"] > before["attention"] + 0.1
    assert after["rank"] > before["rank"] + 0.1
    # What the compressor keeps of the picture are the highest of these scores in every frame.
    stream = stream_of(lessons[:1])
    kept = make_compressor("omnisift", Budget(retain=0.25), selector=selector)(stream).keep
    logits = picture_logits(picture, stream).detach()
    for chunk in range(int(stream.chunk.max()) + 1):
        for frame in (0, 1):
            here = torch.nonzero((stream.chunk == chunk) & (stream.frame == frame))[:, 0]
            assert set(here[kept[here]].tolist()) == set(here[logits[here].topk(4).indices].tolist())
    plain = make_compressor("omnisift", Budget(retain=0.25), selector=new_selector(128, True, 0))(stream).keep
    video = stream.modality == int(Modality.VIDEO)
    assert not torch.equal(plain[video], kept[video])


def test_the_command_teaches_and_saves_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "selector"
    command = ["distill", "--media", str(folder), "-o", str(out), "--picture", "--steps", "5"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "video, 25 % kept" in shown.stdout
    report = json.loads((out / "report.json").read_text())
    assert set(report["picture"]["0.15"]) == {"learned", "stvp", "salient", "random"}
    selector = VGAS.from_pretrained(str(out))
    assert selector.picture is not None
    assert selector.label == "time+picture"
    asked = CliRunner().invoke(app, ["ask", str(clips_in(folder)[0]), ASKED, "--selector", str(out), "--json"])
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["compressor"] == "omnisift+time+picture"


def test_the_page_is_what_the_result_says() -> None:
    from picture import page

    root = Path(__file__).parents[3]
    table = page(root / "benchmarks/results/picture.jsonl")
    assert table in (root / "docs/distill.md").read_text(encoding="utf-8"), "run: make bench-picture"
