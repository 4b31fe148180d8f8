"""Distillation with a tiny random checkpoint of every other family: the sample, the command, and what `ask` reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family
from typer.testing import CliRunner

import omnisift
from omnisift.cli.app import app
from omnisift.errors import CheckpointError, CompressorError, UsageError
from omnisift.media import Media
from omnisift.models import adapter_class
from omnisift.models.selector import new_selector
from omnisift.pipeline.clip_format import hears
from omnisift.pipeline.loading import load_host
from omnisift.pipeline.prompt import build_inputs, read_for
from omnisift.tokens import Modality
from omnisift.training.distill import DistillSettings, distill, find_clips
from omnisift.training.distill.observing import observe
from omnisift.training.distill.samples import DistillSample, stream_of
from omnisift.vgas import VGAS

ASKED = ("Which sound goes with the circle?", "What colour is the square?")
FAST = ["qwen3_vl", "qwen3_omni_moe_thinker", "qwen3_5"]
ALL = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FACTORS]
each_family = pytest.mark.parametrize("name", ALL)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's checkpoint, made when it is asked for."""
    root = tmp_path_factory.mktemp("families")

    def folder_of(name: str) -> Path:
        return root / name if (root / name).exists() else save_family(name, root / name)

    return folder_of


def media_of(host: Any, name: str, clip: Path, fps: float = 2.0) -> Media:
    return read_for(host.processor, clip, max_pixels=12 * FACTORS[name] ** 2, fps=fps)


@torch.no_grad()
@each_family
def test_a_sample_holds_the_attention_of_the_full_token_model(
    folder_of: Callable[[str], Path], folder: Path, name: str
) -> None:
    """Compared with the host's eager weights, with one full prompt per question, longer and shorter than the first.

    At 1.5 images a second the rotary positions of Qwen3-Omni are fractions.
    """
    host, eager = (load_host(str(folder_of(name)), "cpu", None, kind) for kind in ("sdpa", "eager"))
    media = media_of(host, name, find_clips(folder)[0], fps=1.5)
    for rows in ("answer", "question"):
        sample = observe(host, media, [*ASKED, "Why?"], rows)
        best = torch.zeros(len(sample.modality))
        for question in (*ASKED, "Why?"):
            inputs = build_inputs(host.processor, media, question)
            layers = [
                layer
                for layer in eager.thinker(**inputs, output_attentions=True, use_cache=False).attentions
                if layer is not None
            ]
            assert len(layers) == (2 if name.startswith("qwen3_5") else 4)
            weights = torch.stack([layer[0].mean(dim=0) for layer in layers]).mean(dim=0)
            read = weights[-1] if rows == "answer" else weights[len(best) :].mean(dim=0)
            best = torch.maximum(best, read[: len(best)])
        torch.testing.assert_close(sample.attention, best, atol=2e-5, rtol=1e-3)


