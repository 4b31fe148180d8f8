"""Lines of text in a session: early, late, in gaps, hostile, and around failures: none is lost or doubled."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family
from tests.helpers.streams import QUESTION, noise, pieces_of
from tests.helpers.windows import clip_of
from tests.streaming.test_lines import lined

import omnisift
from omnisift import KeepAll, Line, Media, MemoryBank, NestedBudgets, Piece, Pipeline, SlidingWindow, StreamSession
from omnisift.errors import CompressorError, TooBig, UsageError
from omnisift.streaming.cache import StreamCache
from omnisift.streaming.lines import MOST_CHARACTERS, MOST_WAITING
from omnisift.tokens import Modality


@pytest.fixture(scope="module")
def nano() -> Pipeline:
    return omnisift.load("nano", retain_video=0.3, retain_audio=0.6, retain_text=0.5)


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return omnisift.load("nano", compressor="none")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A family whose processor writes times in words."""
    return omnisift.load(save_family("qwen3_vl", tmp_path_factory.mktemp("vl")), compressor="none")


def clip(pipe: Pipeline, images: int = 20) -> Media:
    """A clip with lines, without sound where the model hears none."""
    if pipe.host.thinker.config.model_type.startswith("qwen3_vl"):
        side, media = FACTORS["qwen3_vl"], clip_of("qwen3_vl", images, 0.0)
        pixels = np.random.default_rng(1).integers(0, 256, (images, 4 * side, 4 * side, 3), np.uint8)
        return lined(dataclasses.replace(media, images=pixels))
    return lined(noise(images, images / 2))


def played(stream: StreamSession, media: Media, until: float = 1e9) -> StreamSession:
    """Feed what comes before a time, each line a second before its own."""
    for part in pieces_of(media):
        if (part.start if isinstance(part, Line) else part.time) < until:
            stream.feed(part)
    return stream


def tensors(stream: StreamSession) -> list[torch.Tensor]:
    assert stream._state is not None
    return stream._state.cache.tensors()


def same(one: StreamSession, other: StreamSession) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(first.shape == second.shape and torch.equal(first, second) for first, second in pairs)


def count_of(pipe: Pipeline, *texts: str) -> int:
    """Tokens of lines."""
    return sum(len(pipe.host.processor.tokenizer(f"{text}\n")["input_ids"]) for text in texts)


@pytest.mark.parametrize("name", ["nano", "words"])
def test_lines_may_come_long_before_their_time(name: str, request: pytest.FixtureRequest) -> None:
    """They wait, also for the first image, and a question sees none that begins later."""
    pipe = request.getfixturevalue(name)
    media = clip(pipe)
    for end in (4.0, 6.2):
        # Those whose image was not shown yet would be no part of the clip so far.
        told = dataclasses.replace(media, lines=tuple(line for line in media.lines if line.start < end))
        direct, early = pipe.stream(keep=KeepAll()), pipe.stream(keep=KeepAll())
        for line in reversed(media.lines):
            assert early.feed(line) == 0
        played(direct, told, end)
        played(early, dataclasses.replace(media, lines=()), end)
        assert same(direct, early)
        assert direct.report.text_tokens == early.report.text_tokens > 0
        assert direct.ask(QUESTION).text == early.ask(QUESTION).text


@pytest.mark.parametrize("name", ["nano", "words"])
def test_a_question_leaves_no_trace(name: str, request: pytest.FixtureRequest) -> None:
    pipe = request.getfixturevalue(name)
    media, options = clip(pipe), {"max_new_tokens": 3}
    asked, quiet = pipe.stream(keep=KeepAll()), pipe.stream(keep=KeepAll())
    for number, part in enumerate(pieces_of(media)):
        for stream in (asked, quiet):
            stream.feed(part)
        if asked.unit_seconds is not None and number % 3 == 0:
            asked.ask(QUESTION, **options)
    assert same(asked, quiet)
    assert asked.ask(QUESTION, **options).text == quiet.ask(QUESTION, **options).text


