"""Distilling a selector from clips without labels: attention, training, resuming, and the width of 7B."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from omnisift.cli.app import app
from omnisift.errors import CheckpointError, UsageError
from omnisift.media import read
from omnisift.models.selector import new_selector
from omnisift.pipeline.loading import load_host
from omnisift.pipeline.prompt import build_inputs
from omnisift.tokens import Modality
from omnisift.training.distill import DistillSettings, distill, find_clips, load_questions, observe_clips
from omnisift.training.distill.learn import audio_agreement, audio_targets, scores_of, train_selector
from omnisift.training.distill.observing import observe
from omnisift.training.distill.samples import DistillSample, stream_of
from omnisift.utils.assets import nano_path

ASKED = ("Which sound goes with the circle?", "What colour is the square?")


@torch.no_grad()
def test_a_sample_holds_the_attention_of_the_full_token_model(
    host: Any, folder: Path, samples: list[DistillSample]
) -> None:
    """Compared with the host's eager attention weights, with one full prompt per question."""
    media = read(find_clips(folder)[0], max_pixels=112 * 112, min_pixels=784)
    eager = load_host(str(nano_path()), "cpu", None, "eager")
    best = torch.zeros(len(samples[0].modality))
    for question in ASKED:
        inputs = build_inputs(host.processor, media, question)
        layers = eager.thinker(**inputs, output_attentions=True, use_cache=False).attentions
        best = torch.maximum(best, torch.stack([layer[0].mean(dim=0)[-1] for layer in layers]).mean(dim=0)[: len(best)])
    torch.testing.assert_close(samples[0].attention, best, atol=1e-5, rtol=1e-3)
    assert (samples[0].modality == int(Modality.VIDEO)).sum() == 96
    assert (samples[0].modality == int(Modality.AUDIO)).sum() == 150


def test_targets_cover_audio_and_have_a_maximum_of_one(samples: list[DistillSample]) -> None:
    target, stream = audio_targets(samples), stream_of(samples)
    assert torch.equal(~target.isnan(), stream.modality == int(Modality.AUDIO))
    for row in range(len(samples)):
        assert target[(stream.sample == row) & ~target.isnan()].max() == pytest.approx(1.0)


@pytest.mark.parametrize("seconds", [1e-6, 0.04])
def test_files_of_earlier_versions_are_read(samples: list[DistillSample], tmp_path: Path, seconds: float) -> None:
    """They have no clip numbers, and the first ones count time in rotary ids of 40 ms that begin anywhere."""
    expected = stream_of(samples[:3])
    for number in (0, 2):
        position = samples[number].position.clone()
        if seconds == 0.04:
            position = position + 7
            position[0] = samples[number].position[0] // 40_000 + 11
        old = replace(samples[number], clip=None, position=position, seconds_per_position=seconds)
        old.save(tmp_path / f"{number}.safetensors")
    loaded = [
        DistillSample.load(tmp_path / "0.safetensors"),
        samples[1],
        DistillSample.load(tmp_path / "2.safetensors"),
    ]
    found = stream_of([sample for sample in loaded if sample is not None])
    for name in ("embeds", "modality", "position", "time", "chunk", "frame", "clip", "sample"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_training_lowers_the_loss_and_raises_agreement(samples: list[DistillSample]) -> None:
    selector = new_selector(128, True, 0)
    before = audio_agreement(lambda stream, share: scores_of(selector, stream, share), samples, 0.25)
    losses = train_selector(selector, samples, 60, 1e-3, 0)
    after = audio_agreement(lambda stream, share: scores_of(selector, stream, share), samples, 0.25)
    assert losses[-1] < losses[0] / 2
    assert after["attention"] > before["attention"] + 0.1
    assert after["rank"] > before["rank"] + 0.2
    perfect = audio_agreement(
        lambda stream, _: audio_targets(sample_of(stream, samples)).nan_to_num(0.0), samples, 0.25
    )
    assert perfect["overlap"] == 1.0


def test_losses_are_those_of_the_record(samples: list[DistillSample]) -> None:
    """The record is of commit 397ee60, which had a loop for distillation alone."""
    selector = new_selector(128, True, 0)
    recorded = [0.677877, 0.619362, 0.515971, 0.390983, 0.265959, 0.212722]
    assert train_selector(selector, samples, 6, 1e-3, 0) == pytest.approx(recorded, rel=1e-4)


def sample_of(stream: Any, samples: list[DistillSample]) -> list[DistillSample]:
    return [next(sample for sample in samples if torch.equal(sample.embeds.float(), stream.embeds))]


def test_samples_are_kept_and_bad_clips_named(host: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.mp4").write_bytes(b"nothing")
    clips, calls = [*find_clips(folder), tmp_path / "torn.mp4"], []
    settings = DistillSettings(questions=1)
    first, skipped = observe_clips(host, clips, ASKED, settings, tmp_path / "work", lambda: calls.append(1))
    assert len(first) == 4
    assert len(calls) == 5
    assert list(skipped) == [str(tmp_path / "torn.mp4")]
    files = sorted((tmp_path / "work").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])  # torn by a kill
    times = [file.stat().st_mtime_ns for file in files]
    again, _ = observe_clips(host, clips, ASKED, settings, tmp_path / "work", lambda: None)
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)] == [
        False,
        True,
        True,
        True,
    ]
    for left, right in zip(first, again, strict=True):
        assert torch.equal(left.embeds, right.embeds)
        assert torch.equal(left.attention, right.attention)


