"""The memory of a question by formula, held to traces of allocations; and the longest clip that fits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers.benchmarks import ROOT, load_benchmark
from torch import nn

from omnisift.budget import Budget
from omnisift.errors import UsageError
from omnisift.models import adapter_for
from omnisift.pipeline import Pipeline, load
from omnisift.profiling import fit
from omnisift.profiling.analytic import Weights, cache_bytes, count, moved_bytes
from omnisift.profiling.fit import longest_clips, parse_size, reserve
from omnisift.profiling.gauges import CpuMemoryGauge
from omnisift.profiling.memory import ClipMemory, clip_memory
from omnisift.profiling.shape import PromptShape, prompt_shape
from omnisift.profiling.sizes import host_config
from omnisift.utils.assets import nano_path
from omnisift.utils.quiet import silence_profiler

stages = load_benchmark("stages")


@pytest.fixture(scope="module")
def nano() -> Pipeline:
    return load("nano", compressor=None)


@pytest.mark.parametrize(
    ("seconds", "retain", "above"), [(6, 1.0, 0.08), (12, 1.0, 0.08), (12, 0.25, 0.08), (40, 0.25, 0.25)]
)
def test_the_formula_is_the_peak_of_a_question(nano: Pipeline, seconds: int, retain: float, above: float) -> None:
    """Within 8 % with all tokens and with a part of them; in windows that are mostly sound it may be higher."""
    silence_profiler()
    pipe = nano if retain == 1 else nano.with_compressor("resift", retain=retain)
    with CpuMemoryGauge() as gauge:
        report = pipe.ask(stages.make_clip(seconds, 4, 4), "What?", max_new_tokens=2, on_stage=gauge.stage).report
    config, tokens = nano.host.thinker.config, report.tokens
    text = tokens.prompt - tokens.video - tokens.audio
    shape = PromptShape(seconds, 4, 4, 100 * seconds, text, 1.0, config)
    budget = None if retain == 1 else Budget(retain=retain)
    counted = clip_memory(config, shape, budget, new=2, size=4, device="cpu")
    assert counted.prompt == tokens.prompt_kept
    assert 0.92 < counted.peak / max(gauge.peaks.values()) < 1 + above
    assert (counted.compress == 0) == (retain == 1)


def test_the_parts_of_the_weights_are_those_of_the_model(nano: Pipeline) -> None:
    thinker = nano.host.thinker
    weights = Weights.of(host_config(str(nano_path())))
    linear = [module for module in adapter_for(thinker).parts.language_model.modules() if isinstance(module, nn.Linear)]
    assert weights.quantised == sum(module.weight.numel() for module in linear)
    assert weights.rows == sum(module.out_features for module in linear)
    assert weights.total == sum(parameter.numel() for parameter in thinker.parameters())
    assert weights.nbytes() == 2 * weights.total
    others = 2 * (weights.total - weights.quantised)
    assert weights.nbytes(8) == others + weights.quantised + 4 * weights.rows
    assert weights.nbytes(4) == others + weights.quantised // 2 + weights.quantised // 16


def test_the_bytes_that_are_moved(nano: Pipeline) -> None:
    config, parts = host_config(str(nano_path())), adapter_for(nano.host.thinker).parts
    weights, (counted,) = Weights.of(config), count(config, prompt_shape(6, 112, 112), [])
    moved = moved_bytes(weights, counted)
    assert moved["encode"] == 2 * sum(
        parameter.numel() for part in (parts.vision_encoder, parts.audio_encoder) for parameter in part.parameters()
    )
    # One token meets all matrices of the language model and the output layer; a prompt their norms and biases as well.
    head = nano.host.thinker.get_output_embeddings().weight.numel()
    assert moved["step"] == 2 * (weights.quantised + head) + counted.cache_bytes
    assert 0 < moved["prefill"] - moved["step"] < 0.01 * moved["step"]


@pytest.mark.slow
def test_the_table_of_longest_clips_is_what_is_counted_now() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "fit.json").read_text(encoding="utf-8"))["rows"]
    config = host_config("3b")

    def shape_of(seconds: float) -> PromptShape:
        return prompt_shape(seconds, config=config, max_frames=round(2 * seconds))

    fits = longest_clips(config, 8 * 10**9, [Budget(retain=share) for share in fit.RETAINS], shape_of, fps=2.0, new=64)
    expected = [row for row in rows if (row["config"], row["device_memory"]) == ("3b", "8GB")]
    assert [{"config": "3b", "device_memory": "8GB", **one.to_dict()} for one in fits] == expected


def test_a_quantised_cache_has_a_scale_and_a_zero_for_each_group() -> None:
    config = host_config("7b").text_config
    values = 28 * 2 * 4 * 128 * 1000
    assert cache_bytes(config, 1000) == 2 * values
    assert cache_bytes(config, 1000, bits=4) == values // 2 + 4 * values // 64
    assert cache_bytes(config, 1000, bits=8, group=0) == values


def test_the_peak_grows_with_the_clip_and_falls_with_what_is_kept() -> None:
    config = host_config("3b")

    def peak(seconds: int, retain: float) -> int:
        return clip_memory(config, prompt_shape(seconds, max_frames=2 * seconds), Budget(retain=retain)).peak

    for one, other in ((130, 200),):
        assert peak(one, 0.25) < peak(other, 0.25)
        assert peak(other, 0.1) < peak(other, 0.25)
    # Above 256 images windows are compressed one by one, which takes less than to hold a clip as a whole.
    assert peak(130, 0.05) < peak(128, 0.05)


def _shapes(config: Any) -> Callable[[float], PromptShape]:
    """Clips with frames of 2 x 2 tokens."""
    return lambda seconds: prompt_shape(seconds, 56, 56, config=config, max_pixels=3136, max_frames=round(2 * seconds))


def test_the_longest_clip_fits_and_one_more_frame_does_not() -> None:
    config = host_config(str(nano_path()))
    config.text_config.max_position_embeddings = 10**5
    memory, budgets = 542_000_000, [Budget(retain=0.25)]
    fits = longest_clips(config, memory, budgets, _shapes(config), fps=2.0)
    assert [(one.bits, one.retain) for one in fits] == list(itertools.product((16, 8, 4), ("full", "0.25")))
    for one, budget in zip(fits, [None, *budgets] * 3, strict=True):
        assert one.limit == "memory"
        assert one.seconds is not None
        for frames, does in ((one.seconds, True), (one.seconds + 1, False)):
            peak = clip_memory(config, _shapes(config)(frames), budget).peak
            assert (peak + one.weights + reserve(memory) <= memory) == does
        assert one.needed <= memory
        assert one.images == 2 * one.seconds
    by_bits = [one.seconds for one in fits if one.retain == "0.25"]
    assert by_bits == sorted(set(by_bits))
    assert fits[0].seconds < fits[1].seconds


def test_the_context_can_end_first_and_nothing_may_fit() -> None:
    config = host_config(str(nano_path()))
    (full, cut, *_) = longest_clips(config, 10**11, [Budget(retain=0.25)], _shapes(config), fps=2.0, new=64)
    assert (full.limit, cut.limit) == ("context", "context")
    assert full.memory.prompt + 64 <= 4096 < _shapes(config)(full.seconds + 1).prompt + 64
    assert cut.seconds > full.seconds
    (tokens, *_) = longest_clips(config, 10**11, [Budget(tokens=64)], _shapes(config), fps=2.0)[1:]
    assert (tokens.limit, tokens.seconds) == ("reading", 7200)
    (small, *_) = longest_clips(config, 500_000_000, [], _shapes(config), fps=2.0)
    assert (small.seconds, small.images) == (None, None)
    assert small.needed > 500_000_000


def test_a_range_where_memory_drops_is_searched_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 33 to 128 frames a clip is held as a whole here, and takes more than a longer one."""
    peaks = {steps: 10 * steps if 32 < steps <= 128 else steps for steps in range(1, 7201)}
    found = ClipMemory(prompt=10, encode=0, compress=0, prefill=0, cache=0)

    def memory(_config: Any, shape: PromptShape, *_: Any, **__: Any) -> ClipMemory:
        return replace(found, encode=peaks[shape.frames])

    monkeypatch.setattr(fit, "clip_memory", memory)
    config = host_config(str(nano_path()))
    base = reserve(10**9) + fit.resident_weights(Weights.of(config), 16)
    for room, longest in ((200, 200), (128, 32), (3, 3), (8000, 7200), (400, 400)):
        monkeypatch.setattr(fit, "reserve", lambda size, room=room: size - room - base + reserve(10**9))
        (one, *_) = longest_clips(config, 10**9, [], _shapes(config), fps=2.0)
        assert one.seconds == longest


@pytest.mark.parametrize("name", ["qwen3.5-2b", "qwen3-omni-30b-a3b"])
def test_models_whose_activations_are_not_known_are_refused(name: str) -> None:
    config = host_config(name)
    with pytest.raises(UsageError, match=r"activations of qwen3.* are not counted"):
        longest_clips(config, 8 * 10**9, [], _shapes(config), fps=2.0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("8 GiB", 8 * 2**30), ("24000MB", 24 * 10**9), ("1.5gb", 1.5e9), (" 512MiB ", 2**29)],
)
def test_sizes(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["8", "GB", "-8GB", "0GB", "8 G B", "8GBs", "nanGB", "1e3GB", "", "8,5GB", "9" * 400 + "GB"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="with a unit, such as 8GB"):
        parse_size(text)


def test_values_in_bfloat16_are_not_twice_as_cheap() -> None:
    """The vision encoder rotates in float32 whatever its weights are."""
    config = host_config("qwen2.5-vl-3b")
    shape = prompt_shape(20, config=config)
    half, whole = (clip_memory(config, shape, None, size=torch.finfo(dtype).bits // 8).encode for dtype in (
        torch.bfloat16, torch.float32,
    ))  # fmt: skip
    assert whole / 2 < half < whole
