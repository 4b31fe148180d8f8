"""`omnisift.advise`: it takes the best measured sampling that the tokens are enough for, and says what is outside."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

import omnisift
from omnisift.budget import Budget
from omnisift.errors import BudgetError, CheckpointError, MediaError, UsageError
from omnisift.profiling import advice
from omnisift.profiling.advice import TABLE, advise
from omnisift.profiling.shape import prompt_shape
from omnisift.world import make_scene, world_setting, write_clip


def sampling(fps, pixels, accuracy, best=80.0):
    gap = accuracy - best
    return {
        "fps": fps,
        "pixels": pixels,
        "all_tokens": 82.0,
        "accuracy": accuracy,
        "minus_best": [gap, gap - 2, gap + 2],
    }


def level(share, *samplings):
    return {"tokens": round(2500 * share), "share": share, "samplings": [sampling(*each) for each in samplings]}


LENGTH = {"setting": "wide20", "backbone": "wide", "seconds": 20, "clips": 9, "all_tokens": 82.0}
MADE_UP = {
    "method": "resift",
    "lengths": [
        LENGTH
        | {"levels": [level(0.05, (1.0, 1.0, 80.0), (4.0, 1.0, 70.0)), level(0.4, (4.0, 0.5, 80.0), (0.5, 1.0, 60.0))]},
        LENGTH | {"setting": "wide60", "seconds": 60, "levels": [level(0.1, (0.5, 1.0, 80.0), (2.0, 1.0, 79.0))]},
    ],
}


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(advice, "_table", lambda: MADE_UP)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A clip of 6 s, 280 x 280."""
    path = tmp_path_factory.mktemp("advice") / "wide.mp4"
    write_clip(make_scene(0, "test", world_setting("wide").config), path)
    return path


def of(seconds, height=280, width=280, audio=True, model="7b"):
    return advice._Clip(seconds, height, width, audio, advice._Host.of(model))


