"""The contract of all methods, tested on every method, configuration and pair of this project, on unusual prompts."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.contract import (
    COUNTED,
    IN_RECIPES,
    METHODS,
    MORE,
    RECIPES,
    WITH_AUDIO,
    check_counts,
    check_embeds,
    check_floor_is_named,
    chosen,
    made,
    out_of_reach,
)
from tests.helpers.prompts import Prompt, empty, in_one_batch, random_prompt, steady_prompt, with_attention
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.compressors import COMPRESSORS, needs_selector
from omnisift.errors import UnreachableBudget
from omnisift.ops import similarity
from omnisift.tokens import Modality, Selection, TokenStream

HALF, SOME = Budget(retain_video=0.6, retain_audio=0.7), Budget(retain=0.35)
NUMBERS = tuple(Budget(tokens=tokens) for tokens in (1, 3, 23, 61, 140))
SHARES = st.floats(0.01, 1)
BUDGETS = st.one_of(
    st.builds(Budget, retain=SHARES),
    st.builds(lambda v, a: Budget(retain_video=v, retain_audio=a), SHARES, SHARES),
    st.builds(Budget, tokens=st.integers(1, 200)),
)
ALL_KEPT = (Budget(retain=1), Budget(retain_video=1, retain_audio=1))
FLOORS = ("dycoke", "omnizip", "omnizip:contextual=0.2")
ALL = [*METHODS, *(name for name in MORE if name not in METHODS)]


def configurations(names: Iterable[str]) -> list[object]:
    """Parameters: each configuration, and one pair for each audio method; the other pairs are for the slow suite."""
    audio_methods: set[str] = set()
    result: list[object] = []
    for name in names:
        audio = name.partition("+")[2]
        marks = [pytest.mark.slow] if audio in audio_methods else []
        audio_methods |= {audio} - {""}
        result.append(pytest.param(name, marks=marks))
    return result


THREE = [steady_prompt(5, 9, 120, seed=1), steady_prompt(1, 7, 0, seed=2), steady_prompt(18, 4, 430, seed=3)]


def _clips(stream: TokenStream) -> list[ChunkShapes]:
    shapes = ChunkShapes.of(stream)
    parts = [shapes.clip == clip for clip in shapes.clip.unique()]
    return [ChunkShapes(*(getattr(shapes, f.name)[p] for f in dataclasses.fields(shapes))) for p in parts]


TRAITS: dict[str, Callable[[TokenStream], bool]] = {
    "no audio": lambda s: not (s.modality == Modality.AUDIO).any(),
    "one frame": lambda s: all(len(c) == 1 and not c.frame1.any() for c in _clips(s)),
    "one frame with audio": lambda s: any(len(c) == 1 and not c.frame1.any() and c.audio.any() for c in _clips(s)),
    "odd frames": lambda s: any(len(c) > 2 and c.frame1[-1] == 0 and c.audio.any() for c in _clips(s)),
    "unequal frames": lambda s: any((c.frame1 != c.frame0)[:-1].any() and c.audio.any() for c in _clips(s)),
    "two clips in a row": lambda s: len(_clips(s)) == 2 and int(s.sample.max()) == 0,
    "three rows": lambda s: len(_clips(s)) >= 3 and int(s.sample.max()) == 2,
    "audio before the video": lambda s: bool(((s.modality == Modality.AUDIO) & (s.chunk < 0)).any()),
    "chunks with and without audio": lambda s: any((c.audio > 1).any() and (c.audio == 0).any() for c in _clips(s)),
}


def _first_with(trait: Callable[[TokenStream], bool]) -> Prompt:
    prompts = (random_prompt(seed) for seed in range(10_000))
    return next(p for p in prompts if (s := p.stream()).chunk.max() >= 0 and trait(s))


PROMPTS = {name: _first_with(trait) for name, trait in TRAITS.items()}
PROMPTS |= {
    "long": steady_prompt(19, 4, 480),
    "silent": steady_prompt(12, 9, 0),
    "text": random_prompt(0, samples=1, clips=0),
}
STREAMS = [with_attention(prompt.stream()) for prompt in PROMPTS.values()]
FEW = [with_attention(PROMPTS[name].stream()) for name in ("odd frames", "unequal frames", "three rows", "long")]


def check(name: str, stream: TokenStream, budget: Budget) -> Selection | None:
    """Counts and embeddings; None where the budget is out of reach."""
    result = chosen(name, stream, budget)
    if result is not None:
        check_counts(name, stream, result.keep, budget)
        check_embeds(stream, result)
        assert result.gate is None
        assert result.scores is None or (result.scores.shape == (len(stream),) and result.scores.is_floating_point())
    return result


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and _bits(one).equal(_bits(other)))


def _bits(values: Tensor) -> Tensor:
    return torch.nan_to_num(values.float(), nan=-77.0)


def test_recipes_and_table_name_what_exists():
    assert len(RECIPES) >= 5
    assert {"random:scope=clip", "stvp:mode=spatial+omnisift", "omnizip:rebounded=true"} <= IN_RECIPES
    assert {name.partition(":")[0] for name in COUNTED} <= COMPRESSORS.keys()


@pytest.mark.parametrize("name", configurations(ALL))
def test_odd_prompts_meet_their_counts_and_repeat(name: str):
    reached = 0
    for stream in [*STREAMS, empty()]:
        stream = stream if len(stream) else with_attention(stream)
        before = stream.embeds.clone()
        check(name, stream, SOME)
        result, again = check(name, stream, HALF), chosen(name, stream, HALF)
        if result is not None:
            assert torch.equal(result.keep, again.keep)
            assert same(result.scores, again.scores)
            assert same(result.embeds, again.embeds)
            reached += not result.keep.all()
        assert torch.equal(stream.embeds, before)
    assert reached >= 3


@pytest.mark.parametrize("name", configurations(ALL))
def test_a_number_of_tokens_is_met_on_odd_prompts(name: str):
    results = [check(name, stream, budget) for stream in STREAMS for budget in NUMBERS]
    assert sum(result is not None and not bool(result.keep.all()) for result in results) >= 3


@pytest.mark.parametrize("name", configurations(METHODS))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), budget=BUDGETS)
def test_any_prompt_and_budget_meets_its_counts_or_names_the_floor(name: str, seed: int, budget: Budget):
    check(name, with_attention(random_prompt(seed).stream()), budget)


@pytest.mark.parametrize("budget", [HALF, *NUMBERS[1:4]], ids=lambda budget: budget.words)
@pytest.mark.parametrize("name", configurations(ALL))
def test_a_batch_is_its_rows_alone(name: str, budget: Budget):
    prompts = [random_prompt(seed, samples=1) for seed in range(40, 46)]
    prompts += [PROMPTS["two clips in a row"], steady_prompt(9, 4, 230, seed=4), *THREE]
    alone = {i: chosen(name, with_attention(p.stream()), budget) for i, p in enumerate(prompts)}
    rows = [i for i, result in alone.items() if result is not None]
    assert len(rows) >= 3
    batch = in_one_batch([prompts[i] for i in rows])
    together = chosen(name, with_attention(batch.stream()), budget)
    assert together.keep.equal(torch.cat([alone[i].keep for i in rows]))
    assert not together.keep.all()
    if together.embeds is not None:
        parts = [prompts[i].embeds[alone[i].keep] if alone[i].embeds is None else alone[i].embeds for i in rows]
        torch.testing.assert_close(together.embeds, torch.cat(parts), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", configurations(ALL))
def test_equal_tokens_meet_their_counts_and_stay_numbers(name: str):
    """Which tokens have a score depends on shapes alone."""
    for stream in FEW:
        usual = chosen(name, stream, HALF)
        flat = dataclasses.replace(stream, embeds=torch.ones_like(stream.embeds))
        dark = {extra: torch.zeros_like(values) for extra, values in stream.extras.items()}
        zero = dataclasses.replace(stream, embeds=torch.zeros_like(stream.embeds), extras=dark)
        for some in (with_attention(flat), zero):
            result = check(name, some, HALF)
            if result is not None and result.scores is not None:
                assert torch.equal(result.scores.isnan(), usual.scores.isnan())
                assert not result.scores.isinf().any()
            # A mean of equal tokens is that token; VisionZip alone adds instead.
            if result is not None and result.embeds is not None and "visionzip" not in name:
                torch.testing.assert_close(result.embeds, some.embeds[result.keep])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_every_dropped_token_has_a_score_if_its_modality_has(name: str):
    for stream, budget in itertools.product(FEW, (HALF, *NUMBERS)):
        result = chosen(name, stream, budget)
        for modality in (Modality.VIDEO, Modality.AUDIO):
            inside = (stream.modality == modality) & (stream.chunk >= 0)
            if result is not None and result.scores is not None and not result.scores[inside].isnan().all():
                assert not result.scores[inside & ~result.keep].isnan().any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, None])
@pytest.mark.parametrize("name", configurations(ALL))
def test_tokens_that_are_no_numbers_meet_their_counts(name: str, value: float | None):
    for prompt in (THREE[0], THREE[2]):
        stream = with_attention(prompt.stream())
        embeds = stream.embeds.clone()
        if value is None:
            embeds[::3], embeds[1::7] = torch.nan, torch.inf
        else:
            embeds[::3] = value
        broken = dataclasses.replace(stream, embeds=embeds)
        result = chosen(name, broken, HALF)
        if result is not None:
            check_counts(name, broken, result.keep, HALF)
            if result.embeds is not None:
                assert same(result.embeds[(stream.chunk < 0)[result.keep]], embeds[stream.chunk < 0])


@pytest.mark.parametrize("elements", [1, 600])
@pytest.mark.parametrize("name", configurations(ALL))
def test_the_size_of_blocks_does_not_show(name: str, elements: int, monkeypatch: pytest.MonkeyPatch):
    streams = [*FEW[:3], with_attention(random_prompt(5).stream()), with_attention(random_prompt(11).stream())]
    complete = [chosen(name, stream, HALF) for stream in streams]
    monkeypatch.setattr(similarity, "MAX_ELEMENTS", elements)
    for stream, usual in zip(streams, complete, strict=True):
        result = chosen(name, stream, HALF)
        if result is not None:
            assert result.keep.equal(usual.keep)
            if usual.scores is not None:
                torch.testing.assert_close(result.scores, usual.scores, atol=1e-5, rtol=0, equal_nan=True)
            if usual.embeds is not None:
                torch.testing.assert_close(result.embeds, usual.embeds, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", configurations(ALL))
def test_retain_1_keeps_everything_and_changes_nothing(name: str):
    for stream in FEW:
        for budget in ALL_KEPT:
            result = check(name, stream, budget)
            assert result.keep.all()
            assert result.embeds is None or result.embeds.equal(stream.embeds)


@pytest.mark.parametrize("name", configurations(ALL))
def test_half_precision_works(name: str):
    """Attention comes in float32 from the adapter."""
    for stream in FEW:
        result = check(name, dataclasses.replace(stream, embeds=stream.embeds.bfloat16()), HALF)
        assert result is None or result.embeds is None or result.embeds.dtype is torch.bfloat16


@pytest.mark.parametrize("name", configurations(ALL))
def test_only_methods_with_a_floor_refuse_a_small_budget(name: str):
    tiny = Budget(retain_video=0.05, retain_audio=0.05)
    stream = with_attention(steady_prompt(8, 9, 200).stream())
    floor = name.split("+")[0] in FLOORS
    assert out_of_reach(name, stream, tiny) is floor
    if not floor:
        check(name, stream, tiny)
        return
    with pytest.raises(UnreachableBudget) as caught:
        made(name, tiny)(stream)
    check_floor_is_named(caught.value)


@pytest.mark.parametrize("video", COMPRESSORS)
def test_every_video_goes_with_every_audio(video: str):
    """Counts of both halves; and the video does not depend on the audio's method."""
    rows = [steady_prompt(5, 6, 120, seed=1), steady_prompt(4, 9, 70, seed=2)]
    stream = with_attention(in_one_batch(rows).stream())
    is_video = stream.modality == Modality.VIDEO
    kept = [check(f"{video}+{audio}", stream, HALF).keep[is_video] for audio in WITH_AUDIO]
    assert all(one.equal(kept[0]) for one in kept)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_method_is_one_file_with_an_idea_and_a_source(name: str):
    """The idea in about twelve words, for a row of a table, and where it is from."""
    method = COMPRESSORS[name]
    path = Path(inspect.getfile(method))
    assert path.stem == name
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert 5 <= len(method.idea.split()) <= 14
    assert method.idea[0].islower()
    assert not method.idea.endswith(".")
    assert "arXiv" in method.source or method.source.startswith(("baseline of ", "this project"))


@pytest.mark.parametrize("name", [name for name in ALL if not needs_selector(name)])
def test_training_chooses_the_tokens_that_asking_chooses(name: str) -> None:
    stream = with_attention(steady_prompt(5, 9, 120, seed=1).stream())
    method = made(name, HALF)
    plain = method(stream)
    stream = dataclasses.replace(stream, embeds=stream.embeds.clone().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        trained = method(stream)
    assert torch.equal(trained.keep, plain.keep)
    if plain.embeds is not None and trained.embeds is not None:
        assert torch.equal(trained.embeds, plain.embeds)


@pytest.mark.parametrize("name", ["omnisift+tome", "tome+omnisift"])
def test_a_pair_with_a_selector_merges_in_training(name: str) -> None:
    stream = with_attention(steady_prompt(5, 9, 120, seed=1).stream())
    stream = dataclasses.replace(stream, embeds=stream.embeds.clone().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        assert made(name, HALF)(stream).embeds is not None