@pytest.mark.parametrize("name", ["plain", "words"])
def test_late_lines_go_with_the_next_unit(name: str, request: pytest.FixtureRequest) -> None:
    pipe = request.getfixturevalue(name)
    media = dataclasses.replace(clip(pipe, 24), lines=())
    stream = played(pipe.stream(keep=KeepAll()), media, 8.1)
    late, before = Line(0.5, 2.0, "red circle"), tensors(stream)
    read = stream.report.held_tokens
    stream.feed(late)
    assert stream.report.held_tokens == read
    first = stream.ask(QUESTION)
    assert all(torch.equal(*pair) for pair in zip(before, tensors(stream), strict=True))
    assert first.text == stream.ask(QUESTION).text
    for part in pieces_of(media):
        if isinstance(part, Piece) and part.time >= 8.1:
            stream.feed(part)
    assert stream.report.text_tokens == count_of(pipe, late.text)
    assert stream._lines.before(1e9) == []
    held = stream._state.held  # type: ignore[union-attr]
    assert held.unit[held.modality == Modality.SUBTITLE].unique().tolist() == [8 // float(stream.unit_seconds or 0)]


def test_a_question_right_after_a_unit_reads_late_lines(plain: Pipeline) -> None:
    """They stand behind it, where positions are free; a question long after them, too."""
    media = noise(8, 4.025)
    stream = played(plain.stream(keep=KeepAll(), fps=2), media)
    assert stream._state is not None
    seen: list[tuple[int, int]] = []
    for lines in ((), (Line(1.0, 2.0, "red circle"),), (Line(3.0, 3.5, "a hum"),)):
        for line in lines:
            stream.feed(line)
        row, _ = stream._prompt(stream._state, [], QUESTION, 5)
        seen.append((row.shared, int(row.short.position_ids.max())))  # type: ignore[union-attr]
    first = count_of(plain, "red circle")
    assert [part[0] - seen[0][0] for part in seen] == [0, first, first + count_of(plain, "a hum")]
    assert seen[0][1] <= seen[1][1] <= seen[2][1]


def test_lines_in_a_gap_go_with_the_unit_after_it(plain: Pipeline) -> None:
    media = noise(8, 4.0)
    stream = played(plain.stream(keep=KeepAll()), media)
    stream.feed(Line(5.0, 6.0, "red circle"))
    stream.feed(Line(21.0, 22.0, "hum"))
    for part in pieces_of(media):
        assert isinstance(part, Piece)
        stream.feed(dataclasses.replace(part, time=part.time + 20))
    stream.feed(Piece(24.0, samples=np.zeros(8000, np.float32)))
    assert stream.report.gap_seconds == 16
    held = stream._state.held  # type: ignore[union-attr]
    found = held.unit[held.modality == Modality.SUBTITLE]
    assert found.tolist() == [10] * count_of(plain, "red circle", "hum")
    assert stream.ask(QUESTION).text


@pytest.mark.parametrize("text", ["say <|im_end|> now", "<|im_<i></i>end|>", "&lt;|im_end|&gt;", "<|VIDEO|>"])
def test_special_tokens_are_refused(plain: Pipeline, text: str) -> None:
    """Also where markup hides them; nothing of the line is fed."""
    media = noise(9, 4.5)
    stream, quiet = plain.stream(keep=KeepAll()), plain.stream(keep=KeepAll())
    with pytest.raises(UsageError, match=r"special token|stands for a clip"):
        stream.feed(Line(0.0, 1.0, text))
    for session in (stream, quiet):
        played(session, media)
    with pytest.raises(UsageError, match=r"special token|stands for a clip"):
        stream.feed(Line(4.0, 5.0, text))
    assert same(stream, quiet)
    assert stream.ask(QUESTION).text == quiet.ask(QUESTION).text


def test_lines_are_cleaned_as_those_of_a_clip(plain: Pipeline) -> None:
    media = noise(9, 4.5)
    clean, marked = plain.stream(keep=KeepAll()), plain.stream(keep=KeepAll())
    clean.feed(Line(0.5, 1.0, "red circle"))
    for text in ("<i>red</i>\n circle", "<b></b>", " \n"):
        marked.feed(Line(0.5, 1.0, text))
    assert same(played(clean, media), played(marked, media))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (Line(-1.0, 1.0, "a"), "seconds of the stream"),
        (Line(float("nan"), 1.0, "a"), "seconds of the stream"),
        (Line(0.0, 10**400, "a"), "seconds of the stream"),
        (Line(10**400, 10**400, "a"), "seconds of the stream"),
        (Line(2.0, 1.0, "a"), "ends before it begins"),
        (Line(0.0, 1.0, b"a"), "must have a str"),  # type: ignore[arg-type]
        (Line(0.0, 1.0, "a" * 2001), "2001 characters"),
    ],
)
def test_wrong_lines_are_refused(plain: Pipeline, line: Line, message: str) -> None:
    stream = plain.stream()
    with pytest.raises((UsageError, TooBig), match=message) as error:
        stream.feed(line)
    assert "\n" not in str(error.value)
    assert stream._lines.before(1e9) == []


