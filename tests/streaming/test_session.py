"""A stream is the offline prompt, a question leaves no trace, and moved keys are those of other positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family
from tests.helpers.more_folders import save_more
from tests.helpers.streams import QUESTION, check_equal, feed, noise, peak_of, pieces_of, random_pipeline, streamed
from tests.helpers.windows import clip_of, watched, windows_of

import omnisift
from omnisift import KeepAll, MemoryBank, NestedBudgets, Piece, Pipeline, SlidingWindow
from omnisift.errors import CompressorError, ModelError, UnsupportedModel, UsageError

ENDS = [(10, 5.0), (12, 6.0), (13, 6.4), (46, 23.0), (47, 23.5), (48, 24.0), (1, 0.5), (12, 0.0), (47, 0.0)]
"""(images, seconds of sound)."""


@pytest.fixture(scope="module")
def nano() -> Pipeline:
    return omnisift.load("nano")


@pytest.fixture(scope="module")
def pipelines(nano: Pipeline) -> dict[str, Pipeline]:
    return {"nano": nano, "wide": omnisift.load(omnisift.nano_path().parent / "wide"), "random": random_pipeline()}


@pytest.mark.parametrize("name", ["nano", "wide", "random"])
@pytest.mark.parametrize(("images", "seconds"), ENDS)
def test_a_stream_is_the_offline_prompt(pipelines: dict[str, Pipeline], name: str, images: int, seconds: float) -> None:
    """Also where the end is no whole unit, or there is no sound."""
    check_equal(pipelines[name], noise(images, seconds, 112, 168 if name == "random" else 112))


@pytest.mark.parametrize(("images", "seconds"), [(13, 6.4), (46, 23.0)])
def test_the_backbone_of_the_class_of_qwen3_omni_streams(images: int, seconds: float) -> None:
    """Its audio encoder attends within two seconds, so its units are as long."""
    pipe = omnisift.load(omnisift.nano_path().parent / "wide-qwen3")
    blocks = np.random.default_rng(images).integers(0, 256, (images, 10, 10, 3), np.uint8)
    media = dataclasses.replace(noise(images, seconds), images=blocks.repeat(32, axis=1).repeat(32, axis=2))
    check_equal(pipe, media)


def test_a_long_stream_that_ends_within_a_hop_is_the_offline_prompt(nano: Pipeline) -> None:
    """Beyond the longest waveform that the processor pads, 30 s here, the last incomplete hop does not count."""
    assert nano.host.processor.feature_extractor.n_samples == 30 * 16_000
    check_equal(nano, noise(65, 32.54525))


@pytest.mark.parametrize("method", ["resift:causal=true,merge=false", "stvp", "divprune", "tome", "uniform"])
def test_other_methods_and_budgets_stream_too(method: str) -> None:
    pipe = omnisift.load("nano", compressor=method, retain_video=0.3, retain_audio=0.6)
    check_equal(pipe, noise(23, 11.5))


@pytest.mark.parametrize("sound", [False, True])
def test_in_float64_nothing_differs(sound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same frames of the spectrogram, which is computed in float32: those that clips in windows have."""
    pipe = random_pipeline(torch.float64, compressor="resift:causal=true,merge=false")
    with windows_of(2, monkeypatch):
        check_equal(pipe, noise(46, 23.0 if sound else 0.0), tolerance=1e-10)


