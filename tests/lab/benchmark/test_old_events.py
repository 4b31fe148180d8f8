"""Old events of long streams: the long-trained backbone, the conditions, the result lines and their tables."""

import json

import pytest
import torch
from tests.helpers.benchmarks import load_benchmark

from omnisift import load
from omnisift.lab.benchmark.old_events import Condition, by_type, counts, measure
from omnisift.lab.nano import load_thinker
from omnisift.lab.training.packed import Writer
from omnisift.lab.training.stream_bank import StreamBank
from omnisift.pipeline.loading import load_host
from omnisift.streaming.policies import KeepAll, MemoryBank, SlidingWindow
from omnisift.utils.assets import bundled_path

MEMORY = MemoryBank(6, 64, 8)


@pytest.fixture(scope="module")
def long():
    return load_thinker(bundled_path("nano-long")).float().eval()


@pytest.fixture(scope="module")
def writer():
    return Writer(load_host("nano", "cpu", None, None).processor.tokenizer)


@pytest.fixture(scope="module")
def bank(long, writer):
    return StreamBank.build(long, writer.tokenizer, "validation", "base", [1, 2] * 12, 16, ["25%", "all"])


def share(outcomes):
    right, total = counts(outcomes)
    return sum(right) / sum(total)


@pytest.mark.parametrize("name", ["nano", "wide"])
def test_long_backbones_keep_encoders_and_embeddings(name):
    long, short = (load_thinker(bundled_path(which)).state_dict() for which in (f"{name}-long", name))
    assert long.keys() == short.keys()
    same = {key for key, tensor in long.items() if torch.equal(tensor.float(), short[key].bfloat16().float())}
    assert {key for key in long if ".layers." not in key or "language_model" not in key} - same <= {
        "model.language_model.norm.weight"
    }
    assert not any("language_model.layers" in key and key.endswith("proj.weight") for key in same)


def test_the_long_backbone_is_loaded_like_others(clip):
    answer = load(bundled_path("nano-long"), retain=0.25).ask(clip, "How many shapes are there?")
    assert answer.text == "three"


def test_the_long_backbone_answers_on_clips_and_on_old_events(long, bank, writer):
    just, old = Condition("just seen"), Condition("old", after=36)
    assert share(measure(long, bank, writer, KeepAll(), "all", just, 12)) > 0.95
    assert share(measure(long, bank, writer, KeepAll(), "25%", just, 12)) > 0.95
    remembered = measure(long, bank, writer, MEMORY, "25%", old, 12)
    assert share(remembered) > 0.85
    assert share(measure(long, bank, writer, SlidingWindow(6), "25%", old, 12)) < 0.4
    assert remembered[0].tokens <= 4 + 3 * 21 + 64
    assert remembered[0].positions == 200 + 150


def test_events_far_apart_are_one_scene(long, bank, writer):
    outcomes = measure(long, bank, writer, KeepAll(), "25%", Condition("apart", gap=12), 4)
    assert {len(outcome.right) for outcome in outcomes} == {8}
    assert outcomes[0].positions == 25 * (6 + 12 + 6)
    assert set(by_type(outcomes)) == set(outcomes[0].right)


def test_fillers_with_shapes_leave_out_what_compares_all_shapes(long, bank, writer):
    outcomes = measure(long, bank, writer, MEMORY, "25%", Condition("busy", after=12, kind="shapes"), 12)
    assert any("order" not in outcome.right for outcome in outcomes)
    assert all("color_of_shape" in outcome.right for outcome in outcomes)


def test_the_benchmark_resumes_and_prints_its_tables(tmp_path, capsys, monkeypatch):
    bench = load_benchmark("old_events")
    monkeypatch.setattr(bench, "CONDITIONS", bench.CONDITIONS[:2])
    monkeypatch.setattr(bench, "FILLERS", 16)
    names = list(bench.policies("nano", "25%"))
    monkeypatch.setattr(bench, "policies", lambda *_: {names[0]: KeepAll(), names[-1]: MEMORY})
    out = tmp_path / "old.jsonl"
    arguments = ["--out", str(out), "--models", "nano", "--budgets", "25%", "--events", "2"]
    bench.main(arguments)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 4
    assert all(line["commit"] and line["transformers"] for line in lines)
    out.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]), encoding="utf-8")
    bench.main(arguments)
    again = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    measured = [{k: v for k, v in line.items() if k not in ("cpu_seconds", "date")} for line in (lines[3], again[3])]
    assert measured[0] == measured[1]
    capsys.readouterr()
    bench.main(["--out", str(out), "--table"])
    printed = capsys.readouterr().out
    assert "`nano`, 25 %: events of some age in a quiet stream" in printed
    assert f"| {names[-1]} |" in printed
