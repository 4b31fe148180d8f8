"""`omnisift verify` on a CPU: its prompts are the processor's, its rules can fail, its result is complete."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import Qwen3OmniMoeProcessor
from typer.testing import CliRunner

import omnisift
from omnisift.cli.app import app
from omnisift.compressors.base import Compressor
from omnisift.compressors.registry import COMPRESSORS
from omnisift.errors import UsageError
from omnisift.models import adapter_for
from omnisift.tokens import Modality, Selection, TokenStream
from omnisift.verify import checks, hosts, kit, measure
from omnisift.verify.masks import compare_masks, masks_equal_cpu
from omnisift.verify.subject import Failed, Skipped, Subject, recorded_calls

CPU = torch.device("cpu")


QWEN3 = hosts.TINY_QWEN3


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.make(hosts.TINY, CPU, torch.float32)


@pytest.fixture(scope="module")
def stream(subject: Subject) -> TokenStream:
    return subject.stream()


# --- models and prompts ----------------------------------------------------------------------------------------------


def test_the_order_of_tokens_is_the_processors(clip: Path) -> None:
    pipe = omnisift.load("nano")
    inputs = omnisift.inputs(pipe.host.processor, clip, "Who?")
    config = pipe.host.thinker.config
    ids = inputs["input_ids"][0]
    grid = inputs["video_grid_thw"][0].tolist()
    merge = config.vision_config.spatial_merge_size
    seconds = grid[0] * float(inputs["video_second_per_grid"][0])
    shape = hosts.ClipShape(seconds, grid[1] // merge, grid[2] // merge)
    assert shape.mel == int(inputs["feature_attention_mask"].sum())
    made = hosts.qwen2_5_omni_prompt(config, shape, 10, CPU, torch.float32)
    media = (config.video_token_id, config.audio_token_id)
    expected = [int(token) for token in ids if int(token) in media]
    assert [int(token) for token in made["input_ids"][0] if int(token) in media] == expected
    assert made["pixel_values_videos"].shape == inputs["pixel_values_videos"].shape
    assert made["input_features"].shape[1] == inputs["input_features"].shape[1]
    assert torch.equal(made["video_grid_thw"], inputs["video_grid_thw"])


@pytest.mark.parametrize("seconds", [1.0, 0.77, 2.5])
def test_frames_and_audio_of_qwen3_omni_are_in_the_processors_order(seconds: float) -> None:
    """Against the processor's own rule, for grids of other lengths than a second as well."""
    config = QWEN3.config()
    clip = hosts.ClipShape(12 * seconds, 2, 3)
    clip = replace(clip, seconds=clip.frames * seconds)
    made = hosts.qwen3_omni_prompt(config, clip, 10, CPU, torch.float32)
    audio = made_of(config, made, config.audio_token_id)
    rule = SimpleNamespace(
        audio_bos_token="",
        audio_eos_token="",
        video_token="v",
        audio_token="a",
        video_processor=SimpleNamespace(merge_size=2),
    )  # fmt: skip
    order = Qwen3OmniMoeProcessor.replace_video_with_audio_token(
        rule,
        {"video_grid_thw": made["video_grid_thw"].tolist(), "video_second_per_grid": [clip.seconds_per_frame]},
        0,
        {"num_audio_tokens": [audio]},
        0,
        position_id_per_seconds=13,
    )
    letters = {config.video_token_id: "v", config.audio_token_id: "a"}
    assert "".join(letters.get(int(token), "") for token in made["input_ids"][0]) == order
    assert audio == adapter_for(QWEN3.build(CPU, torch.float32)).audio_tokens(clip.mel)


def made_of(config: Any, inputs: dict[str, Any], token: int) -> int:
    return int((inputs["input_ids"] == token).sum())


@pytest.mark.slow
def test_tiny_qwen3_omni_passes_its_checks() -> None:
    found = checks.run_checks(QWEN3, CPU)
    assert [check.name for check in found if check.status == "failed"] == []
    assert sum(check.status == "passed" for check in found) == 9
    subject = Subject.make(QWEN3, CPU, torch.float32)
    assert {"omnizip", "omnisift"} <= set(subject.methods)
    rows = measure.measure(QWEN3, CPU, replace(PLAN, repeats=1), attn_implementation="sdpa")
    assert {row.error for row in rows if row.method != "omnizip"} == {None}  # which has a floor
    assert "omnizip" in {row.method for row in rows}
    assert all(row.encode_video_ms and row.encode_audio_ms and row.prefill_ms for row in rows if row.error is None)


