"""The controlled benchmark on a few clips: it runs, resumes, says what can't be reached, and makes its page."""

import json

import numpy as np
import pytest
import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.errors import CompressorError, UsageError
from omnisift.evaluation.tables import ALL_TOKENS
from omnisift.lab.benchmark import quality
from omnisift.lab.benchmark.encoded import encode_scenes
from omnisift.lab.benchmark.journal import Journal
from omnisift.lab.benchmark.plan import Plan, settings_of, tensors_digest
from omnisift.lab.benchmark.plots import curves, digest, draw
from omnisift.lab.benchmark.quality import pack, unpack
from omnisift.lab.benchmark.recipe import parse_recipe
from omnisift.lab.benchmark.results import read_result
from omnisift.lab.benchmark.results_page import page
from omnisift.lab.benchmark.workers import dealt, run
from omnisift.tokens import Modality
from omnisift.utils.assets import nano_path
from omnisift.world import make_scene

RECIPE = {
    "name": "training-free",
    "title": "Small",
    "about": "A few clips.",
    "clips": 4,
    "retain": [0.5, 0.25],
    "seeds": [0, 1],
    "rows": [
        {"method": "omnisift", "selector": "own", "label": "omnisift+time"},
        {"method": "random"},
        {"method": "dycoke"},
    ],
}


