"""The trained protocol: training sees exactly what a method leaves, selectors go by name, and keep_all learns."""

import pytest
import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.errors import UsageError
from omnisift.lab.benchmark.encoded import encode_scenes
from omnisift.lab.training import protocol
from omnisift.lab.training.forward import forward_packed
from omnisift.lab.training.packed import make_batch
from omnisift.models.selector import new_selector
from omnisift.pipeline.loading import load_host
from omnisift.utils.assets import nano_path
from omnisift.world import make_scene

BUDGET = Budget(retain_video=0.25, retain_audio=0.25)


@pytest.fixture(scope="module")
def protocol_run():
    clips = encode_scenes(load_host("nano", "cpu", None, None), [make_scene(seed, "train") for seed in range(9)])
    made = protocol.TrainedProtocol(nano_path(), clips)
    made.settings = type(made.settings).small()
    return made


def batch_of(protocol_run, clips):
    import numpy as np

    return make_batch(protocol_run.features, clips, protocol_run.writer, 4, np.random.default_rng(0))


def test_the_layout_is_that_of_the_processor(protocol_run):
    assert torch.equal(protocol_run.layout.position, protocol_run.clips.position)


@pytest.mark.parametrize("method", ["salient", "evs", "tome", "joint", "visionzip"])
def test_training_reads_what_the_method_keeps(protocol_run, method):
    compressor = make_compressor(method, BUDGET).eval()
    clips = [3, 1, 5]
    batch = batch_of(protocol_run, clips)
    cut = protocol.BatchCompressor(compressor, protocol_run.clips, protocol_run.layout)(batch, clips, step=2)
    stream = protocol_run.clips.take(clips).stream()
    selection = compressor(stream)
    keep = selection.keep.view(3, -1)
    assert cut["places"].shape == (3, int(keep[0].sum()))
    for row in range(3):
        assert torch.equal(cut["places"][row], torch.nonzero(keep[row])[:, 0])
    if selection.embeds is None:
        assert cut["video"] is batch["video"]
        return
    merged = torch.zeros(3, keep.shape[1], stream.width)
    merged[keep] = selection.embeds
    for kind, places in (("video", protocol_run.layout.video), ("audio", protocol_run.layout.audio)):
        assert torch.equal(cut[kind][keep[:, places]], merged[:, places][keep[:, places]])
    assert any(not torch.equal(cut[kind], batch[kind]) for kind in ("video", "audio"))


def test_the_model_reads_the_kept_positions_only(protocol_run):
    model, batch = protocol_run.model(), batch_of(protocol_run, [0, 1])
    cut = protocol.BatchCompressor(make_compressor("salient", BUDGET), protocol_run.clips, protocol_run.layout)(
        batch, [0, 1], 0
    )
    out = forward_packed(model, protocol_run.layout, cut)
    assert out.prefix == cut["places"].shape[1] == 6 + 24 + 39
    changed = {**cut, "video": cut["video"].clone()}
    dropped = torch.ones(2, len(protocol_run.layout.ids), dtype=torch.bool).scatter(1, cut["places"], False)
    changed["video"][dropped[:, protocol_run.layout.video]] = 1e3
    torch.testing.assert_close(forward_packed(model, protocol_run.layout, changed).last, out.last)


def test_random_selections_differ_by_step_and_clip(protocol_run):
    compress = protocol.BatchCompressor(make_compressor("random", BUDGET), protocol_run.clips, protocol_run.layout)
    batch = batch_of(protocol_run, [0, 0])
    first, second = (compress(batch, [0, 0], step)["places"] for step in (0, 1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert torch.equal(first, compress(batch, [0, 0], 0)["places"])


def test_tuning_changes_the_language_model_and_nothing_else(protocol_run, tmp_path):
    before, after = protocol_run.model(), protocol_run.tune(make_compressor("evs", BUDGET), 1, tmp_path / "steps")
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed
    assert not any("visual" in name or "audio_tower" in name for name in changed)


def test_selectors_by_name(protocol_run):
    assert protocol_run.distill("self-time", steps=1).label == "time+self"
    assert protocol_run.distill("cross-time-picture", steps=1).label == "time+video score"
    plain = {"time_embedding": False, "guide": "cross", "layers": 1, "video_score": False}
    assert protocol.selector_config("cross") == plain
    timed = {"time_embedding": True, "guide": "concat", "layers": 3}
    assert protocol.selector_config("concat-3-time") == plain | timed
    assert protocol.selector_config("cross-picture") == plain | {"video_score": True}
    for wrong in ("magic", "cross-x", "cross-2-3-time", "picture", ""):
        with pytest.raises(UsageError, match="no selector"):
            protocol.selector_config(wrong)


def test_straight_through_trains_both(protocol_run):
    model, vgas = protocol_run.straight_through("cross", 1)
    fresh = new_selector(128, seed=0, **protocol.selector_config("cross"))
    assert any(not torch.equal(a, b) for a, b in zip(vgas.parameters(), fresh.parameters(), strict=True))
    before = protocol_run.model().state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
