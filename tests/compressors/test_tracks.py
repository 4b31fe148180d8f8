"""Tokens of further modalities: no method sees them, and tracks choose among them."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import ClassVar, cast

import pytest
import torch
from tests.helpers.contract import METHODS, MORE, Watch, made, out_of_reach
from tests.helpers.prompts import in_one_batch, random_prompt, steady_prompt, with_attention, with_subtitles
from torch import Tensor

from omnisift import Selection, SubtitleTrack, Track
from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes, index_stream, segment_of
from omnisift.compressors import Compressor, OmniSiftCompressor, make_compressor
from omnisift.compressors.registry import reads_clip_only
from omnisift.compressors.tracks import closeness, novelty
from omnisift.errors import CompressorError
from omnisift.estimators import ESTIMATORS
from omnisift.models import Compression
from omnisift.models.prefix_cache import PrefixCache
from omnisift.pipeline.held_prompt import HeldPrompt, _options
from omnisift.pipeline.holding import _Repeat
from omnisift.tokens import Modality, TokenStream

ALL = list(dict.fromkeys([*METHODS, *MORE]))
SUBTITLE, OTHER = int(Modality.SUBTITLE), 4
BUDGETS = (
    Budget(retain=0.5),
    Budget(retain_video=0.6, retain_audio=0.7, retain_text=0.4),
    Budget(tokens=61, retain_text=0.5),
)
PLAIN = [
    with_attention(steady_prompt(9, 9, 220, seed=1).stream()),
    with_attention(steady_prompt(7, 4, 0, seed=2).stream()),
    with_attention(in_one_batch([random_prompt(seed, samples=1) for seed in range(40, 44)]).stream()),
]
STREAMS = [with_subtitles(stream, seed) for seed, stream in enumerate(PLAIN, start=3)]


def lines_of(stream: TokenStream) -> Tensor:
    """[L] bool: the subtitle tokens."""
    return stream.modality == SUBTITLE


def kept_lines(stream: TokenStream, keep: Tensor) -> list[int]:
    """Kept subtitle tokens of each chunk."""
    return torch.bincount(stream.chunk[lines_of(stream) & keep], minlength=len(ChunkShapes.of(stream))).tolist()


def as_words(stream: TokenStream) -> TokenStream:
    """The stream with text outside clips instead of subtitles."""
    lines = lines_of(stream)
    fields = {name: getattr(stream, name).masked_fill(lines, -1) for name in ("chunk", "frame", "clip")}
    return dataclasses.replace(stream, modality=stream.modality.masked_fill(lines, 0), **fields)


def rows_of(selection: Selection, rest: Tensor) -> Selection:
    """What a selection says about the tokens ``rest`` [L] bool."""
    scores = None if selection.scores is None else selection.scores[rest]
    embeds = None if selection.embeds is None else selection.embeds[rest[selection.keep]]
    return Selection(selection.keep[rest], scores, embeds=embeds)


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (
        one is not None and other is not None and torch.equal(one.nan_to_num(9), other.nan_to_num(9))
    )


@dataclass(frozen=True)
class Every(Track):
    """Keeps every ``step``-th token."""

    step: int = 2

    name: ClassVar[str] = "every"
    modality: ClassVar[int] = OTHER

    def select(self, stream: TokenStream, index: Tensor, kept: Selection, counts: Counts) -> Selection:
        return Selection(torch.arange(len(index)) % self.step == 0, torch.arange(len(index)).float())


def with_tracks(method: Compressor, *tracks: Track) -> Compressor:
    method.tracks = tracks
    return method


def with_others(stream: TokenStream) -> TokenStream:
    """Every other subtitle token is of another modality."""
    odd = torch.nonzero(lines_of(stream))[::2, 0]
    return dataclasses.replace(stream, modality=stream.modality.index_fill(0, odd, OTHER))


def test_the_prompts_are_as_they_should_be() -> None:
    for plain, stream in zip(PLAIN, STREAMS, strict=True):
        rest = ~lines_of(stream)
        assert rest.any()
        assert not rest.all()
        for name in ("modality", "chunk", "frame", "clip", "sample", "time"):
            assert torch.equal(getattr(stream, name)[rest], getattr(plain, name))
        assert int((ChunkShapes.of(stream).text > 0).sum()) >= 3
        assert not ChunkShapes.of(plain).text.any()
        assert (segment_of(stream)[lines_of(stream)] == -1).all()


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.words)
@pytest.mark.parametrize("name", ALL)
def test_no_method_sees_subtitles_and_they_meet_their_counts(name: str, budget: Budget) -> None:
    for plain, stream in zip(PLAIN, STREAMS, strict=True):
        if out_of_reach(name, stream, budget):
            continue
        method, counts = made(name, budget), budget.counts(ChunkShapes.of(stream))
        rest = ~lines_of(stream)
        with torch.no_grad():
            result = method(stream)
            if "random" in name:  # its draws depend on the number of all tokens
                without = rows_of(made(name, budget).select(as_words(stream), counts), rest)
            else:
                without = made(name, budget).select(plain, counts)
        assert torch.equal(result.keep[rest], without.keep)
        assert result.scores is not None
        assert without.scores is None or same(result.scores[rest].float(), without.scores.float())
        assert result.scores[~rest].isfinite().all()
        assert kept_lines(stream, result.keep) == counts.text.tolist()
        if without.embeds is not None:
            merged = torch.empty_like(stream.embeds[result.keep])
            merged[rest[result.keep]] = without.embeds
            merged[~rest[result.keep]] = stream.embeds[result.keep & ~rest]
            assert torch.equal(result.embeds, merged)
        else:
            assert result.embeds is None


@pytest.mark.parametrize("name", ["resift", "omnisift", "tome", "uniform"])
def test_a_batch_is_its_rows_alone(name: str) -> None:
    rows = [steady_prompt(9, 4, 230, seed=4), steady_prompt(5, 9, 120, seed=1), steady_prompt(3, 7, 0, seed=2)]
    alone = [with_subtitles(row.stream(), seed) for seed, row in enumerate(rows)]
    batch = index_stream(
        torch.cat([s.embeds for s in alone]),
        torch.cat([s.modality for s in alone]),
        torch.cat([torch.where(s.clip >= 0, s.clip + row, -1) for row, s in enumerate(alone)]),
        torch.cat([s.position for s in alone], dim=1),
        torch.cat([s.sample + row for row, s in enumerate(alone)]),
    )
    for budget in BUDGETS:
        with torch.no_grad():
            parts = [made(name, budget)(stream) for stream in alone]
            together = made(name, budget)(batch)
        assert torch.equal(together.keep, torch.cat([part.keep for part in parts]))
        lines = lines_of(batch)
        assert same(together.scores[lines], torch.cat([part.scores for part in parts])[lines])


def test_a_stream_without_further_modalities_goes_to_the_method_as_it_is() -> None:
    seen = []

    class Recorder(type(made("uniform", 0.5))):  # type: ignore[misc]
        def select(self, stream: TokenStream, counts: Counts) -> Selection:
            seen.append(stream)
            return super().select(stream, counts)

    method = Recorder(0.5)
    method(PLAIN[0])
    method(STREAMS[0])
    assert seen[0] is PLAIN[0]
    lines = lines_of(STREAMS[0])
    for name, value in {"modality": 0, "chunk": -1, "frame": -1, "clip": -1, "time": 0}.items():
        assert (getattr(seen[1], name)[lines] == value).all()
    assert not seen[1].position[:, lines].any()


def test_audio_alone_has_subtitles_too() -> None:
    budget = Budget(tokens=30, compress_audio=True, retain_text=0.5)
    tokens = torch.tensor([0, *[2] * 120, *[3] * 8, 0], dtype=torch.int8)
    position = torch.zeros(3, len(tokens), dtype=torch.int64)
    position[0, 1:121], position[0, 121:129] = torch.arange(120) * 40_000, torch.arange(8) * 600_000
    clip = torch.where(tokens > 0, 0, -1)
    embeds = torch.randn(len(tokens), 16, generator=torch.Generator().manual_seed(0))
    stream = index_stream(embeds, tokens, clip, position, torch.zeros(len(tokens), dtype=torch.int64))
    assert ChunkShapes.of(stream).text.tolist() == [4, 3, 1]
    result = make_compressor("uniform", budget)(stream)
    assert int(result.keep.sum()) == 30 + 2
    assert sum(kept_lines(stream, result.keep)) == 4


def line_stream(words: list[int], chunks: list[int] | None = None) -> TokenStream:
    """Subtitle tokens, each of a unit vector, behind the chunks of a clip of one image token per frame.

    The video tokens of chunk ``c`` are the unit vector ``20 + c``.
    """
    chunks = [0] * len(words) if chunks is None else chunks
    video = [(1, 2 * c + f, 20 + c) for c in range(max(chunks) + 1) for f in (0, 1)]
    tokens = [*video, *((3, 2 * c, word) for word, c in zip(words, chunks, strict=True))]
    tokens.sort(key=lambda token: (token[1] // 2, token[0]))
    kind, second, word = (torch.tensor(column) for column in zip(*tokens, strict=True))
    position = torch.zeros(3, len(kind), dtype=torch.int64)
    position[0] = second * 1_000_000
    return index_stream(
        torch.eye(40)[word], kind.to(torch.int8), torch.zeros_like(kind), position, torch.zeros_like(kind)
    )


def kept_words(stream: TokenStream, text: float, window: int = 256) -> list[int]:
    method = with_tracks(
        make_compressor("uniform", Budget(retain_video=1, retain_audio=1, retain_text=text)), SubtitleTrack(window)
    )
    return stream.embeds[lines_of(stream) & method(stream).keep].argmax(dim=1).tolist()


def test_a_repeated_line_goes_first() -> None:
    assert kept_words(line_stream([1, 2, 3, 1, 2, 3, 4, 5]), 5 / 8) == [1, 2, 3, 4, 5]
    # Also where it was said in an earlier chunk, within the window.
    stream = line_stream([1, 2, 3, 4, 5, 6, 3, 7], [0, 0, 0, 0, 2, 2, 2, 2])
    assert kept_words(stream, 3 / 4) == [1, 2, 3, 5, 6, 7]
    assert kept_words(stream, 3 / 4, window=3) == [1, 2, 3, 5, 6, 3]


def test_a_word_that_is_close_to_what_was_kept_stays() -> None:
    """Chunk 0 shows 20, chunk 1 shows 21."""
    assert kept_words(line_stream([1, 2, 20, 21, 1, 20], [0, 0, 0, 1, 1, 1]), 1 / 3) == [20, 21]
    # What was dropped does not count.
    stream = line_stream([1, 20])
    keep = (stream.modality != 1) | (torch.arange(len(stream)) > 1)
    counts = Counts(*torch.tensor([[0], [0], [0], [1]]))
    chosen = SubtitleTrack().select(stream, torch.nonzero(lines_of(stream))[:, 0], Selection(keep), counts)
    assert chosen.keep.tolist() == [True, False]


def test_of_equal_tokens_the_first_stays() -> None:
    assert kept_words(line_stream([1, 2, 3, 4]), 0.5) == [1, 2]


def test_novelty_is_that_of_a_loop() -> None:
    stream, window = STREAMS[2], 5
    index = torch.nonzero(lines_of(stream))[:, 0]
    index = index[torch.argsort(stream.chunk[index], stable=True)]  # the order of time
    unit = torch.nn.functional.normalize(stream.embeds[index], dim=-1)
    wanted = []
    for i in range(len(index)):
        before = [j for j in range(i) if i - j <= window and stream.clip[index[j]] == stream.clip[index[i]]]
        wanted.append(1 - max([0.0, *(float(unit[i] @ unit[j]) for j in before)]))
    assert min(wanted) < 0.01 < 0.99 < max(wanted)
    torch.testing.assert_close(novelty(stream, index, window, {}), torch.tensor(wanted), atol=1e-5, rtol=0)


def test_closeness_is_the_mean_of_a_loop() -> None:
    stream = STREAMS[2]
    index = torch.nonzero(lines_of(stream))[:, 0]
    keep = torch.rand(len(stream), generator=torch.Generator().manual_seed(0)) < 0.4
    unit = torch.nn.functional.normalize(stream.embeds, dim=-1)
    wanted, empty = [], 0
    for i in index.tolist():
        media = keep & (stream.chunk == stream.chunk[i]) & ~lines_of(stream)
        wanted.append(float((unit[media] @ unit[i]).mean()) if media.any() else 0.0)
        empty += not bool(media.any())
    assert 0 < empty < len(index) - 10
    torch.testing.assert_close(closeness(stream, index, keep), torch.tensor(wanted), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spread", [True, False], ids=["over chunks", "in one chunk"])
def test_50_000_tokens_take_memory_and_time_of_the_window(spread: bool) -> None:
    count, width = 50_000, 8
    video = steady_prompt(40, 4, 0, width=width).stream()
    begins = torch.arange(count) * 40_000_000 // count if spread else torch.zeros(count, dtype=torch.int64)
    position = torch.zeros(3, len(video) + count, dtype=torch.int64)
    position[:, : len(video)], position[0, len(video) :] = video.position, begins
    embeds = torch.cat([video.embeds, torch.randn(count, width, generator=torch.Generator().manual_seed(0))])
    modality = torch.cat([video.modality, torch.full((count,), SUBTITLE, dtype=torch.int8)])
    clip = torch.cat([video.clip, torch.zeros(count, dtype=torch.int64)])
    stream = index_stream(embeds, modality, clip, position, torch.zeros(len(modality), dtype=torch.int64))
    assert int(ChunkShapes.of(stream).text.sum()) == count
    with Watch() as watch:
        result = make_compressor("uniform", Budget(tokens=3000))(stream)
    assert int(result.keep[len(video) :].sum()) == 3000 - 160
    assert watch.largest <= (count + len(video)) * width
    assert watch.steps < 12_000


def test_values_that_are_no_numbers_meet_their_counts() -> None:
    embeds = STREAMS[0].embeds.clone()
    embeds[::3] = torch.nan
    stream = dataclasses.replace(STREAMS[0], embeds=embeds)
    result = make_compressor("uniform", BUDGETS[1])(stream)
    assert kept_lines(stream, result.keep) == BUDGETS[1].counts(ChunkShapes.of(stream)).text.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_work(dtype: torch.dtype) -> None:
    stream = dataclasses.replace(STREAMS[0], embeds=STREAMS[0].embeds.to(dtype))
    for name in ("uniform", "tome"):
        result = make_compressor(name, BUDGETS[1])(stream)
        assert kept_lines(stream, result.keep) == BUDGETS[1].counts(ChunkShapes.of(stream)).text.tolist()
        assert result.embeds is None or result.embeds.dtype is dtype


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_training_has_the_gradients_that_it_has_without_subtitles(estimator: str) -> None:
    budget = BUDGETS[1]

    def trained(stream: TokenStream, counts: Counts | None) -> tuple[Selection, TokenStream]:
        torch.manual_seed(3)
        method = copy.deepcopy(made("omnisift", budget))
        assert isinstance(method, OmniSiftCompressor)
        method = OmniSiftCompressor(budget, method.selector, estimator=estimator).train()
        stream = dataclasses.replace(stream, embeds=stream.embeds.clone().requires_grad_())
        return method(stream) if counts is None else method.select(stream, counts), stream

    plain, stream = PLAIN[0], STREAMS[0]
    rest = ~lines_of(stream)
    (result, shown), (without, _) = trained(stream, None), trained(plain, budget.counts(ChunkShapes.of(stream)))
    for name in ("keep", "scores", "gate", "bias"):
        one, other = getattr(result, name), getattr(without, name)
        assert (one is None) == (other is None)
        assert one is None or same(one[rest].float(), other.float())
    assert same(result.log_prob, without.log_prob)
    assert result.gate is None or (result.gate[~rest] == 1).all()
    assert result.bias is None or (result.bias[~rest] == 0).all()
    if result.embeds is not None:
        assert torch.equal(result.embeds[rest[result.keep]], without.embeds)
        assert torch.equal(result.embeds[~rest[result.keep]], stream.embeds[~rest & result.keep])
    # The track itself has no gradient.
    values = [value for value in (result.scores, result.gate, result.bias, result.log_prob) if value is not None]
    sum(value.nan_to_num().sum() for value in values if value.requires_grad).backward()
    assert shown.embeds.grad is None or not shown.embeds.grad[~rest].any()


def test_autocast_changes_no_choice() -> None:
    for name in ("omnisift", "uniform"):
        method = made(name, BUDGETS[1])
        usual = method(STREAMS[0]).scores[lines_of(STREAMS[0])]
        with torch.autocast("cpu", torch.bfloat16):
            again = method(STREAMS[0])
        # The selector computes in another dtype, and may keep other audio, to which closeness refers.
        if name == "uniform":
            assert torch.equal(again.scores[lines_of(STREAMS[0])], usual)
        assert kept_lines(STREAMS[0], again.keep) == BUDGETS[1].counts(ChunkShapes.of(STREAMS[0])).text.tolist()


def test_an_own_track_chooses_among_its_own_tokens() -> None:
    stream = with_others(STREAMS[0])
    for name in ("uniform", "resift"):
        method = with_tracks(made(name, BUDGETS[1]), SubtitleTrack(), Every())
        result = method(stream)
        others = stream.modality == OTHER
        assert result.keep[others].tolist() == [place % 2 == 0 for place in range(int(others.sum()))]
        assert result.scores[others].tolist() == list(range(int(others.sum())))
        assert kept_lines(stream, result.keep) == BUDGETS[1].counts(ChunkShapes.of(stream)).text.tolist()
        assert result.embeds is None or len(result.embeds) == int(result.keep.sum())


def test_a_track_sees_what_was_kept_and_the_stream_as_it_is() -> None:
    seen = []

    class Watching(Every):
        def select(self, stream: TokenStream, index: Tensor, kept: Selection, counts: Counts) -> Selection:
            seen.append((stream, index, kept, counts))
            return super().select(stream, index, kept, counts)

    stream = with_others(STREAMS[0])
    method = with_tracks(made("uniform", BUDGETS[1]), SubtitleTrack(), Watching())
    result = method(stream)
    ((shown, index, kept, counts),) = seen
    assert shown is stream
    assert torch.equal(index, torch.nonzero(stream.modality == OTHER)[:, 0])
    others = stream.modality == OTHER
    assert kept.keep[others].all()
    assert torch.equal(kept.keep[~others], result.keep[~others])
    assert torch.equal(counts.text, BUDGETS[1].counts(ChunkShapes.of(stream)).text)


def test_a_modality_without_a_track_is_refused() -> None:
    with pytest.raises(CompressorError, match=r"modality 4 .*'uniform' has no track .*compressor\.tracks = ") as caught:
        made("uniform", 0.5)(with_others(STREAMS[0]))
    assert "\n" not in str(caught.value)
    with pytest.raises(CompressorError, match="modality 3 "):
        with_tracks(made("uniform", 0.5))(STREAMS[0])
    # Outside chunks nothing is chosen.
    outside = dataclasses.replace(
        PLAIN[0], modality=torch.where(PLAIN[0].chunk < 0, 9, PLAIN[0].modality).to(torch.int8)
    )
    assert made("uniform", 0.5)(outside).keep[outside.chunk < 0].all()


def test_wrong_tracks_are_refused() -> None:
    class Low(Every):
        modality: ClassVar[int] = 2

    class High(Every):
        modality: ClassVar[int] = 128

    class Again(Every):
        name: ClassVar[str] = "again"

    every = Every()
    for tracks, message in (
        ((Low(),), "of modality 2: further modalities are numbers from 3 to 127"),
        ((High(),), "of modality 128"),
        ((Every(), Again()), "'every' and 'again' are both of modality 4"),
        ((Every(), Every()), "'every' and 'every' are both"),
        ((every, every), "'every' and 'every' are both"),
        ((Every,), "derive its class from omnisift.Track"),
    ):
        method = made("uniform", 0.5)
        with pytest.raises(CompressorError, match=message):
            method.tracks = tracks
        assert method.tracks == (SubtitleTrack(),)


@pytest.mark.parametrize(
    "result",
    [None, Selection(torch.ones(3, dtype=torch.bool)), Selection(torch.ones(10_000))],
    ids=["none", "few", "float"],
)
def test_a_track_that_returns_something_else_is_refused(result: Selection | None) -> None:
    class Wrong(Every):
        def select(self, stream: TokenStream, index: Tensor, kept: Selection, counts: Counts) -> Selection:
            return result  # type: ignore[return-value]

    method = with_tracks(made("uniform", 0.5), SubtitleTrack(), Wrong())
    with pytest.raises(CompressorError, match=r"track 'every' must return a Selection of bool \[\d+\], got "):
        method(with_others(STREAMS[0]))


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "8"])
def test_the_window_is_a_whole_number(window: object) -> None:
    with pytest.raises(CompressorError, match="window of track 'subtitles' is an integer from 1, got "):
        SubtitleTrack(window)  # type: ignore[arg-type]


def test_a_track_shows_its_options() -> None:
    class Plain(Track):
        name: ClassVar[str] = "plain"
        modality: ClassVar[int] = 5

        def __init__(self, share: float) -> None:
            self.share = share

        def select(self, stream: TokenStream, index: Tensor, kept: Selection, counts: Counts) -> Selection:
            return Selection(torch.ones(len(index), dtype=torch.bool))

    assert repr(SubtitleTrack()) == "SubtitleTrack(window=256)"
    assert repr(Every(3)).endswith("Every(step=3)")
    assert repr(Plain(0.5)) == "Plain(share=0.5)" != repr(Plain(0.25))


def test_a_held_prompt_needs_tracks_that_read_the_clip_alone() -> None:
    assert reads_clip_only(made("uniform+random", 0.5))
    assert not reads_clip_only(with_tracks(made("uniform", 0.5), SubtitleTrack(), Every()))


def test_a_copy_has_the_tracks() -> None:
    method = with_tracks(made("uniform", 0.5), Every(3))
    assert copy.deepcopy(method).tracks == (Every(3),)


def test_a_held_decision_is_repeated_without_tracks() -> None:
    """Also where the method that repeats has no track of the modality."""
    stream = with_others(STREAMS[0])
    first = with_tracks(made("uniform", BUDGETS[1]), SubtitleTrack(), Every())
    result = first(stream)
    beginning = len(stream) - 5
    held = HeldPrompt(cast(PrefixCache, None), result.keep[:beginning], result.scores[:beginning])
    again = _Repeat(made("uniform", BUDGETS[1]), [held], [len(stream)])(stream)
    assert torch.equal(again.keep[:beginning], result.keep[:beginning])
    assert again.keep[beginning:].all()
    assert same(again.scores[:beginning], result.scores[:beginning])


def test_settings_of_tracks_are_settings_of_a_held_prompt() -> None:
    def options(*tracks: Track) -> object:
        return _options(with_tracks(made("uniform", 0.5), *tracks))

    assert options(SubtitleTrack()) == options(SubtitleTrack(256)) != options(SubtitleTrack(8))
    assert options(SubtitleTrack()) != options(SubtitleTrack(), Every())
    assert _options(made("uniform", Budget(0.5))) != _options(made("uniform", Budget(0.5, retain_text=0.5)))


def test_what_was_kept_of_a_prompt_has_the_text() -> None:
    modality = torch.tensor([[0, 1, 1, 2, 3, 3, 3, 4], [1, 1, 2, 2, 3, 0, 0, 0]], dtype=torch.int8)
    keep = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 0], [0, 1, 1, 0, 1, 1, 1, 1]], dtype=torch.bool)
    compression = Compression(modality, keep)
    assert (compression.n_text_rows, compression.kept_text_rows) == ([3, 1], [2, 1])
    assert (compression.n_text, compression.kept_text) == (4, 3)
    assert compression.retained_ratio == 6 / 11
    assert repr(compression) == (
        "Compression(kept 2 of 4 video tokens, 1 of 3 audio tokens, 3 of 4 text tokens; 54.5%)"
    )
    html = compression._repr_html_()
    assert "<tr><td>text</td><td>4</td><td>3</td><td>75.0%</td></tr>" in html
    assert "<tr><td>all</td><td>11</td><td>6</td><td>54.5%</td></tr>" in html
    assert "both" not in html
