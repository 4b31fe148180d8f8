"""What the profile says of nano: its counts are those of the formulas, its stages those of the pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.errors import UsageError
from omnisift.pipeline import Pipeline, load
from omnisift.profiling import flops
from omnisift.profiling.gauges import MODEL_STAGES, CpuMemoryGauge, FlopGauge, memory_gauge
from omnisift.profiling.measure import Profile, measure, questions
from omnisift.profiling.shape import prompt_shape
from omnisift.utils.assets import nano_path
from omnisift.utils.stages import STAGES
from omnisift.vgas import VGAS

QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    full = load("nano", compressor=None)
    exact = VGAS.from_pretrained(str(nano_path() / "selector-exact"))
    half = make_compressor("omnisift", Budget(retain=0.5), selector=exact)
    return {"full": full, "0.5": Pipeline(full.host, half)}


@pytest.fixture(scope="module")
def asked() -> list[int]:
    return []


@pytest.fixture(scope="module")
def profile(pipelines: dict[str, Pipeline], clip: Path, asked: list[int]) -> Profile:
    return measure(pipelines, clip, QUESTION, repeats=2, on_question=lambda: asked.append(1))


def test_counted_while_running_as_counted_from_dimensions(profile: Profile) -> None:
    """To the last operation, for every stage and both ways: the formulas are those of the running model."""
    thinker = load("nano", compressor=None).host.thinker
    config, chunks = thinker.config, prompt_shape(6.0, 112, 112, max_pixels=12544, min_pixels=12544).chunks()
    budget, width = Budget(retain=0.5), config.text_config.hidden_size
    layout = VGAS.from_pretrained(str(nano_path() / "selector-exact")).config
    for cost in profile.costs:
        tokens = cost.answer.report.tokens
        assert cost.flops["encode_video"] == flops.vision_encoder(config.vision_config, 6, 4, 4).total
        assert cost.flops["encode_audio"] == flops.audio_encoder(config.audio_config, 600).total
        assert cost.flops["prefill"] == flops.language_model(config.text_config, tokens.prompt_kept, logits=1).total
        steps = range(tokens.generated - 1)
        decode = sum(flops.language_model(config.text_config, 1, tokens.prompt_kept + step).total for step in steps)
        assert cost.flops["decode"] == decode
    full, cut = profile.costs
    assert full.flops["compress"] == 0
    work = flops.selector(layout, chunks, budget.counts(chunks)).total
    assert cut.flops["compress"] == work + flops.spatial_dots(chunks, width)


def test_every_stage_is_timed_and_its_memory_traced(profile: Profile) -> None:
    full, cut = profile.costs
    assert tuple(full.seconds) == tuple(STAGES)
    assert tuple(full.memory) == MODEL_STAGES
    assert full.seconds["compress"] == 0.0 < cut.seconds["compress"]
    assert min(value for stage, value in cut.seconds.items() if stage != "compress") > 0
    assert full.total_seconds > 0
    assert full.memory["compress"] == 0 < cut.memory["compress"]
    assert cut.memory["prefill"] < full.memory["prefill"]
    assert cut.memory["encode_video"] == full.memory["encode_video"]  # the encoders see the same either way


def test_each_pipeline_is_asked_as_often_as_said(profile: Profile, asked: list[int]) -> None:
    assert profile.repeats == 2
    assert len(asked) == 2 * questions(2)


def test_the_profile_is_one_json_object(profile: Profile) -> None:
    result = json.loads(json.dumps(profile.to_dict()))
    assert [run["retain"] for run in result["runs"]] == ["full", "0.5"]
    assert result["runs"][1]["retained_ratio"] == pytest.approx(0.5, abs=0.05)
    assert {"commit", "torch", "transformers", "threads", "machine"} <= result["environment"].keys()
    assert result["runs"][0]["flops"]["total"] == sum(profile.costs[0].flops.values())
    assert result["runs"][0]["memory_bytes"]["highest"] == max(profile.costs[0].memory.values())


def test_nothing_is_left_behind(pipelines: dict[str, Pipeline], profile: Profile) -> None:
    thinker = pipelines["full"].host.thinker
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in thinker.modules())


def test_at_least_one_repetition(pipelines: dict[str, Pipeline], clip: Path) -> None:
    with pytest.raises(UsageError, match="repeats"):
        measure(pipelines, clip, QUESTION, repeats=0)


def test_memory_belongs_to_the_stage_that_holds_it() -> None:
    mib = 2**20
    with CpuMemoryGauge() as gauge:
        gauge.stage("read")
        kept = torch.ones(mib, dtype=torch.uint8)
        gauge.stage("prefill")
        other = torch.ones(4 * mib, dtype=torch.uint8)
        del other
        gauge.stage("decode")
        more = torch.ones(2 * mib, dtype=torch.uint8)
        gauge.stage("prefill")  # once more, and less
    assert gauge.peaks["prefill"] == pytest.approx(5 * mib, rel=0.01)
    assert gauge.peaks["decode"] == pytest.approx(3 * mib, rel=0.01)
    assert gauge.peaks["compress"] == 0
    assert len(kept) + len(more) == 3 * mib


def test_memory_of_a_gpu_is_read_stage_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's statistics, without the GPU: a peak that is reset where a stage begins, above what was there before."""
    held = {"now": 100, "peak": 100}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: held["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: held.update(peak=held["now"]))
    with memory_gauge(torch.device("cuda")) as gauge:
        gauge.stage("prefill")
        held.update(now=120, peak=170)
        gauge.stage("decode")
        held.update(peak=130)
    assert (gauge.peaks["prefill"], gauge.peaks["decode"], gauge.peaks["compress"]) == (70, 30, 0)


def test_flops_belong_to_the_stage_that_spends_them() -> None:
    x = torch.ones(2, 3)
    with FlopGauge() as gauge:
        gauge.stage("prefill")
        x @ x.T
        gauge.stage("decode")
        x.T @ x
        gauge.stage("prefill")
        x @ x.T
    assert (gauge.flops["prefill"], gauge.flops["decode"]) == (2 * 2 * 2 * 2 * 3, 2 * 3 * 3 * 2)


def test_attention_on_a_cpu_is_counted() -> None:
    """Torch's counter alone passes over it."""
    x = torch.ones(1, 2, 8, 4)
    with FlopGauge() as gauge:
        gauge.stage("prefill")
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
    assert gauge.flops["prefill"] == 4 * 2 * 8 * 8 * 4
