"""Clips in parts: every method is held to its `reach`, by the decision on the complete clip."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from tests.helpers.contract import METHODS, MORE, made
from tests.helpers.prompts import Prompt, audio_prompt, steady_prompt, with_attention, with_subtitles
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors import (
    COMPRESSORS,
    Compressor,
    OmniSiftCompressor,
    SubtitleTrack,
    UniformCompressor,
    make_compressor,
)
from omnisift.errors import CompressorError
from omnisift.tokens import Modality, Selection, TokenStream
from omnisift.vgas import VGAS, VGASConfig

REACH = {
    "omnisift": 0, "uniform": 0, "uniform:mode=pool": 0, "salient": 0, "stvp": 0, "stvp:mode=spatial": 0,
    "stvp:mode=temporal": 0, "divprune": 0, "omnifocus": 0, "tome": 0, "joint": 0, "evs:mode=frame": 1,
    "resift:causal=true": 7, "resift:causal=true,merge=false": 7, "resift:causal=true,guide=0": 7,
    "resift:causal=true,guide=3,decay=0": 7,
}  # fmt: skip
"""Methods, with options, and their reach; all others have None."""
NARROWER = {
    "attended": "attention is supplied for complete clips only",
    "visionzip": "attention is supplied for complete clips only",
    "visionzip:contextual=0.2": "attention is supplied for complete clips only",
    "seats": "attention is supplied for complete clips only",
    "resift:causal=true+salient": "halves have no memory; this one would not need it",
}
"""Configurations whose reach is None although the decisions on these clips are the same in parts, with the reason."""
PAIRS = [
    "evs:mode=frame+tome", "evs:mode=frame+omnisift", "omnisift+joint", "joint+uniform:mode=pool", "random+tome",
    "divprune+omnifocus", "resift:causal=true+salient", "stvp+resift:causal=true,guide=20",
]  # fmt: skip
"""More than those of the recipes."""
ALL = list(dict.fromkeys([*METHODS, *MORE, *REACH, *PAIRS]))


def reach_of(name: str) -> int | None:
    """The reach that a method should have: in a pair the wider one of both halves, which have no memory."""
    halves = [REACH.get(half) for half in name.split("+")]
    without = None in halves or ("+" in name and "causal=true" in name)
    return None if without else max(half for half in halves if half is not None)


def uneven_prompt(seed: int, audio_from: int = 0) -> Prompt:
    """A clip of eleven chunks and one more frame at uneven times, with audio from a frame on, but not everywhere."""
    draw = torch.Generator().manual_seed(seed)
    begin = torch.randint(10, 40, (23,), generator=draw).cumsum(0).tolist()
    sizes = [int(torch.randint(4, 12, (1,), generator=draw)) if seed % 2 else 9 for _ in begin]
    places = [(Modality.VIDEO, time) for time, size in zip(begin, sizes, strict=True) for _ in range(size)]
    sounds = range(begin[audio_from], begin[-1] + 30) if audio_from < len(begin) else ()
    places += [(Modality.AUDIO, time) for time in sounds if time // 80 % 4]
    order = sorted(places, key=lambda place: (sum(place[1] >= t for t in begin[::2]), place[0], place[1]))
    modality, temporal = (torch.tensor([int(x) for x in column]) for column in zip(*order, strict=True))
    # Frames differ in how much their tokens do.
    spread = torch.rand(int(temporal.max()) + 1, generator=draw)[temporal, None] * 2
    embeds = torch.randn(len(order), 16, generator=draw) * spread + torch.randn(16, generator=draw)
    return Prompt(embeds, modality.to(torch.int8), temporal, torch.zeros_like(temporal))


CLIPS = {
    "even": steady_prompt(23, 9, 600).stream(),
    "short audio": steady_prompt(24, 9, 120).stream(),
    "no audio": steady_prompt(23, 9, 0, seed=1).stream(),
    "uneven": uneven_prompt(2).stream(),
    "uneven sizes": uneven_prompt(3).stream(),
    "late audio": uneven_prompt(5, audio_from=17).stream(),
    "uneven, no audio": uneven_prompt(4, audio_from=23).stream(),
}
CLIPS |= {
    "subtitles": with_subtitles(CLIPS["even"], seed=3),
    "uneven, many subtitles": with_subtitles(CLIPS["uneven"], seed=1, most=30),
}
BUDGETS = (
    Budget(retain_video=0.3, retain_audio=0.4, retain_text=0.5),
    Budget(tokens=150, retain_text=0.5),
    Budget(tokens=20),
)
"""The last one is below the frames and chunks of audio of the clips."""


def inside(stream: TokenStream, begin: int, end: int) -> TokenStream:
    """The chunks from ``begin`` to ``end``, numbered from 0."""
    some = torch.nonzero((stream.chunk >= begin) & (stream.chunk < end))[:, 0]
    fields = {f.name: getattr(stream, f.name) for f in dataclasses.fields(stream)}
    cut = {name: value[..., some] for name, value in fields.items() if name not in ("embeds", "extras")}
    extras = {name: values[some] for name, values in stream.extras.items()}
    return TokenStream(embeds=stream.embeds[some], extras=extras, **cut | {"chunk": cut["chunk"] - begin})


def decision(stream: TokenStream, result: Selection, new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a selection says about the ``new`` tokens: which are kept, their embeddings, and all scores."""
    embeds = stream.embeds[result.keep] if result.embeds is None else result.embeds
    scores = torch.full((len(stream),), torch.nan) if result.scores is None else result.scores
    return result.keep[new], embeds[new[result.keep]], scores[new]