def test_a_model_larger_than_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "environment", lambda *_: {"memory_bytes": 24 * 10**9})
    result = kit.run([hosts.MODELS["qwen3-omni-30b-a3b"]], CPU, plan=lambda _: PLAN)
    (check,) = result.checks
    assert check.status == "skipped"
    assert check.detail == "its weights take 63.4 GB in bfloat16, and the device has 24.0 GB"
    assert result.rows == []
    assert hosts.MODELS["qwen3-omni-30b-a3b"].missing_memory(79 * 10**9) is None  # an H100


@pytest.mark.parametrize("name", list(hosts.MODELS))
def test_models_have_the_real_dimensions(name: str) -> None:
    import transformers

    spec = hosts.MODELS[name]
    config = spec.config()
    with torch.device("meta"):
        model = getattr(transformers, spec.model_class)._from_config(config, dtype=torch.bfloat16)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # Of the released thinkers: 8.93, 4.70 and 31.72 billion (docs/profile.md counts the same).
    billions = {"qwen2.5-omni-7b": 8.93, "qwen2.5-omni-3b": 4.70, "qwen3-omni-30b-a3b": 31.72}
    assert parameters / 1e9 == pytest.approx(billions[name], rel=0.005)
    prompt = spec.prompt(config, hosts.ClipShape(20), 40, CPU, torch.bfloat16)
    modality = adapter_for(model).modality(prompt["input_ids"])
    assert int((modality == Modality.VIDEO).sum()) == 20 * 13 * 23
    assert int((modality == Modality.AUDIO).sum()) == (260 if "qwen3" in name else 500)


@pytest.mark.parametrize(("seconds", "frames", "step"), [(20, 20, 1.0), (60, 60, 1.0), (240, 128, 1.875)])
def test_clips_are_sampled_as_ask_does(seconds: float, frames: int, step: float) -> None:
    clip = hosts.ClipShape(seconds)
    assert (clip.frames, clip.seconds_per_frame) == (frames, step)


# --- rules -----------------------------------------------------------------------------------------------------------


