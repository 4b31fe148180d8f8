"""Video by one method, audio by another: what joins, what merges, what guides, and what training needs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.helpers.contract import COMPRESSORS, WITH_AUDIO, made, selector
from tests.helpers.prompts import clip_prompt, random_prompt, steady_prompt, with_attention
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.compressors import make_compressor
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.paired import Paired, VideoCompressor
from omnisift.compressors.random import RandomCompressor, seed_rows
from omnisift.compressors.stvp import StvpCompressor
from omnisift.compressors.uniform import UniformCompressor
from omnisift.ops.selection_builder import join
from omnisift.tokens import Modality, Selection, TokenStream

SOME = Budget(retain_video=0.4, retain_audio=0.6)
STREAM = with_attention(steady_prompt(5, 9, 120).stream())
AUDIO, VIDEO = STREAM.modality == Modality.AUDIO, STREAM.modality == Modality.VIDEO


def run(name: str, stream: TokenStream = STREAM, budget: Budget = SOME) -> Selection:
    with torch.no_grad():
        return made(name, budget)(stream)


def rows(result: Selection, stream: TokenStream = STREAM) -> Tensor:
    """[K, D], merged or as they were."""
    return stream.embeds[result.keep] if result.embeds is None else result.embeds


# --- join --------------------------------------------------------------------------------------------------------


def halves(seed: int, stream: TokenStream) -> Selection:
    """Anything: it even drops text, which a pair must not."""
    random = torch.Generator().manual_seed(seed)
    keep = torch.rand(len(stream), generator=random) < 0.5
    embeds = torch.randn(int(keep.sum()), stream.width, generator=random)
    return Selection(keep, torch.rand(len(stream), generator=random), None, embeds)


@pytest.mark.parametrize("merges", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("seed", range(10))
def test_join_equals_a_loop(seed: int, merges: tuple[bool, bool]):
    stream = random_prompt(seed).stream()
    video, audio = (
        part if merge else dataclasses.replace(part, embeds=None)
        for part, merge in zip((halves(seed, stream), halves(seed + 99, stream)), merges, strict=True)
    )
    result = join(stream, video, audio)
    wanted, embeds = [], []
    for place in range(len(stream)):
        free = stream.chunk[place] < 0 or stream.modality[place] == Modality.TEXT
        mine = audio if stream.modality[place] == Modality.AUDIO else video
        wanted.append(bool(free or mine.keep[place]))
        if not free:
            assert result.scores[place] == mine.scores[place]
        if wanted[-1]:
            merged = not free and mine.embeds is not None
            embeds.append(mine.embeds[int(mine.keep[:place].sum())] if merged else stream.embeds[place])
    assert result.keep.tolist() == wanted
    assert result.gate is None
    assert (result.embeds is None) == (merges == (False, False))
    if result.embeds is not None:
        assert torch.equal(result.embeds, torch.stack(embeds) if embeds else stream.embeds[:0])


def test_scores_of_one_half_alone_leave_the_other_unscored():
    keep, scores = torch.ones(len(STREAM), dtype=torch.bool), torch.ones(len(STREAM))
    for part, mine in (((scores, None), VIDEO), ((None, scores), AUDIO)):
        result = join(STREAM, *(Selection(keep, one) for one in part)).scores
        assert result[mine].eq(1).all()
        assert result[(AUDIO | VIDEO) & ~mine].isnan().all()
    assert join(STREAM, Selection(keep), Selection(keep)).scores is None


def test_merged_rows_come_in_the_streams_dtype():
    keep = torch.ones(len(STREAM), dtype=torch.bool)
    short = dataclasses.replace(STREAM, embeds=STREAM.embeds.bfloat16())
    result = join(short, Selection(keep), Selection(keep, embeds=STREAM.embeds))
    assert result.embeds.dtype is torch.bfloat16
    assert torch.equal(result.embeds, short.embeds)


# --- pairs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_stvp_with_omnisifts_audio_is_omnisift(seed: int):
    stream = random_prompt(seed).stream()
    pair, complete = run("stvp+omnisift", stream), run("omnisift", stream)
    assert torch.equal(pair.keep, complete.keep)
    audio = stream.modality == Modality.AUDIO
    torch.testing.assert_close(pair.scores[audio], complete.scores[audio], equal_nan=True, rtol=0, atol=1e-6)


def test_the_selector_is_guided_by_the_video_that_was_chosen():
    one, other = run("stvp+omnisift").scores, run("random+omnisift").scores
    assert not torch.allclose(one[AUDIO & ~one.isnan()], other[AUDIO & ~one.isnan()], atol=1e-4)


def test_without_anchors_the_selector_sees_the_whole_video_of_the_chunk():
    """EVS may keep nothing of a chunk; its audio is still cut to its count."""
    prompt = clip_prompt(frames=4, tokens=8, audio=100)
    stream = prompt.stream()
    second = (stream.chunk == 1) & (stream.modality == Modality.VIDEO)
    nothing = Selection(~second)
    with torch.no_grad():
        method = OmniSiftCompressor(SOME, selector(16)).eval()
        counts = SOME.counts(ChunkShapes.of(stream))
        result = method.select_audio(stream, counts, nothing)
        everything = method.select_audio(stream, counts, Selection(torch.ones_like(second)))
    mine = (stream.chunk == 1) & (stream.modality == Modality.AUDIO)
    assert int(result.keep[mine].sum()) == int(counts.audio[1])
    assert torch.equal(result.keep[mine], everything.keep[mine])


def test_merged_audio_stands_beside_an_unmerged_video_and_the_other_way_round():
    pooled, stvp = run("uniform:mode=pool"), run("stvp")
    assert torch.equal(stvp.keep[AUDIO], pooled.keep[AUDIO])
    assert torch.equal(rows(stvp)[AUDIO[stvp.keep]], rows(pooled)[AUDIO[pooled.keep]])
    assert torch.equal(rows(stvp)[~AUDIO[stvp.keep]], STREAM.embeds[stvp.keep & ~AUDIO])
    assert not torch.equal(rows(stvp)[AUDIO[stvp.keep]], STREAM.embeds[stvp.keep & AUDIO])

    tome, pair = run("tome"), run("tome+random")
    assert torch.equal(rows(pair)[VIDEO[pair.keep]], rows(tome)[VIDEO[tome.keep]])
    assert torch.equal(rows(pair)[~VIDEO[pair.keep]], STREAM.embeds[pair.keep & ~VIDEO])
    assert not torch.equal(rows(pair)[VIDEO[pair.keep]], STREAM.embeds[pair.keep & VIDEO])

    both = run("tome+uniform:mode=pool")
    assert torch.equal(rows(both)[VIDEO[both.keep]], rows(tome)[VIDEO[tome.keep]])
    assert torch.equal(rows(both)[AUDIO[both.keep]], rows(pooled)[AUDIO[pooled.keep]])


@pytest.mark.parametrize("name", [name for name in WITH_AUDIO if name not in ("joint", "omnizip", "routed")])
def test_a_method_paired_with_itself_is_itself(name: str):
    """Not so for those whose video and audio share a budget or take each other in."""
    alone, pair = run(name), run(f"{name}+{name}")
    assert torch.equal(alone.keep, pair.keep)
    assert torch.equal(rows(alone), rows(pair))


@pytest.mark.parametrize("name", [name for name, method in COMPRESSORS.items() if issubclass(method, VideoCompressor)])
def test_methods_for_the_video_pool_the_audio_unless_told_otherwise(name: str):
    default, spelled = made(name, SOME), made(f"{name}+uniform:mode=pool", SOME)
    assert torch.equal(default(STREAM).keep, spelled(STREAM).keep)
    assert torch.equal(default(STREAM).embeds, spelled(STREAM).embeds)
    assert default.label == default.video_label
    assert spelled.label == f"{default.label}+uniform-pool"
    assert made(f"{name}+omnisift", SOME).label == f"{default.label}+omnisift"


def test_a_pair_needs_what_its_halves_need_and_says_who_they_are():
    assert made("stvp", SOME).needs == frozenset()
    assert made("stvp+omnizip", SOME).needs == {"audio_attention"}
    pair = made("seats+omnizip:rebounded=true", SOME)
    assert pair.needs == {"audio_attention", "audio_attention_window", "video_attention"}
    assert pair.label == "seats-I+omnizip-rebounded"
    assert isinstance(pair, Paired)
    assert isinstance(made("stvp+omnizip", SOME), StvpCompressor)


def test_parts_of_a_pair_are_modules():
    """So that moves, modes, weights and seeds reach them."""
    method = make_compressor("stvp+omnisift", SOME, selector=selector(16)).train()
    assert method.audio.training
    assert any(name.startswith("audio.selector.") for name, _ in method.named_parameters())
    pair = make_compressor("random+random", SOME, seed=1)
    seed_rows(pair, [5])
    assert [part.row_seeds for part in pair.modules() if isinstance(part, RandomCompressor)] == [[5], [5]]


@pytest.mark.parametrize("name", ["random+omnisift", "stvp+omnisift", "tome+omnisift", "evs:mode=frame+omnisift"])
def test_the_gate_survives_in_training(name: str):
    """1 on all that stays, 0 on audio that goes, and a gradient for the selector."""
    method = make_compressor(name, SOME, selector=selector(16)).train()
    result = method(STREAM)
    assert result.gate.requires_grad
    assert (result.gate[result.keep] == 1).all()
    assert (result.gate[AUDIO & ~result.keep] == 0).all()
    assert (result.gate[VIDEO] == 1).all()
    assert torch.equal(result.keep, method.eval()(STREAM).keep)
    result.gate[result.keep].sum().backward()
    gradients = [weight.grad for weight in method.audio.selector.parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    with torch.no_grad():
        assert method.train()(STREAM).gate is None


def test_a_video_of_omnisift_brings_no_gate_to_another_audio():
    method = make_compressor("omnisift+random", SOME, selector=selector(16)).train()
    result = method(STREAM)
    assert result.gate is None
    assert torch.equal(result.keep[VIDEO], run("omnisift").keep[VIDEO])


def test_the_video_is_chosen_once_and_handed_to_the_audio():
    seen: list[Tensor] = []

    class Curious(UniformCompressor):
        def select_audio(self, stream: TokenStream, counts: object, video: Selection) -> Selection:
            seen.append(video.keep)
            return super().select_audio(stream, counts, video)  # type: ignore[arg-type]

    for method in (Paired(RandomCompressor(SOME), Curious(SOME)), StvpCompressor(SOME, Curious(SOME))):
        result = method(STREAM)
        assert torch.equal(seen.pop()[VIDEO], result.keep[VIDEO])
    assert seen == []