@pytest.mark.parametrize("family", ["qwen3_omni_moe_thinker", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
def test_other_families_stream(family: str, tmp_path: Path) -> None:
    """Qwen3-Omni in units of eight seconds, the span of its audio encoder; the others without sound."""
    pipe, side = omnisift.load(save_family(family, tmp_path)), FACTORS[family]
    media = clip_of(family, 39, 19.3 if "omni" in family else 0.0)
    shape = len(media.images), 12 * side, 11 * side, 3
    check_equal(pipe, dataclasses.replace(media, images=np.random.default_rng(1).integers(0, 256, shape, np.uint8)))


def test_without_the_peak_the_largest_value_so_far_sets_the_floor(nano: Pipeline) -> None:
    """So a stream whose loudest moment comes late is another spectrogram, and one whose loudest comes first is not."""
    media = noise(12, 6.0)
    quiet_first, _ = streamed(nano, media, QUESTION, keep=KeepAll())
    exact, _ = streamed(nano, media, QUESTION, keep=KeepAll(), peak=peak_of(nano, media))
    assert torch.equal(quiet_first.positions, exact.positions)
    loud_first = dataclasses.replace(media, waveform=media.waveform[::-1].copy())  # type: ignore[index]
    running, _ = streamed(nano, loud_first, QUESTION, keep=KeepAll())
    known, _ = streamed(nano, loud_first, QUESTION, keep=KeepAll(), peak=peak_of(nano, loud_first))
    assert torch.allclose(running.embeds, known.embeds, atol=1e-3)


@pytest.mark.parametrize(
    "keep", [KeepAll(), SlidingWindow(4), MemoryBank(4, 20, 4), NestedBudgets([(4, None), (8, 0.1)])]
)
def test_a_question_leaves_no_trace(nano: Pipeline, keep: omnisift.Policy) -> None:
    """A stream that was asked at every moment holds what one that was not asked holds, bit for bit."""
    media = noise(27, 13.5)
    asked, silent = nano.stream(keep=keep), nano.stream(keep=keep)
    answers = []
    for piece in pieces_of(media):
        asked.feed(piece)
        silent.feed(piece)
        if piece.image is not None:
            answers.append(asked.ask(QUESTION, max_new_tokens=2).text)
            asked.ask("Which colour is the circle?", follow_up=True, max_new_tokens=2)
    assert_same_cache(asked, silent)
    assert asked.ask(QUESTION).text == asked.ask(QUESTION).text == silent.ask(QUESTION).text
    assert asked.report.held_tokens == silent.report.held_tokens


def assert_same_cache(first: omnisift.StreamSession, second: omnisift.StreamSession) -> None:
    caches = [stream._state.cache for stream in (first, second)]  # type: ignore[union-attr]
    for one, other in zip(caches[0].tensors(), caches[1].tensors(), strict=True):
        assert torch.equal(one, other)


def test_a_follow_up_sees_the_questions_before_it(nano: Pipeline) -> None:
    """Until the next question that is none, or `forget`. More of the stream may come in between."""
    media = noise(20, 10.0)
    pieces = list(pieces_of(media))
    stream = nano.stream()
    for piece in pieces[: len(pieces) // 2]:
        stream.feed(piece)
    stream.ask(QUESTION, max_new_tokens=2)
    for piece in pieces[len(pieces) // 2 :]:
        stream.feed(piece)
    lengths = []
    lm = omnisift.adapter_for(nano.host.thinker).parts.language_model
    for follow_up in (True, True, None, True, False):
        if follow_up is None:
            stream.forget()
            continue
        seen: list[int] = []
        hook = lm.register_forward_pre_hook(
            lambda _m, _a, given, seen=seen: seen.append(given["inputs_embeds"].shape[1]), with_kwargs=True
        )
        stream.ask(QUESTION, follow_up=follow_up, max_new_tokens=1)
        hook.remove()
        lengths.append(seen[-1])
    assert lengths[1] > lengths[0] > lengths[2] == lengths[3]


@pytest.mark.parametrize(
    "keep",
    [SlidingWindow(8), MemoryBank(6, 24, 6), NestedBudgets([(4, None), (12, 0.1)])],
    ids=lambda p: type(p).__name__,
)
def test_once_the_policy_is_full_nothing_grows(nano: Pipeline, keep: omnisift.Policy) -> None:
    """Tokens, bytes and positions of 80 s are those of 40 s."""
    stream = nano.stream(keep=keep)
    reports = []
    media = noise(40, 20.0)
    for lap in range(4):
        for piece in pieces_of(media):
            stream.feed(dataclasses.replace(piece, time=piece.time + 20 * lap))
        reports.append(stream.report)
    assert reports[1].held_tokens == reports[3].held_tokens
    assert reports[1].cache_bytes == reports[3].cache_bytes
    assert abs(reports[1].next_position - reports[3].next_position) <= 100
    assert reports[3].evicted_units > 10
    assert reports[3].seconds == pytest.approx(80, abs=0.6)
    assert stream.ask(QUESTION).text == stream.ask(QUESTION).text


def test_streams_refuse_what_looks_at_the_whole_clip(nano: Pipeline) -> None:
    for method in ("resift", "v_cast", "vidcom2", "omnisift", "random"):
        with pytest.raises(CompressorError, match="looks at the whole clip"):
            nano.with_compressor(method).stream()
    with pytest.raises(UsageError, match="give retain instead of tokens"):
        nano.with_compressor("auto", tokens=100).stream()
    with pytest.raises(CompressorError, match="gives no scores"):
        feed(nano.with_compressor("uniform").stream(keep=MemoryBank()), noise(8, 4.0))
    with pytest.raises(CompressorError, match="merges tokens"):
        feed(nano.with_compressor("resift:causal=true").stream(keep=NestedBudgets([(9, None)])), noise(8, 4.0))


def test_streams_refuse_models_that_cannot_be_read_in_parts(tmp_path: Path) -> None:
    pipe = omnisift.load(save_family("qwen3_5", tmp_path))
    with pytest.raises(UnsupportedModel, match="LinearAttentionLayer"):
        pipe.stream()


def bad_pieces() -> Iterator[tuple[Any, str]]:
    image, wave = np.zeros((28, 28, 3), np.uint8), np.zeros(100, np.float32)
    yield "x", "feed takes an omnisift.Piece"
    yield Piece(0.0), "an image or samples"
    yield Piece(0.0, image=image.astype(np.float32)), "must be uint8"
    yield Piece(0.0, image=image[0]), "must be uint8"
    yield Piece(0.0, samples=(32000 * wave).astype(np.int16)), "must be floats"
    yield Piece(0.0, samples=np.full(10, np.nan, np.float32)), "NaN"
    yield Piece(0.0, samples=np.stack([wave, wave])), "one channel"
    for time in (-1.0, float("nan"), float("inf"), 1e12, "0", None):
        yield Piece(time, image=image, samples=wave), "the time of a piece"  # type: ignore[arg-type]


@pytest.mark.parametrize(("piece", "message"), list(bad_pieces()))
def test_wrong_pieces_are_refused_and_lose_nothing(nano: Pipeline, piece: Any, message: str) -> None:
    stream = feed(nano.stream(), noise(8, 4.0))
    before = stream.report
    with pytest.raises(UsageError, match=message):
        stream.feed(piece)
    assert stream.report == before


def test_questions_without_a_stream_are_refused(nano: Pipeline) -> None:
    with nano.stream() as stream:
        with pytest.raises(UsageError, match="no image came yet"):
            stream.ask(QUESTION)
        stream.feed(Piece(0.0, samples=np.zeros(8000, np.float32)))
        with pytest.raises(UsageError, match="no image came yet"):
            stream.ask(QUESTION)
        with pytest.raises(UsageError, match="empty"):
            stream.ask("  ")
    for call in (lambda: stream.ask(QUESTION), lambda: stream.feed(Piece(0.0, image=np.zeros((28, 28, 3), np.uint8)))):
        with pytest.raises(UsageError, match="closed"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps"), ({"fps": 31}, "fps"), ({"fps": "2"}, "fps"), ({"keep": "window:60"}, "keep"),
        ({"audio": 1}, "audio"), ({"peak": float("nan")}, "peak"),
        ({"max_pixels": 1}, "max_pixels"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(nano: Pipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        nano.stream(**options)


def test_a_rate_without_a_unit_is_refused_with_the_first_image(nano: Pipeline) -> None:
    with pytest.raises(UsageError, match="use another fps"):
        feed(nano.stream(fps=7.3), noise(8, 4.0))


def test_a_stream_beyond_the_context_is_refused(nano: Pipeline) -> None:
    """Unless its policy holds less."""
    host = dataclasses.replace(nano.host, max_length=200)
    pipe = Pipeline(host, nano.compressor)
    with pytest.raises(omnisift.MediaError, match="let the policy hold less"):
        feed(pipe.stream(keep=KeepAll()), noise(48, 24.0))
    with pytest.raises(UsageError, match="hold fewer seconds"):
        feed(pipe.stream(keep=SlidingWindow(60)), noise(48, 24.0))
    stream = feed(pipe.stream(keep=SlidingWindow(4)), noise(48, 24.0))
    with pytest.raises(omnisift.MediaError, match="lower max_new_tokens"):
        stream.ask(QUESTION, max_new_tokens=200)


def test_an_attached_model_is_refused(nano: Pipeline) -> None:
    with omnisift.attach(nano.host.thinker, "resift"), pytest.raises(ModelError):
        feed(nano.stream(), noise(8, 4.0))


def test_questions_within_a_unit_encode_each_step_once(nano: Pipeline) -> None:
    """What a question saw of an unfinished unit is not encoded for the next one."""
    stream = feed(nano.stream(keep=KeepAll()), noise(7, 3.5))
    with watched(nano) as seen:
        first, second = (stream.ask(QUESTION, max_new_tokens=3) for _ in range(2))
    assert seen["patches"] == [2 * 64, 64]  # the second step has one image so far
    assert first.text == second.text
    assert torch.allclose(seen["logits"][0], seen["logits"][len(seen["logits"]) // 2], rtol=0, atol=1e-4)


def test_an_unfinished_unit_is_seen(nano: Pipeline) -> None:
    """The answer knows the last image: another one there changes what the model reads."""
    media = noise(11, 5.5)
    stream = nano.stream(keep=KeepAll())
    known = []
    for piece in pieces_of(media):
        stream.feed(piece)
        if piece.image is not None:
            known.append(stream.ask(QUESTION, max_new_tokens=1).time)
    assert known == sorted(known)
    assert stream.report.units == 2
    seen, _ = streamed(nano, media, QUESTION, keep=KeepAll())
    changed = dataclasses.replace(media, images=np.concatenate([media.images[:-1], 255 - media.images[-1:]]))  # type: ignore[index]
    other, _ = streamed(nano, changed, QUESTION, keep=KeepAll())
    assert seen.positions.shape == other.positions.shape
    assert not torch.equal(seen.logits[0], other.logits[0])


def test_a_unit_that_fails_leaves_the_session_as_it_was(nano: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it fails, or is interrupted: the unit is missing, and the stream continues."""
    pieces = list(pieces_of(noise(48, 24.0)))
    stream = nano.stream(keep=MemoryBank(4, 20, 4))
    while stream.report.units < 6:
        stream.feed(pieces.pop(0))
    held, tensors = stream.report.held_tokens, [tensor.clone() for tensor in tensors_of(stream)]
    layer = omnisift.adapter_for(nano.host.thinker).parts.language_model.layers[-1]  # type: ignore[union-attr,index]
    hook = layer.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        feed_until_interrupted(stream, pieces)
    hook.remove()
    assert (stream.report.units, stream.report.held_tokens) == (6, held)
    assert all(torch.equal(one, other) for one, other in zip(tensors, tensors_of(stream), strict=True))
    for piece in pieces:
        stream.feed(piece)
    assert stream.report.units == 10
    assert stream.ask(QUESTION).text


def interrupt(*_args: Any) -> None:
    raise KeyboardInterrupt


def feed_until_interrupted(stream: omnisift.StreamSession, pieces: list[Piece]) -> None:
    while pieces:
        stream.feed(pieces.pop(0))


def tensors_of(stream: omnisift.StreamSession) -> list[torch.Tensor]:
    assert stream._state is not None
    return stream._state.cache.tensors()


@pytest.mark.parametrize("family", FACTORS)
def test_the_adapter_says_whether_its_family_streams(family: str, tmp_path: Path) -> None:
    """As `omnisift doctor` lists ``watch`` by it."""
    pipe = omnisift.load(save_family(family, tmp_path))
    if omnisift.adapter_for(pipe.host.thinker).is_streamed:
        pipe.stream().close()
        return
    with pytest.raises(UnsupportedModel, match="cache of all keys and values"):
        pipe.stream()


@pytest.mark.parametrize("family", ["gemma4", "glm46v", "llava_onevision"])
def test_other_families_say_why_they_do_not_stream(family: str, tmp_path: Path) -> None:
    pipe = omnisift.load(save_more(family, tmp_path))
    assert not omnisift.adapter_for(pipe.host.thinker).is_streamed
    with pytest.raises(UnsupportedModel, match="can't read a stream"):
        pipe.stream()