def test_the_command_writes_a_selector_that_ask_loads(folder: Path, tmp_path: Path) -> None:
    out, prompts = tmp_path / "selector", tmp_path / "questions.txt"
    prompts.write_text("\n".join(ASKED), encoding="utf-8")
    command = ["distill", "--media", str(folder), "-o", str(out), "--prompts", str(prompts), "--steps", "5", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert set(report["agreement"]) == {"0.25", "0.15"}
    assert set(report["agreement"]["0.25"]) == {"selector", "untrained", "salient", "random"}
    assert json.loads((out / "report.json").read_text())["clips"] == {"taught": 3, "held out": 1}
    clip = str(find_clips(folder)[0])
    asked = CliRunner().invoke(app, ["ask", clip, ASKED[0], "--selector", str(out), "--json"])
    assert asked.exit_code == 0, asked.output
    again = CliRunner().invoke(app, command)
    assert again.exit_code != 0  # the folder is not overwritten


def test_a_new_clip_leaves_the_other_samples_unchanged(host: Any, folder: Path, tmp_path: Path) -> None:
    clips, settings, work = find_clips(folder)[:3], DistillSettings(questions=1), tmp_path / "work"
    observe_clips(host, clips[1:], ASKED, settings, work, lambda: None)
    before = {file.name: file.stat().st_mtime_ns for file in work.iterdir()}
    observe_clips(host, clips, ASKED, settings, work, lambda: None)
    after = {file.name: file.stat().st_mtime_ns for file in work.iterdir()}
    assert len(after) == 3
    assert before.items() <= after.items()


def test_changed_weights_make_new_samples(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(nano_path(), tmp_path / "model")
    settings, work = DistillSettings(questions=1), tmp_path / "work"
    for number in (1, 2):
        host = load_host(str(tmp_path / "model"), "cpu", None, None)
        observe_clips(host, find_clips(folder)[:2], ASKED, settings, work, lambda: None)
        assert len(list(work.iterdir())) == 2 * number
        (tmp_path / "model" / "model.safetensors").touch()  # as a save would


def test_attention_can_be_read_from_all_tokens_after_the_clip(host: Any, folder: Path) -> None:
    media = read(find_clips(folder)[0], max_pixels=112 * 112, min_pixels=784)
    answer, question = (observe(host, media, ASKED[:1], rows=rows).attention for rows in ("answer", "question"))
    assert not torch.allclose(answer, question, atol=1e-4)
    assert question.sum() <= 1.0 + 1e-5
    with pytest.raises(UsageError, match="rows must be answer or question"):
        DistillSettings(rows="last")


def test_a_clip_too_long_for_the_memory_is_skipped(
    host: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnisift.training.distill import run

    original, calls = run.observe, []

    def hungry(*arguments: Any) -> DistillSample:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return original(*arguments)

    monkeypatch.setattr(run, "observe", hungry)
    result, skipped = observe_clips(host, find_clips(folder), ASKED, DistillSettings(), tmp_path, lambda: None)
    assert len(result) == 3
    assert "give a smaller --max-frames" in next(iter(skipped.values()))
    assert result.shuffled(0).paths != result.shuffled(1).paths
    assert set(result.shuffled(0).paths) == set(result.paths)
    result.paths[0].unlink()
    with pytest.raises(CheckpointError, match="is missing or damaged"):
        result[0]


def test_at_least_one_clip_is_trained_on(host: Any, samples: list[DistillSample]) -> None:
    _, report = distill(host, samples[:2], DistillSettings(max_steps=1, held_out=0.9))
    assert report["clips"] == {"taught": 1, "held out": 1}


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^no folder "):
        find_clips(tmp_path / "none")
    (tmp_path / "q.txt").write_text("\n \n")
    with pytest.raises(UsageError, match=r"q.txt is a file; give a folder with video files$"):
        find_clips(tmp_path / "q.txt")
    with pytest.raises(UsageError, match=r"^0 video files in "):
        find_clips(tmp_path)
    with pytest.raises(UsageError, match="has no questions"):
        load_questions(tmp_path / "q.txt")


def test_comments_in_the_questions(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("# about sound\nWho speaks?\n\n  # more\nWhat is #1?\n")
    assert load_questions(tmp_path / "q.txt") == ("Who speaks?", "What is #1?")


def test_it_fits_the_width_of_7b() -> None:
    """One layer of each encoder and embeddings of 3,584: 4.86 M parameters are trained on the model's attention."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    from omnisift.pipeline.loading import Host

    nano = load_host("nano", "cpu", None, None)
    config = type(nano.thinker.config).from_dict(nano.thinker.config.to_dict())
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 3584, 512, 1
    text.num_attention_heads, text.num_key_value_heads = 28, 4
    text.layer_types = text.layer_types[:1]
    text.head_dim = 128
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config.vision_config.out_hidden_size = config.audio_config.output_dim = 3584
    torch.manual_seed(0)
    thinker = Thinker._from_config(config).eval()
    folder = Path(nano.source)
    wide = Host("wide", str(folder), thinker, nano.processor)
    import tempfile

    from omnisift.world import make_scene, write_clip

    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "clip.mp4"
        write_clip(make_scene(1, "train"), path)
        media = read(path, max_pixels=112 * 112, min_pixels=784)
        result = [observe(wide, media, [question]) for question in ASKED]
    selector, report = distill(wide, result, DistillSettings(max_steps=3))
    assert sum(p.numel() for p in selector.parameters()) == 4_856_321 + 50 * 512
    assert report["clips"] == {"taught": 1, "held out": 1}