def in_parts(method: Compressor, stream: TokenStream, chunks: int, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """Decisions on a clip in parts of so many chunks, with a context of ``reach`` frames."""
    shapes = ChunkShapes.of(stream)
    kept = method.budget.counts(shapes)
    sizes, counts = (torch.stack([of.frame0, of.frame1, of.audio, of.text], dim=1) for of in (shapes, kept))
    memory: dict[str, Any] = {}
    parts = []
    for begin in range(0, len(shapes), chunks):
        start, end = max(0, begin - -(-reach // 2)), min(begin + chunks, len(shapes))
        part = inside(stream, start, end)
        result = method.next_part(part, Counts(*torch.cat([sizes[start:begin], counts[begin:end]]).T), memory)
        parts.append(decision(part, result, part.chunk >= begin - start))
    keep, embeds, scores = (torch.cat(values) for values in zip(*parts, strict=True))
    return keep, embeds, scores


def at_once(method: Compressor, stream: TokenStream) -> tuple[Tensor, Tensor, Tensor]:
    """Decisions on the complete clip."""
    stream = inside(stream, 0, int(stream.chunk.max()) + 1)
    return decision(stream, method(stream), stream.chunk >= 0)


def check_parts(method: Compressor, stream: TokenStream, chunks: int) -> None:
    """Check that parts of so many chunks give what the complete clip gives."""
    keep, *values = at_once(method, stream)
    assert not keep.all()
    in_part, *others = in_parts(method, stream, chunks, method.reach or 0)
    assert torch.equal(in_part, keep)
    for value, other in zip(values, others, strict=True):
        torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-5, equal_nan=True)


def same_in_parts(method: Compressor, stream: TokenStream) -> bool:
    """Whether parts of four chunks, with as many as context, keep the tokens that the complete clip keeps."""
    try:
        return in_parts(method, stream, 4, 8)[0].equal(at_once(method, stream)[0])
    except CompressorError:  # a part is below what the method keeps at least
        return False


def test_every_method_says_its_reach() -> None:
    assert {name.partition(":")[0] for name in ALL} >= COMPRESSORS.keys()
    for name in ALL:
        assert made(name, BUDGETS[0]).reach == reach_of(name), name


@pytest.mark.slow
@pytest.mark.parametrize("clip", [pytest.param(c, marks=pytest.mark.slow) if "many" in c else c for c in CLIPS])
@pytest.mark.parametrize("name", [name for name in ALL if reach_of(name) is not None])
def test_parts_with_the_reach_decide_like_the_complete_clip(name: str, clip: str) -> None:
    for budget, chunks in itertools.product(BUDGETS, (1, 2, 3, 4)):
        check_parts(made(name, budget), CLIPS[clip], chunks)


@pytest.mark.parametrize("name", [name for name, reach in REACH.items() if reach])
def test_parts_with_less_than_the_reach_differ(name: str) -> None:
    """Otherwise the reach would be too large."""
    method = made(name, BUDGETS[0])
    less = [in_parts(method, clip, 1, REACH[name] - 2)[0].equal(at_once(method, clip)[0]) for clip in CLIPS.values()]
    assert not all(less)


@pytest.mark.parametrize("name", [name for name in ALL if reach_of(name) is None])
def test_methods_without_a_reach_differ_in_parts(name: str) -> None:
    """Otherwise they could have one."""
    method = made(name, BUDGETS[0])
    assert all(same_in_parts(method, with_attention(clip)) for clip in CLIPS.values()) == (name in NARROWER)


def test_a_time_embedding_reads_when_the_next_chunk_begins() -> None:
    torch.manual_seed(0)
    config = VGASConfig(input_size=16, hidden_size=16, num_attention_heads=2, time_embedding=True)
    selector = VGAS(config).eval()
    selector.time_embedding.weight.data.normal_()
    method = OmniSiftCompressor(BUDGETS[0], selector).eval()
    assert method.reach is None
    assert make_compressor("stvp+omnisift", 0.3, selector=selector).reach is None
    with torch.no_grad():
        assert not in_parts(method, CLIPS["uneven"], 2, 2)[0].equal(at_once(method, CLIPS["uneven"])[0])


@pytest.mark.parametrize("name", ["resift:causal=true", "tome", "uniform"])
def test_audio_alone_in_parts(name: str) -> None:
    check_parts(made(name, BUDGETS[0]), audio_prompt(430).stream(compress_audio=True), 3)


def test_a_part_without_the_attention_that_a_method_needs_is_refused() -> None:
    method = made("seats", BUDGETS[0])
    counts = method.budget.counts(ChunkShapes.of(CLIPS["even"]))
    with pytest.raises(CompressorError, match="needs"):
        method.next_part(CLIPS["even"], counts, {})


def test_subtitles_of_earlier_parts_count_within_the_window() -> None:
    """Without their memory, a track would find words new that were said in an earlier part."""
    clip = with_subtitles(CLIPS["even"], seed=1, most=30)
    for name, window in itertools.product(("resift:causal=true", "evs:mode=frame", "uniform"), (1, 7, 40, 256)):
        method = make_compressor(name, BUDGETS[0])
        method.tracks = (SubtitleTrack(window),)
        check_parts(method, clip, 2)

    class Forgetful(SubtitleTrack):
        def select_next(self, *args: Any) -> Selection:
            return super().select_next(*args[:-1], {})

    method.tracks = (Forgetful(),)
    assert not in_parts(method, clip, 2, 0)[0].equal(at_once(method, clip)[0])


def test_a_method_does_not_see_the_memory_of_tracks() -> None:
    seen = []

    class Watching(UniformCompressor):
        def select_next(self, stream: TokenStream, counts: Counts, memory: dict[str, Any]) -> Selection:
            seen.append(dict(memory))
            memory["own"] = len(seen)
            return super().select_next(stream, counts, memory)

    in_parts(Watching(BUDGETS[0]), CLIPS["subtitles"], 4, 0)
    assert seen == [{}, {"own": 1}, {"own": 2}]
