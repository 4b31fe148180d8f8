"""Streams of Qwen3-VL, whose processor writes the time of each frame in words: the words of a unit go with it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family
from tests.helpers.streams import Seen, feed, offline, pieces_of, streamed
from tests.helpers.windows import clip_of, watched

import omnisift
from omnisift import KeepAll, Media, MemoryBank, NestedBudgets, Pipeline, SlidingWindow, StreamSession
from omnisift.tokens import Modality

QUESTION = "What is seen?"
POLICIES = [KeepAll(), SlidingWindow(8), MemoryBank(6, 24, 6), NestedBudgets([(4, None), (12, 0.1)])]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return omnisift.load(save_family("qwen3_vl", tmp_path_factory.mktemp("qwen3_vl")))


def noise(images: int, fps: float = 2.0) -> Media:
    side, random = FACTORS["qwen3_vl"], np.random.default_rng(1)
    return dataclasses.replace(
        clip_of("qwen3_vl", images, 0.0, fps), images=random.integers(0, 256, (images, 6 * side, 5 * side, 3), np.uint8)
    )


def feed_from(stream: StreamSession, media: Media, begin: float) -> StreamSession:
    """Feed a clip at a later time."""
    for piece in pieces_of(media):
        stream.feed(dataclasses.replace(piece, time=piece.time + begin))
    return stream


def text_of(pipe: Pipeline, seen: Seen) -> str:
    """The words that the language model was given, without spaces and marks."""
    weight = omnisift.adapter_for(pipe.host.thinker).parts.language_model.get_input_embeddings().weight  # type: ignore[operator]
    ids = [found.nonzero()[0, 0] for row in seen.embeds if (found := (weight == row).all(dim=1)).any()]
    text: str = pipe.host.processor.tokenizer.decode(torch.stack(ids), skip_special_tokens=True)
    return text.replace(" ", "")


@pytest.mark.parametrize(("images", "fps"), [(1, 2.0), (3, 2.0), (20, 2.0), (21, 2.0), (48, 2.0), (23, 3.0), (5, 0.5)])
def test_a_stream_is_the_offline_prompt(pipe: Pipeline, images: int, fps: float) -> None:
    """With every word, from times of one digit to two, and where a frame has a single image."""
    media = noise(images, fps)
    seen, stream = streamed(pipe, media, QUESTION, keep=KeepAll(), fps=fps)
    whole = offline(pipe, media, QUESTION, stream)
    assert torch.equal(seen.positions, whole.positions)
    assert text_of(pipe, seen) == text_of(pipe, whole)
    assert text_of(pipe, seen).count("seconds") == -(-images // 2)
    assert torch.allclose(seen.embeds, whole.embeds, rtol=0, atol=1e-4)
    assert torch.allclose(seen.logits, whole.logits, rtol=0, atol=1e-4)
    assert seen.text == whole.text


@pytest.mark.parametrize("keep", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_question_leaves_no_trace(pipe: Pipeline, keep: omnisift.Policy) -> None:
    media = noise(29)
    asked, silent = pipe.stream(keep=keep), feed(pipe.stream(keep=keep), media)
    for number, piece in enumerate(pieces_of(media)):
        asked.feed(piece)
        if number % 5 == 2:
            asked.ask(QUESTION, max_new_tokens=1)
    for one, other in zip(state(asked).cache.tensors(), state(silent).cache.tensors(), strict=True):
        assert torch.equal(one, other)
    assert asked.ask(QUESTION, max_new_tokens=8).text == silent.ask(QUESTION, max_new_tokens=8).text


def state(stream: StreamSession) -> Any:
    return stream._state


def test_a_stream_that_begins_late_says_so(pipe: Pipeline) -> None:
    """A gap has no words and takes no positions."""
    stream = feed_from(pipe.stream(keep=KeepAll()), noise(6), 100.0)
    with watched(pipe) as seen:
        answer = stream.ask(QUESTION, max_new_tokens=1)
    late = text_of(pipe, Seen.of(seen, answer.text, 1))
    assert "102.2seconds" in late  # of the unfinished unit
    early = feed(pipe.stream(keep=KeepAll()), noise(6))
    assert stream.report.gap_seconds == 100
    # Two digits more for each of two frames.
    assert stream.report.next_position - early.report.next_position == 4
    feed_from(stream, noise(8), 200.0)
    assert stream.report.next_position == state(stream).held.time.max() + 1


def test_what_stays_of_a_window_is_a_stream_that_begins_with_it(pipe: Pipeline) -> None:
    """The same tokens and words at the same positions, and keys of the first layer, which depend on nothing else."""
    pipe, media = pipe.with_compressor("uniform"), noise(52)
    window = feed(pipe.stream(keep=SlidingWindow(6)), media)
    assert window.report.evicted_units == 10
    assert not bool(state(window).read.eq(state(window).held.time).all())
    first = int(state(window).held.unit.min())
    rest = dataclasses.replace(media, images=media.images[4 * first :])  # type: ignore[index]
    late = feed_from(pipe.stream(keep=KeepAll()), rest, 2.0 * first)
    for name in ("unit", "offset", "time", "modality"):
        assert torch.equal(getattr(state(window).held, name), getattr(state(late).held, name))
    moved, direct = (state(stream).cache.tensors()[0] for stream in (window, late))
    assert torch.allclose(moved, direct, rtol=0, atol=1e-4)


@pytest.mark.parametrize("keep", POLICIES[1:], ids=lambda policy: type(policy).__name__)
def test_once_the_policy_is_full_nothing_grows(pipe: Pipeline, keep: omnisift.Policy) -> None:
    """While times have as many digits. The memory has no words."""
    stream, reports = pipe.stream(keep=keep), []
    for lap in range(4):
        feed_from(stream, noise(40), 20.0 * lap)
        reports.append(stream.report)
    assert reports[1].held_tokens == reports[3].held_tokens
    assert reports[1].cache_bytes == reports[3].cache_bytes
    assert abs(reports[1].next_position - reports[3].next_position) <= 100
    assert reports[3].evicted_units > 10
    held = state(stream).held
    assert bool((held.time.diff()[held.unit.diff() > 0] >= 0).all())
    words = held.unit[held.modality == Modality.TEXT]
    if isinstance(keep, MemoryBank):
        assert words.min() > held.unit.min()
    else:
        assert set(words.tolist()) == set(held.unit.tolist())
