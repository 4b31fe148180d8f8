"""Conditions: options of a setting are read, change what a method or the model sees, and reach the result file."""

import numpy as np
import pytest
import torch

from omnisift.errors import UsageError
from omnisift.lab.benchmark.condition import Condition
from omnisift.lab.benchmark.journal import Journal
from omnisift.lab.benchmark.plan import Plan, settings_of
from omnisift.lab.benchmark.quality import BenchWorker
from omnisift.lab.benchmark.recipe import parse_recipe
from omnisift.lab.benchmark.results import read_result
from omnisift.lab.benchmark.run import line_key
from omnisift.lab.benchmark.workers import run
from omnisift.media import Media
from omnisift.tokens import Modality
from omnisift.utils.assets import nano_path

SETTINGS = ["base", "base fps=4", "base shift=2", "base noise=0.5"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    rows = [{"method": "divprune"}, {"method": "resift"}]
    recipe = {"name": "conditions", "title": "", "clips": 2, "retain": [0.25], "settings": SETTINGS, "rows": rows}
    return Plan(parse_recipe(recipe), str(nano_path()), tmp_path_factory.mktemp("conditions"))


def test_options_are_read():
    assert Condition.parse("wide+dark") == Condition("wide+dark")
    assert Condition.parse("base fps=4 pixels=3136") == Condition("base", fps=4.0, pixels=3136)
    assert Condition.parse("base noise=0.5").file_name == Condition.parse("base").file_name
    assert Condition.parse("base fps=1").file_name == "base-fps1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sea",
        "base fps",
        "base fps=0",
        "base fps=-1",
        "base fps=nan",
        "base pixels=1.5",
        "base hold=0",
        "base hold=1.5",
        "base speed=2",
        "base +dark",
        "base fps=4 fps=2",
    ],
)
def test_a_wrong_option_is_refused(text):
    with pytest.raises(UsageError):
        Condition.parse(text)


def test_what_changes(plan):
    worker = BenchWorker(plan)
    plain, noisy, more = (worker.batch(name, 0, 2)[0] for name in ("base", "base noise=0.5", "base fps=4"))
    text = plain.modality == Modality.TEXT
    # Noise is in the media tokens alone, half as long as they are, and the same at every call.
    assert torch.equal(plain.embeds[:, text], noisy.embeds[:, text])
    media = plain.embeds[:, ~text]
    length = (noisy.embeds[:, ~text] - media).norm(dim=-1).mean() / media.norm(dim=-1).mean()
    assert float(length) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(noisy.embeds, Condition.parse("base noise=0.5").noisy(plain, 0).embeds)
    # Four images a second are twice the video, with the same audio.
    a, b, c, d = (
        (clips.modality == kind).sum() for kind in (Modality.VIDEO, Modality.AUDIO) for clips in (plain, more)
    )
    assert (2 * a, c) == (b, d)
    # A shift is as long as the mean token twice, and equal for all.
    offset = Condition.parse("base shift=2").offset(plain)
    assert float(offset.norm() / media.norm(dim=-1).mean()) == pytest.approx(2, rel=1e-4)


def test_images_are_held_and_coarsened_at_the_same_rate_and_size():
    images = np.random.default_rng(0).integers(0, 256, (7, 56, 56, 3), dtype=np.uint8)
    media = Media.from_arrays(np.repeat(images, 2, axis=0), 4, min_pixels=56 * 56, max_pixels=56 * 56)
    held = Condition.parse("base hold=3").seen(media).images
    assert held.shape == media.images.shape
    assert [int(np.flatnonzero([np.array_equal(i, j) for j in media.images])[0]) for i in held[:7]] == [
        0,
        0,
        0,
        3,
        3,
        3,
        6,
    ]
    coarse = Condition.parse(f"base detail={28 * 28}").seen(media).images
    assert coarse.shape == media.images.shape
    assert coarse.std() < 0.6 * media.images.std()
    assert Condition.parse("base fps=4").seen(media) is media
    assert not Condition.parse("base hold=2").as_drawn
    names = {Condition.parse(f"base {option}").file_name for option in ("hold=2", "hold=4", "detail=784", "fps=4")}
    assert len(names) == 4


def test_results_of_conditions(plan, tmp_path):
    path = tmp_path / "conditions.jsonl"
    journal = Journal(path, settings_of(plan), key=line_key)
    run(plan, 2, {}, journal.add, workers=0)
    result = read_result(path)
    assert result.clips == dict.fromkeys(SETTINGS, 2)
    rows = [result.row(name, "resift", "25") for name in SETTINGS]
    assert all(row.right.shape == (2, 8) and row.ratio == pytest.approx(0.25, abs=0.02) for row in rows)
    # Where other images are read than the scene draws, no evidence is known.
    assert [row.kept["shape_tokens"][1] > 0 for row in rows] == [True, False, True, True]
    # The model does not see the shift: all tokens give the answers of the clip as it is.
    assert (result.full("base shift=2").right == result.full("base").right).all()
