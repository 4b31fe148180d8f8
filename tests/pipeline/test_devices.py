"""Device, dtype, attention and device map are checked before a model is loaded, and reach `from_pretrained`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from omnisift import load
from omnisift.errors import UsageError
from omnisift.pipeline.devices import resolve_device, resolve_dtype
from omnisift.pipeline.loading import plan_placement

QUESTION = "What colour is the circle?"


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch):
    """Pretend that torch sees so many CUDA devices, and perhaps MPS."""

    def pretend(cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(0, False, "cpu"), (0, True, "mps"), (2, True, "cuda")])
def test_auto_takes_the_best_device(devices, cuda: int, mps: bool, expected: str) -> None:
    devices(cuda, mps)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps", torch.device("cuda:0")])
def test_devices_that_are_there(devices, name: str) -> None:
    devices(2, True)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "unknown device 'gpu'; use auto, cpu, cuda, cuda:N or mps"),
        ("xla", "unknown device 'xla'"),
        ("meta", "unknown device 'meta'"),
        ("cuda:x", "unknown device 'cuda:x'"),
        ("", "unknown device ''"),
        ("mps", "device 'mps' is not available: this torch sees no mps device; use auto or cpu"),
        ("cuda:7", "device 'cuda:7' is not available: this torch sees only 1 cuda device; use auto or cpu"),
    ],
)
def test_other_devices_are_one_line(devices, name: str, message: str) -> None:
    devices(1, False)
    with pytest.raises(UsageError) as caught:
        load("nano", device=name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_no_cuda(devices) -> None:
    devices(0, False)
    with pytest.raises(UsageError, match="sees no cuda device"):
        load("nano", device="cuda")


def test_dtypes() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_dtype(None, cpu) == torch.float32
    assert resolve_dtype(None, cuda) == torch.bfloat16
    assert resolve_dtype("float16", cpu) == resolve_dtype(torch.float16, cpu) == torch.float16
    assert resolve_dtype("auto", cpu) == "auto"
    for unknown in ("int8", torch.int8):
        with pytest.raises(UsageError, match="unknown dtype"):
            resolve_dtype(unknown, cpu)


def test_unknown_attention_is_one_line() -> None:
    with pytest.raises(UsageError, match="unknown attention implementation 'flash'; use eager, sdpa"):
        load("nano", attn_implementation="flash")
    assert plan_placement(attn_implementation="eager").attn_implementation == "eager"


def test_device_and_map_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="device and device_map"):
        load("nano", device="cpu", device_map="auto")


def test_a_map_needs_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_accelerate_available", lambda: False)
    with pytest.raises(UsageError, match="needs accelerate"):
        load("nano", device_map="auto")


def test_the_default_dtype_of_a_map(devices) -> None:
    pytest.importorskip("accelerate")
    devices(1, False)
    assert plan_placement(device_map="auto").dtype == torch.bfloat16
    assert plan_placement(device_map={"": "cpu"}).dtype == torch.float32


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
def test_a_mapped_model_answers_as_ever(
    clip: Path, device_map: str | dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    plain = load("nano", device="cpu")
    given: list[object] = []
    original = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained

    def from_pretrained(source: str, **options: object) -> object:
        given.append(options["device_map"])
        return original(source, **options)

    monkeypatch.setattr(Qwen2_5OmniThinkerForConditionalGeneration, "from_pretrained", from_pretrained)
    mapped = load("nano", device_map=device_map, dtype="float32")
    assert given == [device_map]
    assert mapped.ask(clip, QUESTION).text == plain.ask(clip, QUESTION).text


def test_settings_reach_the_model() -> None:
    host = load("nano", compressor=None, device="cpu", dtype=torch.bfloat16, attn_implementation="eager").host
    assert host.dtype == torch.bfloat16
    assert host.device == torch.device("cpu")
    assert host.thinker.config._attn_implementation == "eager"
    assert load("nano", compressor=None, dtype="auto").host.dtype == torch.float32


def test_a_model_with_offloaded_weights_answers(clip: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    pipeline = load("nano", retain=0.25, device="cpu")
    plain = pipeline.ask(clip, QUESTION)
    accelerate.cpu_offload(pipeline.host.thinker, execution_device=torch.device("cpu"))
    assert pipeline.host.thinker.get_input_embeddings().weight.device.type == "meta"
    assert pipeline.host.device == torch.device("cpu")
    offloaded = pipeline.ask(clip, QUESTION)
    assert (offloaded.text, offloaded.report.tokens) == (plain.text, plain.report.tokens)