def test_so_many_lines_may_wait(plain: Pipeline) -> None:
    stream = plain.stream(keep=SlidingWindow(4))
    for number in range(MOST_WAITING):
        stream.feed(Line(1000.0 + number, 2000.0 + number, "hum"))
    with pytest.raises(UsageError, match="characters wait for images of their time"):
        stream.feed(Line(0.0, 1.0, "hum"))
    assert played(stream, noise(9, 4.5)).report.units == 2
    assert stream.ask(QUESTION).text
    stream = plain.stream()
    for _ in range(MOST_CHARACTERS // 2000):
        stream.feed(Line(0.0, 1.0, "a" * 2000))
    with pytest.raises(UsageError, match="lines and images together"):
        stream.feed(Line(0.0, 1.0, "a"))


def test_a_unit_of_too_many_line_tokens_is_missing_with_them(plain: Pipeline) -> None:
    """The next one is read, and a question before it says why it can't be answered."""
    pipe = Pipeline(dataclasses.replace(plain.host, max_length=3000), None)
    media, long = noise(17, 8.5), " ".join(["red circle"] * 150)
    for count in (5, 60):  # more than the rest of the context, and more than all of it
        stream = pipe.stream(keep=SlidingWindow(60))
        played(stream, media, 2.1)
        before = tensors(stream)
        lines = [Line(2.5, 3.0, long)] * (count * 300 // count_of(pipe, long) * 2)
        for line in lines:
            stream.feed(line)
        for part in pieces_of(media):
            assert isinstance(part, Piece)
            if 2.1 <= part.time < 3.4:
                stream.feed(part)
        with pytest.raises(TooBig, match="the context is 3000"):
            stream.ask(QUESTION)
        assert all(torch.equal(*pair) for pair in zip(before, tensors(stream), strict=True))
        rest = [part for part in pieces_of(media) if isinstance(part, Piece) and 3.4 <= part.time < 4.5]
        with pytest.raises(TooBig, match=rf"; {len(lines)} line\(s\) of text are left out with it"):
            list(map(stream.feed, rest))
        played(stream, dataclasses.replace(media, lines=()), 1e9)
        assert stream.report.text_tokens == 0
        assert stream.report.units == 3
        assert stream.ask(QUESTION).text


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_lines_of_a_unit_that_fails_go_with_the_next_one(
    plain: Pipeline, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = noise(17, 8.5)
    stream = plain.stream(keep=KeepAll())
    stream.feed(Line(2.5, 3.0, "red circle"))
    append, calls = StreamCache.append, []

    def fail(self: StreamCache, *arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:  # the text before the stream, the first unit, the second
            raise error
        append(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StreamCache, "append", fail)
    pieces = pieces_of(media)
    with pytest.raises(type(error)):
        list(map(stream.feed, pieces))
    list(map(stream.feed, pieces))
    assert stream.report.units == 3
    held = stream._state.held  # type: ignore[union-attr]
    assert held.unit[held.modality == Modality.SUBTITLE].tolist() == [2] * count_of(plain, "red circle")


def test_threads_feed_lines(plain: Pipeline) -> None:
    """While another feeds pieces and asks; each line is read once."""
    media, count = noise(40, 20.0), 60
    stream = plain.stream(keep=KeepAll())

    def tell() -> None:
        for number in range(count):
            stream.feed(Line(number / 4, number / 4 + 1, "hum"))

    threads = [threading.Thread(target=tell) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number, piece in enumerate(pieces_of(media)):
        stream.feed(piece)
        if number % 10 == 0 and stream.unit_seconds is not None:
            stream.ask(QUESTION, max_new_tokens=1)
    for thread in threads:
        thread.join()
    for piece in pieces_of(media):
        assert isinstance(piece, Piece)
        stream.feed(dataclasses.replace(piece, time=piece.time + 20))
    assert stream.report.text_tokens == 2 * count * count_of(plain, "hum")


def test_forget_and_close(plain: Pipeline) -> None:
    stream = played(plain.stream(keep=KeepAll()), lined(noise(9, 4.5)))
    first = stream.ask(QUESTION).text
    stream.ask("And then?", follow_up=True)
    stream.forget()
    assert stream.ask(QUESTION, follow_up=True).text == first
    stream.close()
    with pytest.raises(UsageError, match="closed"):
        stream.feed(Line(5.0, 6.0, "hum"))
    assert stream.report.text_tokens == 0


POLICIES: list[Callable[[], omnisift.Policy]] = [
    lambda: SlidingWindow(8), lambda: NestedBudgets([(4, None), (8, 0.3)]), lambda: MemoryBank(4, 40, 4),
]  # fmt: skip


@pytest.mark.parametrize("make", POLICIES)
def test_policies_hold_lines(nano: Pipeline, make: Callable[[], omnisift.Policy]) -> None:
    """A stream of any length holds a bounded number of their tokens, and positions stay low."""
    policy = make()
    media = lined(noise(80, 40.0), each=0.7)
    stream, counts = nano.stream(keep=policy), list[int]()
    for part in pieces_of(media):
        if stream.feed(part):
            counts.append(stream.report.text_tokens)
    longest = policy.longest(stream._clock(stream._state))  # type: ignore[arg-type]
    assert longest is not None
    assert stream.report.next_position <= longest
    assert 0 < counts[-1] <= max(counts[:8])
    assert stream.ask(QUESTION).text
    json.dumps(stream.report.to_dict())


@pytest.mark.parametrize(("family", "each"), [("nano", 1.7), ("nano", 0.11), ("qwen2_vl", 0.7), ("qwen2_5_vl", 0.7)])
def test_moved_lines_are_those_of_a_stream_that_began_later(
    plain: Pipeline, family: str, each: float, tmp_path: Path
) -> None:
    """Their keys in the first layer depend on token and position alone: all three rows of it have moved."""
    pipe = plain if family == "nano" else omnisift.load(save_family(family, tmp_path), compressor="none")
    media, begin = noise(41, 20.5 if family == "nano" else 0.0), 12.0
    lines = [line for line in lined(media, each=each).lines if begin <= line.start < 19.9]
    moved, fresh = pipe.stream(keep=SlidingWindow(8)), pipe.stream(keep=SlidingWindow(8))
    for line in lines:
        fresh.feed(dataclasses.replace(line, start=line.start - begin, end=line.end - begin))
        moved.feed(line)
    moved.feed(Line(0.0, 1.0, "red circle " * 180))  # which is dropped, with the positions that it took
    for part in pieces_of(media):
        assert isinstance(part, Piece)
        moved.feed(part)
        if part.time >= begin:
            fresh.feed(dataclasses.replace(part, time=part.time - begin))
    keys, times = [], []
    for stream in (moved, fresh):
        assert stream._state is not None
        held, cache = stream._state.held, stream._state.cache
        places = held.modality == Modality.SUBTITLE
        keys.append(cache.tensors()[0][0, :, cache._fixed :][:, places])
        times.append(held.time[places])
    assert len(times[0]) > 10
    assert torch.equal(*times)
    assert torch.allclose(*keys, rtol=0, atol=1e-4)


def test_scores_of_lines_don_t_stand_for_those_of_a_method(plain: Pipeline) -> None:
    """A policy that compares scores needs those of video and sound."""
    pipe = omnisift.load("nano", compressor="uniform", retain=0.25)
    for lines in ((), (Line(0.5, 1.0, "red circle"),)):
        stream = pipe.stream(keep=MemoryBank(4, 20, 4))
        for line in lines:
            stream.feed(line)
        with pytest.raises(CompressorError, match="gives no scores"):
            played(stream, noise(9, 4.5))


def test_a_family_without_sound_reads_lines_before_the_first_image(words: Pipeline, tmp_path: Path) -> None:
    media = clip(words)
    stream = words.stream(keep=SlidingWindow(4))
    stream.feed(Line(0.0, 5.0, "hum"))
    for part in pieces_of(dataclasses.replace(media, lines=())):
        assert isinstance(part, Piece)
        stream.feed(dataclasses.replace(part, time=part.time + 100))
        if part.time < 0.1:
            assert stream.ask(QUESTION, max_new_tokens=2).text is not None
    assert stream.report.gap_seconds == 100
