"""The vectorised method against the readable loop, over thousands of prompts; gradients; batches; odd inputs."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.contract import Watch
from tests.helpers.oracle import reference, selector_scores
from tests.helpers.prompts import Prompt, clip_prompt, in_one_batch, random_prompt, regular_prompt

from omnisift.budget import Budget, from_rho
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors import omnisift as method
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.errors import CompressorError
from omnisift.estimators import ESTIMATORS
from omnisift.tokens import Modality, TokenStream
from omnisift.vgas import VGAS, VGASConfig

WIDTH = 16
NEAR = 1e-6


def selector(**config: object) -> VGAS:
    torch.manual_seed(0)
    return VGAS(VGASConfig(**{"input_size": WIDTH, "hidden_size": 16, "num_attention_heads": 2, **config})).eval()  # type: ignore[arg-type]


SELECTOR = selector()
RHO = st.one_of(
    st.sampled_from([0.67, 0.77, 0.7, 0.5, 0.4, 0.0, 0.58]), st.floats(0, 0.999).map(lambda rho: round(rho, 12))
)


def run(stream: TokenStream, budget: Budget, model: VGAS | None = SELECTOR):
    with torch.no_grad():
        return OmniSiftCompressor(budget, model).eval()(stream)


PROMPTS = given(seed=st.integers(0, 2**32), rho_video=RHO, rho_audio=RHO, many=st.booleans())


@settings(max_examples=400, deadline=None)
@PROMPTS
def test_equals_the_readable_loop(seed: int, rho_video: float, rho_audio: float, many: bool):
    check_equal(seed, rho_video, rho_audio, many)


@pytest.mark.slow
@settings(max_examples=4000, deadline=None)
@PROMPTS
def test_equals_the_readable_loop_on_4000_prompts(seed: int, rho_video: float, rho_audio: float, many: bool):
    check_equal(seed, rho_video, rho_audio, many)


def check_equal(seed: int, rho_video: float, rho_audio: float, many: bool) -> None:
    prompt = random_prompt(seed, WIDTH, samples=3 if many else 1)
    stream = prompt.stream()
    result = run(stream, from_rho(rho_video, rho_audio))
    with torch.no_grad():
        wanted = reference(
            prompt.embeds, prompt.modality, prompt.temporal, prompt.sample, rho_video, rho_audio, SELECTOR
        )
    segment = segment_of(stream)
    outside = segment < 0
    assert result.keep[outside].all()
    assert wanted.keep[outside].all()
    assert torch.equal(
        torch.bincount(segment[result.keep & ~outside], minlength=3 * len(ChunkShapes.of(stream))),
        torch.bincount(segment[wanted.keep & ~outside], minlength=3 * len(ChunkShapes.of(stream))),
    )
    differs = result.keep != wanted.keep
    video = stream.modality == Modality.VIDEO
    assert (wanted.margin[differs & video] <= NEAR).all()
    if not (differs & video).any():  # other anchors would rightly give other audio scores
        assert (wanted.margin[differs] <= NEAR).all()
        torch.testing.assert_close(result.scores, wanted.scores, atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(30))
def test_block_size_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch):
    """One chunk a block, or all in one: padding and views must not show."""
    stream = random_prompt(seed, WIDTH).stream()
    budget = from_rho(0.67, 0.4)
    complete = run(stream, budget)
    monkeypatch.setattr(method, "SMALL_BATCH", 1)
    single = run(stream, budget)
    assert torch.equal(complete.keep, single.keep)
    torch.testing.assert_close(complete.scores, single.scores, atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(10))
def test_a_clip_is_cut_the_same_alone_and_in_a_batch(seed: int):
    prompts = [random_prompt(100 * seed + i, WIDTH, samples=1) for i in range(3)]
    batch = Prompt(
        torch.cat([p.embeds for p in prompts]),
        torch.cat([p.modality for p in prompts]),
        torch.cat([p.temporal for p in prompts]),
        torch.cat([p.sample + i for i, p in enumerate(prompts)]),
    )
    budget = Budget(retain=0.3)
    together = run(batch.stream(), budget).keep
    assert torch.equal(together, torch.cat([run(p.stream(), budget).keep for p in prompts]))


def test_a_view_with_strides_is_read_right():
    """Embeddings that are a slice of something larger: rows and columns apart from each other."""
    stream = random_prompt(3, WIDTH).stream()
    wide = torch.full((2 * len(stream) + 1, WIDTH + 5), torch.nan)
    wide[1::2, 2 : 2 + WIDTH] = stream.embeds
    strided = dataclasses.replace(stream, embeds=wide[1::2, 2 : 2 + WIDTH])
    assert torch.equal(run(strided, Budget(retain=0.5)).keep, run(stream, Budget(retain=0.5)).keep)


def test_equal_tokens_keep_the_lowest_index():
    prompt = clip_prompt(frames=2, tokens=8, audio=10)
    prompt.embeds[:] = torch.arange(WIDTH).float()
    stream = prompt.stream()
    keep = run(stream, Budget(retain_video=0.5, retain_audio=0.3)).keep
    for part, (size, kept) in enumerate([(8, 4), (8, 4), (10, 3)]):
        assert keep[segment_of(stream) == part].tolist() == [True] * kept + [False] * (size - kept)


def test_scores_rank_what_is_kept():
    stream = clip_prompt(frames=4, tokens=9, audio=20).stream()
    result = run(stream, Budget(retain_video=0.4, retain_audio=0.4))
    for number in range(3 * len(ChunkShapes.of(stream))):
        inside = segment_of(stream) == number
        assert result.scores[inside & result.keep].min() >= result.scores[inside & ~result.keep].max()


def test_without_audio_no_selector_is_needed():
    stream = clip_prompt(frames=3, tokens=9, audio=0).stream()
    result = run(stream, Budget(retain=0.3), None)
    assert 0 < result.keep.sum() < len(stream)


def test_with_audio_a_missing_selector_is_an_error():
    with pytest.raises(CompressorError, match="without selector weights"):
        run(clip_prompt(frames=2, tokens=9, audio=5).stream(), Budget(retain=0.3), None)


def test_nothing_to_compress_stays_whole():
    for prompt in (random_prompt(0, WIDTH, samples=1, clips=0), Prompt(torch.zeros(0, WIDTH), *[torch.zeros(0)] * 3)):
        prompt.modality = prompt.modality.to(torch.int8)
        prompt.temporal = prompt.temporal.to(torch.int64)
        result = run(prompt.stream(), Budget(retain=0.1))
        assert result.keep.all()
        assert result.gate is None


def test_broken_embeddings_still_meet_the_budget():
    prompt = clip_prompt(frames=3, tokens=9, audio=20)
    prompt.embeds[::3] = torch.nan
    prompt.embeds[1::7] = torch.inf
    stream = prompt.stream()
    budget = Budget(retain_video=0.3, retain_audio=0.3)
    kept = torch.bincount(segment_of(stream)[run(stream, budget).keep & (stream.chunk >= 0)])
    assert kept.tolist() == budget.counts(ChunkShapes.of(stream)).by_segment()[: len(kept)].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_meet_the_budget_and_stay_near_float32(dtype: torch.dtype):
    stream = clip_prompt(frames=4, tokens=32, audio=40).stream()
    short = dataclasses.replace(stream, embeds=stream.embeds.to(dtype))
    budget = Budget(retain_video=0.25, retain_audio=0.5)
    exact = run(stream, budget)
    result = run(short, budget, selector().to(dtype))
    assert result.keep.sum() == exact.keep.sum()
    torch.testing.assert_close(result.scores, exact.scores, atol=0.03, rtol=0, equal_nan=True)
    with torch.no_grad():
        in_float32 = OmniSiftCompressor(budget, SELECTOR, score_dtype=torch.float32).eval()(short)
    torch.testing.assert_close(in_float32.scores, exact.scores, atol=5e-3, rtol=0, equal_nan=True)


def test_time_embedding_sees_when_a_token_is():
    """Equal audio tokens get different scores only if the selector knows their time."""
    prompt = clip_prompt(frames=2, tokens=4, audio=50)
    prompt.embeds[prompt.modality == Modality.AUDIO] = torch.randn(WIDTH)
    audio = prompt.modality == Modality.AUDIO
    plain = run(prompt.stream(), Budget(retain=0.5)).scores[audio]
    timed = run(prompt.stream(), Budget(retain=0.5), selector(time_embedding=True)).scores[audio]
    # Which row of a product a token is decides its last bit on some processors.
    torch.testing.assert_close(plain, plain[:1].expand_as(plain), rtol=1e-5, atol=0)
    assert timed.unique().numel() > 40
    assert float(timed.max() - timed.min()) > 1e-4


def test_no_gate_outside_training():
    stream = clip_prompt(frames=2, tokens=4, audio=10).stream()
    assert run(stream, Budget(retain=0.5)).gate is None
    assert OmniSiftCompressor(Budget(retain=0.5), SELECTOR).eval()(stream).gate is None
    with torch.no_grad():
        assert OmniSiftCompressor(Budget(retain=0.5), SELECTOR).train()(stream).gate is None


def test_training_returns_the_gate_of_the_loop():
    """Forward exactly 1 on kept tokens; backward reaches every parameter of the selector, and only kept audio."""
    stream = clip_prompt(frames=4, tokens=9, audio=30).stream()
    model = selector()
    result = OmniSiftCompressor(Budget(retain=0.4), model).train()(stream)
    assert result.gate is not None
    assert torch.equal(result.gate[result.keep], torch.ones(int(result.keep.sum())))
    assert torch.equal(result.keep, run(stream, Budget(retain=0.4), model).keep)
    weight = torch.randn(len(stream))
    (result.gate * weight)[result.keep].sum().backward()
    found_gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert set(found_gradient) == {name for name, _ in model.named_parameters()}

    model.zero_grad()
    wanted = loop_scores(stream, result.keep, model)
    kept_audio = result.keep & (stream.modality == Modality.AUDIO)
    (wanted * weight)[kept_audio].sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found_gradient[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_training_passes_a_gradient_to_the_embeddings():
    prompt = clip_prompt(frames=3, tokens=9, audio=40)
    prompt.embeds.requires_grad_()
    result = OmniSiftCompressor(Budget(retain=0.4), selector()).train()(prompt.stream())
    assert result.gate is not None
    result.gate[result.keep].sum().backward()
    assert prompt.embeds.grad is not None
    assert prompt.embeds.grad[prompt.stream().modality == Modality.AUDIO].any()
    assert torch.isfinite(prompt.embeds.grad).all()


def loop_scores(stream: TokenStream, keep: torch.Tensor, model: VGAS) -> torch.Tensor:
    """[L] scores with a gradient, chunk by chunk, on given anchors; 0 elsewhere."""
    result = torch.zeros(len(stream))
    for number in range(int(stream.chunk.max()) + 1):
        chunk = stream.chunk == number
        anchors = chunk & keep & (stream.modality == Modality.VIDEO)
        audio = torch.nonzero(chunk & (stream.modality == Modality.AUDIO)).flatten()
        result = result.index_put((audio,), selector_scores(model, stream.embeds[anchors], stream.embeds[audio]))
    return result


def test_steps_do_not_grow_with_the_number_of_chunks():
    """In one block of equal chunks: no loop over chunks, and no wait for a value per chunk."""
    prompts = [regular_prompt(seconds) for seconds in (8, 80)]
    seen = []
    for prompt in prompts:
        with Watch() as one:
            run(prompt.stream(), Budget(retain=0.3))
        seen.append((one.steps, one.waits))
    assert seen[0] == seen[1]


def test_no_copy_of_the_stream(monkeypatch: pytest.MonkeyPatch):
    """No new tensor holds more than an eighth of the embeddings when blocks are an eighth of them."""
    stream = regular_prompt(160).stream()
    monkeypatch.setattr(method, "SMALL_BATCH", stream.embeds.nbytes // 8)
    monkeypatch.setattr(method, "CPU_BATCH", stream.embeds.nbytes // 8)
    with Watch() as seen:
        run(stream, Budget(retain=0.3))
    assert seen.largest <= stream.embeds.numel() // 8


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 3, 5, 20])
def test_audio_without_kept_video_is_guided_by_all_video_of_its_chunk(tokens: int):
    """In chunks of which a small number of tokens keeps audio and no video; single audio tokens are dropped, too."""
    unguided, budget = 0, Budget(tokens=tokens)
    for seed in range(40):
        # Sound in three chunks only, else a chunk with a kept sound always keeps video; one token in some of them.
        prompt, draw = regular_prompt(24), torch.Generator().manual_seed(seed)
        chunk, loud = prompt.temporal // 50, torch.randperm(12, generator=draw)[:3]
        silent = ~torch.isin(chunk, loud) | (torch.isin(chunk, loud[seed % 4 :]) & (prompt.temporal % 50 > 0))
        heard = (prompt.modality == Modality.VIDEO) | ~silent
        prompt = Prompt(*(getattr(prompt, f.name)[heard] for f in dataclasses.fields(prompt)))
        stream = prompt.stream()
        result, counts = run(stream, budget), budget.counts(ChunkShapes.of(stream))
        for number, kept in enumerate(counts.audio.tolist()):
            chunk = stream.chunk == number
            audio = torch.nonzero(chunk & (stream.modality == Modality.AUDIO)).flatten()
            if len(audio) == kept:
                continue
            video = chunk & (stream.modality == Modality.VIDEO)
            anchors = video & result.keep if (video & result.keep).any() else video
            unguided += kept > 0 and not (video & result.keep).any()
            scores = selector_scores(SELECTOR, stream.embeds[anchors], stream.embeds[audio])
            torch.testing.assert_close(result.scores[audio], scores, atol=1e-5, rtol=0)
            assert int(result.keep[audio].sum()) == kept
            assert result.keep[audio][scores.topk(kept).indices].all()
        both = in_one_batch([prompt, random_prompt(seed, samples=1)]).stream()
        assert torch.equal(run(both, budget).keep[: len(stream)], result.keep)
    assert unguided >= 5 or tokens != 5


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("tokens", [1, 5, 12])
def test_training_with_fewer_tokens_than_segments(estimator: str, tokens: int):
    stream = clip_prompt(frames=9, tokens=4, audio=90).stream()
    model = selector()
    result = OmniSiftCompressor(Budget(tokens=tokens), model, estimator=estimator).train()(stream)
    learned = [value for value in (result.gate, result.bias, result.log_prob, result.embeds) if value is not None]
    assert all(value.isfinite().all() for value in learned)
    sum(value.sum() for value in learned).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("learned", [False, True], ids=["stvp", "learned"])
def test_second_frames_of_another_size_are_pruned_by_themselves(learned: bool):
    """Only a number of tokens prunes them: by their own mean, in a batch as alone, with a score for what is dropped."""
    model, pruned = selector(video_score=learned), 0
    prompts = [random_prompt(seed, samples=1) for seed in range(100)]
    for (prompt, other), tokens in itertools.product(itertools.pairwise(prompts), (12, 20, 35)):
        stream, both, budget = prompt.stream(), in_one_batch([prompt, other]).stream(), Budget(tokens=tokens)
        result = run(stream, budget, model)
        shapes, counts = ChunkShapes.of(stream), budget.counts(ChunkShapes.of(stream))
        pruned += int(((shapes.frame0 != shapes.frame1) & (counts.frame1 < shapes.frame1)).sum())
        assert torch.equal(run(both, budget, model).keep[: len(stream)], result.keep)
        video = (stream.modality == Modality.VIDEO) & (stream.chunk >= 0)
        assert not result.scores[video & ~result.keep].isnan().any()
        if not learned:
            assert torch.equal(result.keep[video], StvpCompressor(budget)(stream).keep[video])
    assert pruned >= 10
