"""The main job: a clip and a question in, an answer at a quarter of the tokens out."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from omnisift import Answer, Pipeline, load
from omnisift.errors import NotFound, UsageError
from omnisift.pipeline.report import NANO_NOTICE
from omnisift.utils.assets import nano_path

QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def quarter() -> Pipeline:
    return load("nano", retain=0.25)


@pytest.fixture(scope="module")
def full() -> Pipeline:
    return load("nano", compressor=None)


def write_audio(path: Path, seconds: float = 2.0) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        tone = np.sin(np.arange(int(16_000 * seconds)) * 0.2) * 8_000
        frame = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_silent_video(path: Path, frames: int = 5) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width = stream.height = 112
        for level in range(frames):
            image = np.full((112, 112, 3), 40 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_quarter_of_the_tokens_is_read(quarter: Pipeline, clip: Path) -> None:
    answer = quarter.ask(clip, QUESTION)
    tokens = answer.report.tokens
    # 6 frames of 16 tokens keep 16 - int(16 * .75) = 4 each; 3 chunks of 50 audio tokens keep 50 - int(50 * .75) = 13.
    assert (tokens.video, tokens.video_kept, tokens.audio, tokens.audio_kept) == (96, 24, 150, 39)
    assert answer.report.retained_ratio == pytest.approx(63 / 246)
    assert tokens.prompt_kept == tokens.prompt - 246 + 63
    assert answer.text


def test_the_label_names_what_differs_from_the_paper(quarter: Pipeline, clip: Path) -> None:
    own = quarter.with_compressor("omnisift", retain=0.25)
    assert own.ask(clip, QUESTION).report.compressor == "omnisift+time"
    exact = load("nano", selector=nano_path() / "selector-exact")
    assert exact.ask(clip, QUESTION).report.compressor == "omnisift"


def test_no_compressor_reads_everything(full: Pipeline, clip: Path) -> None:
    report = full.ask(clip, QUESTION).report
    assert (report.tokens.video_kept, report.tokens.audio_kept, report.retained_ratio) == (96, 150, 1.0)
    assert report.compressor == "none"


def test_keeping_everything_changes_nothing(full: Pipeline, clip: Path) -> None:
    everything = load("nano", retain=1.0).ask(clip, QUESTION)
    assert everything.report.retained_ratio == 1.0
    assert everything.text == full.ask(clip, QUESTION).text


def test_the_model_is_untouched_between_questions(quarter: Pipeline, clip: Path) -> None:
    thinker = quarter.host.thinker
    before = {name: set(vars(module)) for name, module in thinker.named_modules()}
    first, second = (quarter.ask(clip, QUESTION).text for _ in range(2))
    assert first == second
    assert {name: set(vars(module)) for name, module in thinker.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in thinker.modules())


def test_stages_are_reported_and_timed(quarter: Pipeline, clip: Path) -> None:
    stages: list[str] = []
    answer = quarter.ask(clip, QUESTION, on_stage=stages.append)
    order = [stages.index(name) for name in ("read", "process", "encode_audio", "compress", "decode")]
    assert order == sorted(order)
    assert stages.index("process") < stages.index("encode_video") < stages.index("compress")
    seconds = answer.report.seconds
    parts = (seconds.read, seconds.process, seconds.encode_video, seconds.encode_audio)
    parts += (seconds.compress, seconds.prefill, seconds.decode)
    assert answer.to_dict()["seconds"]["encode"] == seconds.encode == seconds.encode_video + seconds.encode_audio
    assert min(parts) > 0
    assert seconds.total == pytest.approx(sum(parts))
    assert answer.report.peak_memory_bytes > 2**20


@pytest.mark.parametrize("question", [QUESTION, "What happens?"])
def test_text_arrives_while_it_is_generated(quarter: Pipeline, clip: Path, question: str) -> None:
    pieces: list[str] = []
    streamed = quarter.ask(clip, question, on_text=pieces.append)
    assert streamed.text == quarter.ask(clip, question).text
    assert "".join(pieces).strip() == streamed.text
    assert len(pieces) >= len(streamed.text.split())


def test_the_answer_is_one_json_object(quarter: Pipeline, clip: Path) -> None:
    answer = quarter.ask(clip, QUESTION)
    loaded = json.loads(json.dumps(answer.to_dict()))
    assert loaded["answer"] == answer.text == str(answer)
    assert loaded["retained_ratio"] == pytest.approx(63 / 246, abs=1e-6)
    assert isinstance(answer, Answer)


def test_video_without_audio(quarter: Pipeline, tmp_path: Path) -> None:
    report = quarter.ask(write_silent_video(tmp_path / "silent.mp4"), QUESTION).report
    assert report.tokens.audio == 0 < report.tokens.video_kept < report.tokens.video
    assert report.source.has_video
    assert not report.source.has_audio


def test_audio_without_video_is_not_compressed_and_a_notice_says_so(quarter: Pipeline, tmp_path: Path) -> None:
    report = quarter.ask(write_audio(tmp_path / "tone.wav"), "Is a beep heard?").report
    assert report.tokens.video == 0
    assert report.tokens.audio_kept == report.tokens.audio > 0
    assert any("kept in full; --compress-audio" in notice for notice in report.notices)


def test_a_notice_says_that_nano_does_not_understand_other_clips(quarter: Pipeline, clip: Path, tmp_path: Path) -> None:
    assert NANO_NOTICE not in quarter.ask(clip, QUESTION).report.notices
    assert NANO_NOTICE in quarter.ask(write_silent_video(tmp_path / "other.mp4"), QUESTION).report.notices


@pytest.mark.parametrize("name", ["random", "uniform"])
def test_training_free_compressors_keep_the_same_counts(name: str, clip: Path) -> None:
    tokens = load("nano", compressor=name, retain=0.25).ask(clip, QUESTION).report.tokens
    assert (tokens.video_kept, tokens.audio_kept) == (24, 39)


def test_bad_questions_and_files_are_typed_errors(quarter: Pipeline, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="question is empty"):
        quarter.ask(clip, "  ")
    with pytest.raises(UsageError, match="not UTF-8"):
        quarter.ask(clip, "What\udcff?")
    with pytest.raises(UsageError, match="max_new_tokens"):
        quarter.ask(clip, QUESTION, max_new_tokens=0)
    with pytest.raises(NotFound):
        quarter.ask(tmp_path / "nothing.mp4", QUESTION)
