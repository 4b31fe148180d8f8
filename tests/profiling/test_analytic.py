"""Counting without a model: shapes as the pipeline makes them, and the ratios of the paper's Table 7."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from omnisift.budget import Budget
from omnisift.errors import CheckpointError, UnsupportedModel, UsageError
from omnisift.pipeline import load
from omnisift.profiling.analytic import PAPER, count, flop_definitions, weight_bytes
from omnisift.profiling.shape import PromptShape, prompt_shape
from omnisift.profiling.sizes import host_config
from omnisift.utils.assets import nano_path

SHARES = [Budget(retain=0.35), Budget(retain=0.25)]


def test_the_shape_is_what_the_pipeline_reads(clip: Path) -> None:
    """And the counts are what its compressor keeps."""
    tokens = load("nano", retain=0.25).ask(clip, "What colour is the circle?").report.tokens
    text = tokens.prompt - tokens.video - tokens.audio
    shape = prompt_shape(6.0, 112, 112, max_pixels=50176, min_pixels=12544, text=text)
    assert (shape.video, shape.audio, shape.prompt) == (tokens.video, tokens.audio, tokens.prompt)
    cut = count(host_config(str(nano_path())), shape, [Budget(retain=0.25)])[1]
    assert (cut.video, cut.audio, cut.prompt) == (tokens.video_kept, tokens.audio_kept, tokens.prompt_kept)


def test_bytes_are_those_of_the_real_tensors() -> None:
    thinker = load("nano", retain=0.25).host.thinker
    ids = torch.randint(0, 50, (1, 17))
    with torch.no_grad():
        output = thinker(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    cached = sum(layer.keys.numel() + layer.values.numel() for layer in output.past_key_values.layers)
    config = host_config(str(nano_path()))
    complete = count(config, PromptShape(frames=0, height=0, width=0, mel=0, text=17, seconds_per_frame=1.0), [])[0]
    assert (complete.cache_bytes, complete.logits_bytes) == (2 * cached, 2 * output.logits.shape[-1])
    assert weight_bytes(config) == 2 * sum(parameter.numel() for parameter in thinker.parameters())


def test_the_rules_of_sampling() -> None:
    wide = prompt_shape(300, 1080, 1920)
    assert (wide.frames, wide.height, wide.width) == (128, 13, 23)  # 256 images, 320 * 784 pixels
    assert wide.audio == 7500
    assert wide.seconds_per_frame == pytest.approx(300 / 128)
    chunks = wide.chunks()
    assert len(chunks) == 64
    assert int(chunks.audio.sum()) == 7500
    assert set(chunks.frame0.tolist()) == {299}
    assert prompt_shape(10, audio=False).audio == 0


def test_an_odd_last_frame() -> None:
    shape = PromptShape(frames=3, height=2, width=2, mel=300, text=5, seconds_per_frame=1.0)
    chunks = shape.chunks()
    assert chunks.frame1.tolist() == [4, 0]
    assert chunks.audio.tolist() == [50, 25]


@pytest.mark.parametrize("seconds", [60, 95, 128, 240])
@pytest.mark.parametrize("size", [(1080, 1920), (480, 640), (1920, 1080)])
def test_table_7_of_the_paper(seconds: float, size: tuple[int, int]) -> None:
    """All stages without attention between tokens: within 3 % whatever the clip, so nothing is fitted."""
    config = host_config("7b")
    result = flop_definitions(config, count(config, prompt_shape(seconds, *size), SHARES))
    nearest = result[0]
    for share in ("0.35", "0.25"):
        assert nearest.ratios[share] == pytest.approx(PAPER[share] / PAPER["full"], rel=0.03)
        assert nearest.deviations[share] == pytest.approx(nearest.ratios[share] * PAPER["full"] / PAPER[share] - 1)
    # Whatever counts attention, or leaves the encoders out, is far off: the reading is no accident.
    for other in result[2:]:
        assert all(abs(off) > 0.09 for off in other.deviations.values()), other.name


def test_table_7_in_absolute_numbers() -> None:
    """A clip of 90 s at 1080p comes to the paper's total, and then its selector too to about the paper's 0.06 and
    0.04."""
    config = host_config("7b")
    counts = count(config, prompt_shape(90), SHARES)
    assert flop_definitions(config, counts)[0].tflops == pytest.approx(PAPER["full"], rel=0.01)
    selector = [one.stages["compress"].total / 1e12 for one in counts[1:]]
    assert selector == pytest.approx([0.06, 0.04], abs=0.006)


def test_a_share_that_the_paper_lacks_has_no_deviation() -> None:
    config = host_config("3b")
    result = flop_definitions(config, count(config, prompt_shape(30), [Budget(retain=0.5)]))[0]
    assert result.deviations == {}
    assert 0.5 < result.ratios["0.5"] < 1


def test_a_folder_is_read_and_others_are_refused(tmp_path: Path) -> None:
    assert host_config(str(nano_path())).text_config.hidden_size == 128
    with pytest.raises(UsageError, match="7b, 3b"):
        host_config("70b")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        host_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="llava"):
        host_config(str(tmp_path))
    broken = host_config("qwen3-vl-2b").to_dict()
    broken["vision_config"]["patch_size"] = 0
    (tmp_path / "config.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(CheckpointError, match="can't load"):
        host_config(str(tmp_path))
    complete = {"model_type": "qwen2_5_omni", "thinker_config": host_config("3b").to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(complete), encoding="utf-8")
    assert host_config(str(tmp_path)).text_config.num_hidden_layers == 36


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"seconds": 0}, "seconds must be above 0"),
        ({"seconds": float("nan")}, "seconds must be above 0"),
        ({"seconds": 1e6}, "at most 86400"),
        ({"seconds": 9, "text": 0}, "text must be at least 1 token"),
        ({"seconds": 9, "fps": 0}, "fps must be above 0"),
        ({"seconds": 9, "height": 0}, "at least one pixel"),
        ({"seconds": 9, "max_pixels": 5}, "28 x 28 <= max_pixels"),
        ({"seconds": 80_000, "max_frames": 10**6, "fps": 5}, "prompt tokens are more than"),
    ],
)
def test_impossible_numbers_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        prompt_shape(**wrong)