def key(record):
    return record["row"], record["first"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A result of four clips in batches of two; the run was interrupted once."""
    folder = tmp_path_factory.mktemp("quality")
    patch = pytest.MonkeyPatch()
    patch.setattr("omnisift.lab.benchmark.plan.BATCH", 2)
    patch.setattr(quality, "AT_ONCE", 1)
    plan = Plan(parse_recipe(RECIPE), str(nano_path()), folder / "work", {"own": str(nano_path() / "selector")})
    path = folder / "results" / "training-free.jsonl"
    journal = Journal(path, settings_of(plan), key=key)
    journal.note({"session": {"commit": "c" * 40, "changed": False, "torch": "1", "transformers": "2", "av": "3",
                              "date": "today"}})  # fmt: skip
    calls = []

    def stop_after_three(line):
        journal.add(line)
        calls.append(line)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan, 4, {}, stop_after_three, workers=0)
    again = Journal(path, settings_of(plan), key=key)
    assert len(again.records) == 3
    run(plan, 4, {name: line["clips"] for name, line in again.records.items()}, again.add, workers=0)
    patch.undo()
    return plan, path


def test_every_row_on_every_batch_once(finished):
    plan, path = finished
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    result = [key(line) for line in lines if "row" in line]
    rows = [row.key for row in plan.recipe.rows()]
    assert sorted(result) == sorted((row, first) for row in rows for first in (0, 2))


def test_rows_hold_accuracy_evidence_and_ratio(finished):
    _, path = finished
    result = read_result(path)
    full = result.full("base")
    assert full.right.shape == (4, 8)
    assert full.accuracy > 0.9
    assert full.coverage == full.recall == full.ratio == 1
    ours = result.row("base", "omnisift+time", "25")
    assert (ours.share("video"), ours.share("audio")) == (0.25, 0.26)
    assert 0.5 < ours.recall < 1
    assert result.row("base", "random", "25").seeds == 2
    assert ours.accuracy > result.row("base", "random", "25").accuracy


def test_what_cannot_be_reached_says_so(finished):
    _, path = finished
    result = read_result(path)
    row = result.row("base", "dycoke", "25")
    assert row.right is None
    assert "dycoke can't keep 24 of 96 video tokens" in row.unreachable
    with pytest.raises(UsageError, match="has no result"):
        result.interval(row)
    assert result.row("base", "dycoke", "50").right is not None


def test_another_budget_or_model_is_another_result(finished, tmp_path):
    plan, path = finished
    other = Plan(parse_recipe({**RECIPE, "retain": [0.5]}), plan.backbone, plan.folder, plan.selectors)
    with pytest.raises(UsageError, match="other settings"):
        Journal(path, settings_of(other), key=key)
    more = Plan(parse_recipe({**RECIPE, "clips": 8}), plan.backbone, plan.folder, plan.selectors)
    assert settings_of(more) == settings_of(plan)


def test_a_shorter_run_is_no_finished_one(finished):
    plan, _ = finished
    done = {job.key: job.count for job in plan.jobs(3)}
    assert plan.missing(3, done) == plan.missing(2, done) == []
    more = plan.missing(300, done)
    assert {job.first for job in more} == {0, 250}
    assert {job.count for job in more} == {250, 50}


def test_workers_never_share_a_batch(finished):
    plan, _ = finished
    lists = dealt(plan.missing(1000, {}), 2)
    batches = [{(job.row.setting, job.first) for job in jobs} for jobs in lists]
    assert not batches[0] & batches[1]
    assert sum(map(len, lists)) == len(list(plan.jobs(1000)))
    assert abs(len(lists[0]) - len(lists[1])) <= len(list(plan.recipe.rows()))


def test_random_draws_anew_for_every_clip_and_seed():
    seeds = {seed for s in (0, 1) for seed in quality.clip_seeds(s, 0, 100)}
    assert len(seeds) == 200


def test_packing_loses_nothing():
    for each in (1, 5, 8, 11):
        right = np.random.default_rng(each).random((7, each)) < 0.5
        assert np.array_equal(unpack(pack(right), each), right)


def test_the_page_follows_from_the_file(finished):
    _, path = finished
    text = page(path.parent)
    assert text == page(path.parent)
    assert "omnisift bench-quality recipes/training-free.yaml" in text
    assert "dycoke at 25 %: dycoke can't keep 24 of 96" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| dycoke |"))
    assert row.endswith("| n/a |")
    assert "Commit cccccccccc" in text
    first = text.split("## How to read")[0]
    assert "omnisift+time" in first
    assert first.count("| none |") == 2


def test_the_first_paragraph_names_whoever_is_ahead(finished, tmp_path):
    """With the answers of all tokens on every clip, and wrong ones for ours, the other method is named."""
    _, path = finished
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line.get("row", "").startswith("base/omnisift"):
            line["right"] = "00" * line["clips"]
    (tmp_path / "training-free.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    first = page(tmp_path).split("## How to read")[0]
    assert first.count("| random ") == 2
    assert first.count(", dycoke ") == 1


def test_the_plot_says_what_it_shows(finished, tmp_path):
    _, path = finished
    result = read_result(path)
    draw(result, tmp_path / "plot.svg")
    assert digest(result) in (tmp_path / "plot.svg").read_text()
    (lines,) = curves(result)["panels"].values()
    assert lines["random"][0][0] == pytest.approx(25.6, abs=0.1)
    draw(result, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "plot.svg").read_bytes()


def test_a_folder_without_results(tmp_path):
    (tmp_path / "x.jsonl").write_text("nothing\n")
    with pytest.raises(UsageError, match="not a result of bench-quality"):
        read_result(tmp_path / "x.jsonl")


def test_an_unfinished_result_has_no_page(finished, tmp_path):
    _, path = finished
    lines = [line for line in path.read_text().splitlines() if ALL_TOKENS not in line]
    (tmp_path / "training-free.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match="no finished row of all tokens"):
        page(tmp_path)


def test_selectors_digest_tells_weights_apart(tmp_path):
    from omnisift.vgas import VGAS, VGASConfig

    for seed in (0, 1):
        torch.manual_seed(seed)
        VGAS(VGASConfig(input_size=8, hidden_size=8, num_attention_heads=2)).save_pretrained(tmp_path / str(seed))
    assert tensors_digest(tmp_path / "0") != tensors_digest(tmp_path / "1")


@pytest.mark.parametrize(("sense", "kept"), [("video", Modality.VIDEO), ("audio", Modality.AUDIO), ("question", None)])
def test_one_sense_keeps_that_alone(world, sense, kept):
    stream = encode_scenes(world.host, [make_scene(7, "test")]).stream()
    keep = quality.OneSense(Budget(retain=0.5), sense).eval()(stream).keep
    assert torch.equal(keep, (stream.modality == Modality.TEXT) | (stream.modality == (-1 if kept is None else kept)))


def test_shuffled_video_changes_the_audio_alone(world):
    clips = encode_scenes(world.host, [make_scene(seed, "test") for seed in (7, 8, 9)])
    method = make_compressor("omnisift", Budget(retain_video=0.25, retain_audio=0.25), selector=world.selector).eval()
    keep, shuffled = method(clips.stream()).keep, quality.ShuffledVideo(method)(clips.stream()).keep
    video = clips.stream().modality == Modality.VIDEO
    assert torch.equal(keep[video], shuffled[video])
    assert keep.sum() == shuffled.sum()
    assert not torch.equal(keep, shuffled)
    # The audio of clip 1 is selected by the video of clip 0.
    donor = clips.take([1])
    donor.embeds[:, clips.modality == Modality.VIDEO] = clips.embeds[:1, clips.modality == Modality.VIDEO]
    audio = clips.modality == Modality.AUDIO
    assert torch.equal(shuffled.view(3, -1)[1, audio], method(donor.stream()).keep[audio])
    same = clips.take([1, 1])
    assert torch.equal(quality.ShuffledVideo(method)(same.stream()).keep, method(same.stream()).keep)
    with pytest.raises(CompressorError, match="two clips or more"):
        quality.ShuffledVideo(method)(clips.take([0]).stream())