@each_family
def test_clips_frames_and_times_are_those_of_the_host(
    folder_of: Callable[[str], Path], folder: Path, tmp_path: Path, name: str
) -> None:
    host = load_host(str(folder_of(name)), "cpu")
    media = [media_of(host, name, clip) for clip in find_clips(folder)[:2]]
    for number, clip in enumerate(media):
        observe(host, clip, ASKED[:1]).save(tmp_path / f"{number}.safetensors")
    samples = [DistillSample.load(tmp_path / f"{number}.safetensors") for number in range(2)]
    stream = stream_of([sample for sample in samples if sample is not None])
    video = stream.modality == int(Modality.VIDEO)
    for number, clip in enumerate(media):
        assert clip.images is not None
        rows = stream.sample == number
        assert stream.clip[rows & (stream.clip >= 0)].unique().tolist() == [number]
        frames = -(-len(clip.images) // 2)
        expected = torch.arange(frames) * clip.seconds_per_grid
        torch.testing.assert_close(stream.time[rows & video].unique(), expected.float())
        assert len(stream.chunk[rows & video].unique()) == -(-frames // 2)
    assert bool((stream.modality == int(Modality.AUDIO)).any()) == hears(host.processor)


@each_family
def test_the_command_writes_a_folder_that_ask_reads(
    folder_of: Callable[[str], Path], folder: Path, tmp_path: Path, name: str
) -> None:
    out, model, deaf = tmp_path / "selector", str(folder_of(name)), "omni" not in name
    limit = ["--max-pixels", str(12 * FACTORS[name] ** 2)]
    command = ["distill", "--model", model, "--media", str(folder), "-o", str(out), "--steps", "4", *limit]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert ("takes no audio: a video score alone is trained" in shown.output) == deaf
    assert f"--model {model} --selector" in shown.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["parts"] == (["video"] if deaf else ["audio"])
    assert report["settings"]["video_score"] == deaf
    assert ("agreement" in report, "picture" in report) == (not deaf, deaf)
    assert report["clips"] == {"taught": 3, "held out": 1}
    selector = VGAS.from_pretrained(str(out))
    assert selector.config.input_size == 32
    assert selector.label == ("video score" if deaf else "time")
    assert {key.split(".")[0] for key in selector.state_dict()} >= ({"picture"} if deaf else {"time_embedding"})
    assert not deaf or all(key.startswith("picture.") for key in selector.state_dict())
    clip = str(find_clips(folder)[0])
    given = ["ask", clip, ASKED[0], "--model", model, "--selector", str(out), *limit, "--max-new-tokens", "2", "--json"]
    asked = CliRunner().invoke(app, given)
    assert asked.exit_code == 0, asked.output
    answer = json.loads(asked.stdout)
    assert answer["compressor"] == "omnisift+" + selector.label
    assert answer["tokens"]["video_kept"] < answer["tokens"]["video"]


def test_the_learned_score_chooses_the_video_of_a_model_without_audio(
    folder_of: Callable[[str], Path], folder: Path
) -> None:
    host = load_host(str(folder_of("qwen3_vl")), "cpu")
    samples = [observe(host, media_of(host, "qwen3_vl", clip), ASKED[:1]) for clip in find_clips(folder)[:2]]
    selector, report = distill(host, samples, DistillSettings(max_steps=3))
    assert report["settings"]["time_embedding"] is False
    stream = stream_of(samples[:1])
    keep = omnisift.make_compressor("omnisift", 0.25, selector=selector)(stream).keep
    plain = omnisift.make_compressor("stvp", 0.25)(stream).keep
    assert int(keep.sum()) == int(plain.sum())
    assert not torch.equal(keep, plain)


@pytest.mark.parametrize(("name", "modality"), [("qwen3_vl", "video"), ("qwen3_omni_moe_thinker", "audio")])
def test_an_exported_selector_names_its_model(
    folder_of: Callable[[str], Path], tmp_path: Path, name: str, modality: str
) -> None:
    video = modality == "video"
    new_selector(32, not video, 0, video_score=video, audio_score=not video).save_pretrained(tmp_path / "selector")
    given = ["export", str(folder_of(name)), "--selector", str(tmp_path / "selector"), "-o"]
    exported = CliRunner().invoke(app, [*given, str(tmp_path / "alone"), "--as", "selector"])
    assert exported.exit_code == 0, exported.output
    card = (tmp_path / "alone/README.md").read_text()
    assert f"import AutoProcessor, {adapter_class(name).model_class}\n" in card
    assert f"chooses the {modality} tokens" in card
    assert VGAS.from_pretrained(str(tmp_path / "alone")).config.audio_score == (not video)
    merged = CliRunner().invoke(app, [*given, str(tmp_path / "merged"), "--as", "merged"])
    assert isinstance(merged.exception, UsageError) if video else merged.exit_code == 0
    assert (tmp_path / "merged").exists() == (not video)


def test_clips_without_audio(folder_of: Callable[[str], Path], folder: Path) -> None:
    """They do for a model without audio; others need it."""
    deaf, omni = (load_host(str(folder_of(name)), "cpu") for name in ("qwen3_vl", "qwen3_omni_moe_thinker"))
    clip = find_clips(folder)[0]
    for host, name in ((deaf, "qwen3_vl"), (omni, "qwen3_omni_moe_thinker")):
        silent = replace(media_of(host, name, clip), waveform=None)
        if host is deaf:
            assert observe(host, silent, ASKED[:1]).attention.any()
        else:
            with pytest.raises(UsageError, match="needs both video and audio"):
                observe(host, silent, ASKED[:1])


def test_a_selector_of_another_width_or_of_video_alone_is_one_line(
    folder_of: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    new_selector(48, True, 0).save_pretrained(tmp_path / "wide")
    new_selector(32, False, 0, video_score=True, audio_score=False).save_pretrained(tmp_path / "video")
    omni = str(folder_of("qwen3_omni_moe_thinker"))
    for model in (omni, str(folder_of("qwen3_vl"))):
        with pytest.raises(CheckpointError, match="has width 48, the model 32"):
            omnisift.load(model, selector=tmp_path / "wide")
    pipe = omnisift.load(omni, selector=tmp_path / "video")
    with pytest.raises(CompressorError, match="a video score alone"):
        pipe.ask(find_clips(folder)[0], ASKED[0], max_pixels=12 * 32**2)
    assert not any(module._forward_pre_hooks for module in pipe.host.thinker.modules())