def test_the_nearest_share_and_length_decide(made_up):
    usual = prompt_shape(20, 280, 280)
    whole = usual.video + usual.audio
    few = advice._advice("a", "7b", of(20), Budget(tokens=whole // 20))
    assert (few.fps, few.max_pixels, few.notes) == (1.0, None, ())
    assert few.options == f"--fps 1 --tokens {whole // 20}"
    many = advice._advice("a", "7b", of(20), Budget(tokens=whole * 2 // 5))
    assert (many.fps, many.notes) == (4.0, ())
    assert many.max_pixels == usual.height * usual.width * 28**2 // 2
    assert many.frame_tokens <= usual.height * usual.width // 2
    assert many.options.startswith(f"--fps 4 --max-pixels {many.max_pixels} --tokens ")


def test_the_usual_sampling_stays_where_none_is_better_beyond_chance(made_up, monkeypatch):
    """In the table of a minute two images per second are 1 point (-3 to +1) below the best."""
    assert advice._advice("a", "7b", of(61), Budget(tokens=900)).fps == 2.0
    clear = {"method": "resift", "lengths": [LENGTH | {"levels": [level(0.1, (0.5, 1.0, 80.0), (2.0, 1.0, 77.0))]}]}
    monkeypatch.setattr(advice, "_table", lambda: clear)
    assert advice._advice("a", "7b", of(61), Budget(tokens=900)).fps == 0.5


def test_the_split_is_that_of_the_budget_and_exact(made_up):
    found = advice._advice("a", "7b", of(20), Budget(tokens=300))
    counts = Budget(tokens=300).counts(prompt_shape(20, 280, 280, fps=found.fps).chunks())
    assert (found.video_kept, found.audio_kept) == (int((counts.frame0 + counts.frame1).sum()), int(counts.audio.sum()))
    assert found.video_kept + found.audio_kept == 300


def test_options_lift_the_limit_on_frames_where_the_clip_needs_it(made_up):
    found = advice._advice("a", "7b", of(100), Budget(tokens=30_000))
    assert (found.images, found.max_frames) == (200, 256)
    long = advice._advice("a", "7b", of(1000), Budget(tokens=30_000))
    assert (long.fps, long.images, long.max_frames) == (2.0, 2000, 2000)
    assert "--max-frames 2000" in long.options
    assert long.reading == {"fps": 2.0, "max_frames": 2000, "max_pixels": None}


def test_what_was_not_measured_is_said(made_up):
    long = " ".join(advice._advice("a", "7b", of(3600), Budget(tokens=20_000)).notes)
    assert "the clip has 3600.0 s, clips of 20 s and 60 s were measured" in long
    assert "% of the tokens, 5 to 40 % were measured" in long
    assert "no audio tokens" in " ".join(advice._advice("a", "7b", of(20, audio=False), Budget(tokens=99)).notes)
    assert "no audio tokens" in " ".join(
        advice._advice("a", "7b", of(20, model="qwen3-vl-8b"), Budget(tokens=99)).notes
    )
    assert "no full-size model was measured" in advice._advice("a", "7b", of(20), Budget(tokens=300)).rests_on


def test_more_tokens_than_the_clip_has_are_all_kept(made_up):
    found = advice._advice("a", "7b", of(20), Budget(tokens=10**6))
    assert (found.video_kept, found.audio_kept) == (found.video_tokens, found.audio_tokens)
    assert "no more tokens than that" in " ".join(found.notes)


def test_few_tokens_lower_the_rate_down_to_two_images(made_up):
    """At 0.5 frames per second a minute has 15 frames and 8 chunks of audio."""
    few = advice._advice("a", "7b", of(60), Budget(tokens=40))
    assert 0 < few.fps < 0.5
    assert few.video_kept + few.audio_kept == 40
    assert f"{few.fps:g} frames per second are fewer than were measured" in " ".join(few.notes)
    least = advice._advice("a", "7b", of(60), Budget(tokens=2))
    assert (least.images, least.video_kept, least.audio_kept) == (2, 1, 1)
    one = advice._advice("a", "7b", of(60), Budget(tokens=1))
    assert (one.images, one.video_kept, one.audio_kept) == (2, 1, 0)


def test_too_little_audio_for_speech_is_said_with_a_split_that_leaves_more(made_up):
    found = advice._advice("a", "7b", of(20), Budget(tokens=70))
    assert found.audio_kept < 2.5 * 20
    (note,) = [note for note in found.notes if "speech" in note]
    video, audio = (float(note.split(f"--retain-{name} ")[1].split()[0].rstrip(":")) for name in ("video", "audio"))
    counts = Budget(retain_video=video, retain_audio=audio).counts(of(20).shape(found.fps).chunks())
    assert int(counts.audio.sum()) >= 50
    assert f"keeps {int((counts.frame0 + counts.frame1 + counts.audio).sum())} tokens in all" in note
    assert not any("speech" in note for note in advice._advice("a", "7b", of(20), Budget(tokens=900)).notes)
    assert not any("speech" in note for note in advice._advice("a", "7b", of(20, audio=False), Budget(tokens=90)).notes)


def test_a_sampling_that_needs_more_tokens_is_passed_over(monkeypatch):
    data = {"method": "resift", "lengths": [LENGTH | {"levels": [level(0.05, (4.0, 1.0, 80.0), (0.5, 1.0, 60.0))]}]}
    monkeypatch.setattr(advice, "_table", lambda: data)
    found = advice._advice("a", "7b", of(20), Budget(tokens=100))
    assert (found.fps, found.measured[0].fps) == (0.5, 4.0)
    assert "100 tokens are too few for the best, 4 frames per second" in found.notes


def test_a_clip_is_read_and_the_advice_is_what_the_model_gets(wide):
    found = omnisift.advise(wide, 64)
    assert (found.clip, found.seconds, found.model) == (str(wide), 6.0, "nano")
    assert found.frame_tokens == 64  # the most of nano's processor
    inputs = omnisift.inputs(omnisift.load("nano").host.processor, wide, "?", **found.reading)
    ids = inputs["input_ids"][0].tolist()
    assert max(ids.count(token) for token in set(ids)) == max(found.video_tokens, found.audio_tokens)
    assert advise(io.BytesIO(wide.read_bytes()), 64).to_dict() == found.to_dict() | {"clip": "<BytesIO>"}
    assert json.loads(json.dumps(found.to_dict()))["options"] == found.options


def test_bad_input_is_one_typed_line(wide, tmp_path):
    import av

    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), "s16", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
    cases = [
        (sound, 64, "nano", MediaError),
        (tmp_path / "no.mp4", 64, "nano", MediaError),
        (wide, 0, "nano", BudgetError),
        (wide, 2.5, "nano", BudgetError),
        (wide, "64", "nano", BudgetError),
        (wide, None, "nano", BudgetError),
        (None, 64, "nano", UsageError),
        (wide, 64, "9b", CheckpointError),
        (wide, 64, 5, UsageError),
        (wide, 64, None, UsageError),
        (wide, 64, str(tmp_path), UsageError),
    ]
    for clip, tokens, model, kind in cases:
        with pytest.raises(kind) as caught:
            advise(clip, tokens, model=model)
        assert "\n" not in str(caught.value), (clip, tokens, model)


def test_the_table_of_the_package_is_complete():
    for length in json.loads(TABLE.read_text(encoding="utf-8"))["lengths"]:
        for each in length["levels"]:
            assert 0 < each["share"] < 1
            assert max(one["minus_best"][0] for one in each["samplings"]) == 0
