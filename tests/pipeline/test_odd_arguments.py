"""Odd values of every argument, from Python and from the command line: one typed line, or an answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import omnisift
from omnisift.cli.app import main
from omnisift.compressors import RandomCompressor
from omnisift.errors import OmniSiftError, UsageError
from omnisift.media import Media
from omnisift.pipeline.devices import resolve_device
from omnisift.tokens import Selection, TokenStream
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS, VGASConfig

NAN, INF = float("nan"), float("inf")
NOT_TEXT = ("\ud800", "caf\udce9", 3, b"x", ["x"], {})
NAMES = (
    "", "a\0b", "\ud800", "x" * 5000, "a/" + "x" * 300, "own/\udce9", "a/b/../../c", "https://x/y", ".",
    "/proc/kmsg",
)  # fmt: skip


@pytest.fixture(scope="module")
def pipeline() -> omnisift.Pipeline:
    return omnisift.load("nano", compressor="uniform")


@pytest.fixture(scope="module")
def media(pipeline: omnisift.Pipeline, clip: Path) -> Media:
    return pipeline.read(clip)


def refused(call: Callable[[], Any]) -> bool:
    """Whether the call raises one typed line; any other exception fails the test."""
    try:
        call()
    except OmniSiftError as error:
        return bool(str(error)) and "\n" not in str(error)
    return False


class NoSelection(RandomCompressor):
    def select(self, stream: TokenStream, counts: Any) -> Selection:
        return None  # type: ignore[return-value]


class BareKeep(RandomCompressor):
    def select(self, stream: TokenStream, counts: Any) -> Selection:
        return torch.ones(len(stream), dtype=torch.bool)  # type: ignore[return-value]


def not_finite() -> VGAS:
    vgas = VGAS(VGASConfig(input_size=128))
    with torch.no_grad():
        vgas.a_proj.weight.fill_(NAN)
    return vgas


COMPRESSORS = (
    None, lambda stream: stream, RandomCompressor, 3, b"random", ["random"], torch.nn.Linear(2, 2), Path("random"),
    {"compressor": "random"}, "", "\ud800", "x" * 5000, "full",
)  # fmt: skip
MODELS = (None, "nano", torch.nn.Linear(2, 2), torch.nn.Linear, 3)
OPTIONS: tuple[dict[str, Any], ...] = (
    *({"retain": value} for value in ("x", NAN, INF, [0.5], 1j, True, 10**400, -1, 0)),
    {"retain_video": "a", "retain_audio": 1}, {"retain": 0.5, "retain_video": 0.5},
    *({"seed": value} for value in ("x", None, 1.5, 2**63, -(2**64))),
)  # fmt: skip
SELECTORS = (3, torch.nn.Linear(2, 2), VGAS, VGAS(VGASConfig(input_size=64)), None, *NAMES)


def test_attach_refuses_odd_objects(pipeline: omnisift.Pipeline) -> None:
    model = pipeline.host.thinker
    for compressor in COMPRESSORS:
        assert refused(lambda compressor=compressor: omnisift.attach(model, compressor)), compressor
    for other in (*MODELS, pipeline, pipeline.host.processor):
        assert refused(lambda other=other: omnisift.attach(other, "random")), other
    for options in OPTIONS:
        assert refused(lambda options=options: omnisift.attach(model, "random", **options)), options
    for selector in (*SELECTORS, not_finite()):
        assert refused(lambda selector=selector: omnisift.attach(model, "omnisift", selector=selector)), selector
    assert refused(lambda: omnisift.attach(model, RandomCompressor(0.5), retain=0.5))


@pytest.mark.parametrize("compressor", [NoSelection(0.5), BareKeep(0.5)])
def test_a_compressor_that_returns_no_selection(
    compressor: RandomCompressor, pipeline: omnisift.Pipeline, media: Media
) -> None:
    inputs = omnisift.inputs(pipeline.host.processor, media, "What?")
    with (
        omnisift.attach(pipeline.host.thinker, compressor),
        pytest.raises(OmniSiftError, match="select must return a Selection, got"),
    ):
        pipeline.host.thinker.generate(**inputs, max_new_tokens=1)


def test_load_refuses_odd_values() -> None:
    for name in (*NAMES, None, 3):
        assert refused(lambda name=name: omnisift.load(name)), name
    for compressor in (3, lambda stream: stream, RandomCompressor(0.5), "\ud800", "x" * 5000, b"x"):
        assert refused(lambda compressor=compressor: omnisift.load("nano", compressor=compressor)), compressor
    for options in OPTIONS:
        assert refused(lambda options=options: omnisift.load("nano", compressor="random", **options)), options
    for selector in NAMES:
        assert refused(lambda selector=selector: omnisift.load("nano", selector=selector)), selector
    more: tuple[dict[str, Any], ...] = (
        {"dtype": []}, {"dtype": torch.int8}, {"dtype": "\ud800"}, {"attn_implementation": 3},
        {"attn_implementation": "x"}, {"device_map": "nowhere"}, {"device_map": {"": "cuda:9"}},
    )  # fmt: skip
    for values in more:
        assert refused(lambda values=values: omnisift.load("nano", **values)), values


@pytest.mark.parametrize(
    "name",
    ["meta", "xpu", "hpu", "vulkan", "privateuseone", "mkldnn", "fpga", "ipu", "lazy", "xla", "npu", "mtia", "cuda:x",
     "cuda:99", "cpu:3", "cpu:-1", "auto:1", "", "\ud800", "x" * 5000, None, 99, -1, [], torch.device("meta")],
    ids=lambda name: ascii(name)[:15],
)  # fmt: skip
def test_devices_that_this_machine_can_not_use(name: Any) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_unicode(pipeline: omnisift.Pipeline, media: Media) -> None:
    processor = pipeline.host.processor
    for text in NOT_TEXT:
        assert refused(lambda text=text: pipeline.ask(media, text, max_new_tokens=1)), text
        assert refused(lambda text=text: pipeline.ask(media, "What?", system=text, max_new_tokens=1)), text
        assert refused(lambda text=text: pipeline.ask_batch([(media, "What?"), (media, text)])), text
        assert refused(lambda text=text: omnisift.inputs(processor, media, text)), text
        assert refused(lambda text=text: omnisift.inputs(processor, media, "What?", system=text)), text


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_odd_numbers_of_a_question(pipeline: omnisift.Pipeline, clip: Path, media: Media) -> None:
    for values in (
        {"fps": 1e-320}, {"fps": 0}, {"fps": NAN}, {"fps": INF}, {"fps": "x"}, {"max_frames": "x"}, {"max_frames": 0},
        {"max_pixels": "x"}, {"max_pixels": -1}, {"max_pixels": 0}, {"sampling": 3}, {"sampling": "x"},
    ):  # fmt: skip
        assert refused(lambda values=values: pipeline.read(clip, **values)), values  # type: ignore[arg-type]
    for count in (0, -1, 1.5, "x", NAN, None):
        assert refused(lambda count=count: pipeline.ask(media, "What?", max_new_tokens=count)), count
    assert pipeline.ask(clip, "What?", fps=0.001, max_new_tokens=1).report.tokens.video


@pytest.mark.parametrize(
    "path", ["/proc/kmsg", "/dev/null", "/dev/zero", None, 3, "a\0b", "x" * 5000, "\ud800", "/tmp"]
)
def test_files_that_are_no_media(path: Any, pipeline: omnisift.Pipeline) -> None:
    """A file of the kernel has no size and may block its reader for ever."""
    assert refused(lambda: pipeline.read(path))


LATIN = "caf\udce9"  # what Python makes of an argument in Latin-1
ARGUMENTS = {
    "question": ["ask", "CLIP", LATIN],
    "system": ["ask", "CLIP", "What?", "--system", LATIN],
    "model": ["ask", "CLIP", "What?", "--model", LATIN],
    "long model": ["ask", "CLIP", "What?", "--model", "x" * 5000],
    "selector": ["ask", "CLIP", "What?", "--selector", LATIN],
    "long selector": ["ask", "CLIP", "What?", "--selector", "x" * 5000],
    "compressor": ["ask", "CLIP", "What?", "--compressor", LATIN],
    "device": ["ask", "CLIP", "What?", "--device", LATIN],
    "meta": ["ask", "CLIP", "What?", "--device", "meta"],
    "seed": ["ask", "CLIP", "What?", "--compressor", "random", "--seed", "9223372036854775808"],
    "fps": ["ask", "CLIP", "What?", "--fps", "1e-320"],
    "retain": ["ask", "CLIP", "What?", "--retain", "1e-320"],
    "clip": ["ask", LATIN, "What?"],
    "kernel file": ["ask", "/proc/kmsg", "What?"],
    "recipe": ["train", LATIN],
    "change": ["train", str(nano_path() / "config.json"), "--set", f"model={LATIN}"],
    "data": ["data-check", LATIN],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_the_command_line(
    name: str, clip: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["omnisift", *(str(clip) if a == "CLIP" else a for a in ARGUMENTS[name])])
    if name == "retain":  # the smallest budget is kept to
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capfd.readouterr().err
    assert error.count("error (") == 1
    assert "Traceback" not in error