def masks(stream: TokenStream, swap: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two masks that keep all but one of two video tokens."""
    video = torch.nonzero(stream.modality == Modality.VIDEO)[:, 0]
    here = torch.ones(len(stream), dtype=torch.bool)
    there = here.clone()
    here[video[swap[0]]], there[video[swap[1]]] = False, False
    return there, here


@pytest.mark.parametrize(("gap", "is_half", "passes"), [
    (0.0, False, True), (1e-3, False, False), (1e-3, True, True), (0.5, True, True),
])  # fmt: skip
def test_only_ties_may_be_swapped(stream: TokenStream, gap: float, is_half: bool, passes: bool) -> None:
    there, here = masks(stream, (0, 1))
    scores = torch.ones(len(stream))
    scores[torch.nonzero(stream.modality == Modality.VIDEO)[1, 0]] -= gap
    if passes:
        assert compare_masks("any", there, here, scores, stream, is_half=is_half) == 2
    else:
        with pytest.raises(Failed, match=r"agrees with a CPU on 99\.32% of the tokens only"):
            compare_masks("any", there, here, scores, stream, is_half=is_half)


def test_counts_and_masks_without_scores(stream: TokenStream) -> None:
    there, here = masks(stream, (0, 1))
    with pytest.raises(Failed, match="keeps 337 tokens here and 336"):
        compare_masks("any", there, there & here, None, stream, is_half=False)
    with pytest.raises(Failed, match="agrees with a CPU on"):
        compare_masks("any", there, here, None, stream, is_half=False)
    assert compare_masks("any", there, here, None, stream, is_half=True) == 2


class Drifting(Compressor):
    """Keeps other tokens in each call, as a faulty kernel would."""

    name: ClassVar[str] = "drifting"
    calls = 0

    def forward(self, stream: TokenStream) -> Selection:
        return self.select(stream, None)

    def select(self, stream: TokenStream, counts: Any) -> Selection:
        type(self).calls += 1
        keep = torch.ones(len(stream), dtype=torch.bool)
        video = torch.nonzero(stream.modality == Modality.VIDEO)[:, 0]
        keep[video[: type(self).calls * 7 % 50]] = False
        return Selection(keep)


@pytest.fixture
def faulty(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setattr(Subject, "compressor", lambda *_, **__: Drifting(0.5))
    return subject


@pytest.mark.parametrize("rule", [masks_equal_cpu, checks.retain_one_changes_nothing, checks.decoding_equals_uncached])
def test_rules_fail_for_a_faulty_method(rule: Any, faulty: Subject) -> None:
    with pytest.raises(Failed):
        rule(faulty)


def test_what_is_left_on_the_model_is_found(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from omnisift.models.attachment import Attachment

    detach = Attachment.detach

    def forgetful(self: Attachment) -> None:
        kept = self._handles.pop()
        detach(self)
        left.append(kept)

    left: list[Any] = []
    monkeypatch.setattr(Attachment, "detach", forgetful)
    with pytest.raises(Failed, match="1 modules changed"):
        checks.nothing_is_left(subject)
    for handle in left:
        handle.remove()


def test_a_cut_prompt_with_a_mask_needs_another_kernel(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def read(_module: Any, call: dict[str, Any]) -> int:
        lengths.append(call["inputs_embeds"].shape[1])
        if len(lengths) == 2:
            raise RuntimeError("No available kernel. Aborting execution.")
        return lengths[0]

    monkeypatch.setattr(checks, "_read_by_flash", read)
    with pytest.raises(Failed, match="a cut prompt needs another kernel"):
        checks.flash_kernel_of_sdpa(subject)
    assert lengths[1] < lengths[0]


def test_what_this_machine_cannot_check_is_skipped(subject: Subject) -> None:
    for rule in (checks.waits_are_documented, checks.flash_attention_2):
        with pytest.raises(Skipped):
            rule(subject)


class Waiting(Compressor):
    """Warns as torch's sync debug mode does."""

    name: ClassVar[str] = "waiting"
    waits = 1

    def forward(self, stream: TokenStream) -> Selection:
        return self.select(stream, None)

    def select(self, stream: TokenStream, counts: Any) -> Selection:
        for _ in range(self.waits):
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        return Selection(stream.chunk < 0)


def test_waits_are_counted_by_line(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(Subject, "compressor", lambda *_, **__: Waiting(0.5))
    waits = checks.waits_of(subject, "waiting")
    assert modes == ["warn", "default"]
    (place,) = waits
    assert place.startswith("test_kit.py:")
    assert checks.check_waits(Counter({place: checks.DOCUMENTED_WAITS})) == "omnisift 3"
    with pytest.raises(Failed, match=r"omnisift waits 5 times, documented are 3: .*test_kit.py"):
        checks.check_waits(Counter({place: 5}))


# --- measurements ----------------------------------------------------------------------------------------------------

PLAN = measure.Plan(hosts.TINY.clips[:1], rivals_at=6, repeats=1, new_tokens=3)


def test_rows_add_up() -> None:
    rows = measure.measure(hosts.TINY, CPU, PLAN, attn_implementation="sdpa")
    assert [(row.method, row.retain) for row in rows] == PLAN.settings(hosts.TINY.clips[0])
    full = rows[0]
    assert (full.compress_ms, full.kept_tokens) == (0.0, full.prompt_tokens)
    for row in rows:
        if row.error is not None:
            continue
        stages = (row.encode_video_ms, row.encode_audio_ms, row.compress_ms, row.language_model_ms)
        assert all(stage is not None and stage >= 0 for stage in stages)
        assert row.prefill_ms == pytest.approx(sum(stage or 0 for stage in stages))
        assert row.end_to_end_ms == pytest.approx(row.prefill_ms + 2 * (row.decode_ms or 0))
        if row.method != measure.FULL:
            media = 144 + 150
            assert row.kept_tokens == pytest.approx(full.prompt_tokens - media * (1 - row.retain), abs=8)
            assert row.compress_kernels
            assert row.compress_ms
    assert [row.method for row in rows if row.error] == ["omnizip"]


def test_a_stored_clip_is_answered_as_an_encoded_one(subject: Subject) -> None:
    bench = measure._Bench(subject.model, subject.selector, kit.energy_meter(CPU), PLAN, CPU, hosts.TINY.clips[0])
    stored = bench.encoding(subject.inputs)
    module = adapter_for(subject.model).parts.language_model
    with recorded_calls(module) as calls, torch.inference_mode():
        subject.model(**subject.inputs, use_cache=False)
        with measure._reused(subject.model, subject.inputs, stored) as rest:
            subject.model(**rest, use_cache=False)
    assert torch.equal(calls[0]["inputs_embeds"], calls[1]["inputs_embeds"])
    assert torch.equal(calls[0]["position_ids"], calls[1]["position_ids"])


def test_launches_of_the_compression_are_counted() -> None:
    def event(name: str, start: int, end: int, device: str = "CPU") -> Any:
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(name=name, time_range=span, device_type=SimpleNamespace(name=device))

    events = [
        event(measure._MARK, 0, 99, "CUDA"), event(measure._MARK, 10, 20), event("cudaLaunchKernel", 5, 6),
        event("cudaLaunchKernel", 11, 12), event("cuLaunchKernelEx", 15, 16), event("aten::add", 13, 14),
        event("cudaMemcpyAsync", 17, 18), event("cudaLaunchKernel", 30, 31),
    ]  # fmt: skip
    assert measure._count_launches(events, on_gpu=True) == 2
    assert measure._count_launches(events, on_gpu=False) == 1


def test_the_clock_reads_events_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        now = 0.0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            Event.now += 2.0
            self.time = Event.now

        def synchronize(self) -> None: ...

        def elapsed_time(self, other: Any) -> float:
            return float(other.time - self.time)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = measure.Clock(torch.device("cuda"))
    clock.mark("a")
    clock.mark("b")
    assert clock.between("a", "b") == 2.0
    assert clock.between("a", "missing") is None


def test_the_environment_names_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="A Card", total_memory=80 << 30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: card)
    monkeypatch.setattr(kit, "energy_meter", lambda _device: SimpleNamespace(words="none"))
    info = kit.environment(torch.device("cuda"), "sdpa")
    assert (info["machine"], info["capability"], info["memory_bytes"]) == ("A Card", "9.0", 80 << 30)
    assert {"driver", "cuda", "torch", "transformers", "commit"} <= set(info)


def test_memory_and_time_that_run_out_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(self: Any, row: measure.Row, *_: Any) -> None:
        if row.method == measure.FULL:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(measure._Bench, "fill", fill)
    asked = iter(range(99))
    rows = measure.measure(hosts.TINY, CPU, PLAN, attn_implementation="sdpa", is_over=lambda: next(asked) > 1)
    assert [row.error for row in rows[:4]] == ["out of memory", None, "no time left", "no time left"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "result.json"
    shown = CliRunner().invoke(app, ["verify", "--tiny", "--repeats", "1", "-o", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "22 checks, 0 failed, 4 skipped" in shown.output
    return path


@pytest.mark.slow
def test_tiny_result(result: Path) -> None:
    data = json.loads(result.read_text(encoding="utf-8"))
    assert data["is_complete"] is True
    assert {check["status"] for check in data["checks"]} == {"passed", "skipped"}
    assert [check["name"] for check in data["checks"] if check["status"] == "skipped"] == 2 * [
        "FlashAttention 2 equals sdpa", "waits for the device",
    ]  # fmt: skip
    assert len([row for row in data["rows"] if row["model"] == "tiny"]) == 13 + 4
    assert len([row for row in data["rows"] if row["model"] == QWEN3.name]) == 13 + 4
    assert {"torch", "transformers", "commit", "machine", "attn_implementation"} <= set(data["environment"])


def test_show_prints_the_tables_again(result: Path) -> None:
    shown = CliRunner().invoke(app, ["verify", "--show", str(result)]).output
    assert shown.count("| tiny |") == 11 + 17
    assert shown.count(f"| {QWEN3.name} |") == 11 + 17
    assert "| memory GB | prefill s | E2E s |" in shown


def test_the_tiny_model_of_a_family() -> None:
    names = list(hosts.MODELS)
    assert [spec.name for spec in hosts.find_models(names, tiny=True)] == ["tiny", QWEN3.name]
    assert hosts.find_models(["qwen3-omni-30b-a3b"], tiny=True) == [QWEN3]
    assert [spec.name for spec in hosts.find_models(names[1:])] == names[1:]


@pytest.mark.parametrize("content", ["", "[]", '{"checks": [{}]}', "[" * 100_000])
def test_show_refuses_other_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="is not a result of omnisift verify"):
        kit.Result.read(path)


@pytest.mark.parametrize("value", ["x", None, [], {}, True, float("nan"), 10**400])
@pytest.mark.parametrize(
    "keys", [("seconds",), ("rows", 0, "seconds"), ("rows", 0, "retain"), ("checks", 0, "seconds")]
)
def test_show_refuses_values_of_other_types(result: Path, tmp_path: Path, keys: tuple[Any, ...], value: object) -> None:
    data = json.loads(result.read_text(encoding="utf-8"))
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path = tmp_path / "other.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UsageError, match="is not a result of omnisift verify"):
        kit.Result.read(path)


@pytest.mark.parametrize(
    "keys", [("environment",), ("rows", 0, "model"), ("rows", 0, "method"), ("checks", 0, "detail")]
)
def test_show_refuses_numbers_for_words(result: Path, tmp_path: Path, keys: tuple[Any, ...]) -> None:
    test_show_refuses_values_of_other_types(result, tmp_path, keys, 1)


def test_show_reads_no_device() -> None:
    with pytest.raises(UsageError, match="no file"):
        kit.Result.read(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no CUDA device"),
        (["--model", "gpt"], "no model 'gpt' to verify; choose from"),
        (["--tiny", "--model", "gpt"], "no model 'gpt' to verify; choose from"),
        (["--tiny", "--seconds", "0"], "--seconds must be"),
        (["--tiny", "-o", "missing/result.json"], "no folder"),
        (["--tiny", "--attn-implementation", "foo"], "no attention 'foo' here"),
        (["--tiny", "--attn-implementation", ""], "option --attn-implementation got an empty value"),
        (["--tiny", "--time-limit", "0"], "--time-limit must be above 0"),
        (["--tiny", "--time-limit", "nan"], "--time-limit must be above 0"),
    ],
)
def test_wrong_options(arguments: list[str], words: str) -> None:
    outcome = CliRunner().invoke(app, ["verify", *arguments])
    assert isinstance(outcome.exception, UsageError)
    assert words in str(outcome.exception)


def test_a_failed_check_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = checks.Check("tiny", "masks", "failed", "why", 0.0)
    monkeypatch.setattr(kit, "run_checks", lambda *_, on_check, **__: on_check(failed))
    monkeypatch.setattr(kit, "measure", lambda *_, **__: [])
    given = ["verify", "--tiny", "--model", "qwen2.5-omni-7b", "-o", str(tmp_path / "r.json")]
    outcome = CliRunner().invoke(app, given)
    assert outcome.exit_code == 1
    assert "1 failed" in outcome.output


def test_a_run_without_time_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    outcome = CliRunner().invoke(app, ["verify", "--tiny", "--time-limit", "1e-9", "-o", str(file)])
    assert "22 checks, 0 failed, 22 skipped" in outcome.output
    assert "cut off" in outcome.output
    assert json.loads(file.read_text(encoding="utf-8"))["is_complete"] is False


def test_driver_version(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n")
    assert kit.driver_version(file) == "580.159.04"
    assert kit.driver_version(tmp_path / "none") is None


def test_checks_cover_all_methods(stream: TokenStream, subject: Subject) -> None:
    detail = masks_equal_cpu(replace(subject))
    assert detail.startswith(f"{len(COMPRESSORS)} methods")
    assert len(stream)


def test_the_page_has_a_result_or_says_that_there_is_none() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/gpu.md").read_text(encoding="utf-8")
    file = root / "benchmarks/results/gpu.json"
    assert ("**There is no result yet**" in page) != file.exists()
    if file.exists():
        assert kit.measurement_table(kit.Result.read(file).rows) in page
