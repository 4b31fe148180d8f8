"""Dominant tokens, even anchors, and sums, against a readable loop."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.oracle import cosine, highest
from tests.helpers.prompts import clip_prompt, random_prompt, regular_prompt, with_attention
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors.attended import AttendedCompressor
from omnisift.compressors.visionzip import VisionZipCompressor
from omnisift.errors import CompressorError
from omnisift.ops import similarity
from omnisift.tokens import TokenStream

BUDGETS = [Budget(retain=0.3), Budget(retain_video=0.1, retain_audio=0.6), Budget(retain_video=0.7, retain_audio=0.3)]


def loop(stream: TokenStream, budget: Budget, share: float) -> tuple[Tensor, Tensor]:
    """[L] bool and [L, D]: what stays, and the embeddings with the anchors' sums in them."""
    segment, embeds = segment_of(stream), stream.embeds.clone()
    keep = segment < 0
    for number, kept in enumerate(budget.counts(ChunkShapes.of(stream)).by_segment().tolist()):
        places = torch.nonzero(segment == number).flatten().tolist()
        anchors = max(0, min(round(share * len(places)), kept - 1))
        extra = stream.extras["audio_attention_window" if number % 3 == 2 else "video_attention"]
        dominant = [places[i] for i in highest([float(extra[p]) for p in places], kept - anchors)]
        rest = [p for p in places if p not in dominant]
        chosen = [rest[-(-j * len(rest) // anchors)] for j in range(anchors)]
        members: dict[int, list[int]] = {a: [] for a in chosen}
        for place in rest:
            if anchors and place not in chosen:
                likeness = [cosine(stream.embeds[place], stream.embeds[a]) for a in chosen]
                members[chosen[highest(likeness, 1)[0]]].append(place)
        for anchor, joined in members.items():
            if joined:
                embeds[anchor] += stream.embeds[joined].mean(dim=0)
        keep[dominant + chosen] = True
    return keep, embeds


@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", range(30))
def test_equals_the_readable_loop(seed: int, budget: Budget, share: float):
    stream = with_attention(random_prompt(seed).stream())
    found = VisionZipCompressor(budget, contextual=share)(stream)
    keep, embeds = loop(stream, budget, share)
    assert torch.equal(found.keep, keep)
    result = stream.embeds[keep] if found.embeds is None else found.embeds
    torch.testing.assert_close(result, embeds[keep], atol=1e-5, rtol=1e-5)


def test_equals_the_loop_on_regular_chunks_in_small_blocks(monkeypatch: pytest.MonkeyPatch):
    stream = with_attention(regular_prompt(20).stream())
    keep, embeds = loop(stream, BUDGETS[0], 0.2)
    for cells in (1, 3000, 1 << 24):
        monkeypatch.setattr(similarity, "MAX_ELEMENTS", cells)
        result = VisionZipCompressor(BUDGETS[0], contextual=0.2)(stream)
        assert torch.equal(result.keep, keep)
        torch.testing.assert_close(result.embeds, embeds[keep], atol=1e-5, rtol=1e-5)
    assert not torch.equal(result.embeds, stream.embeds[keep])


def test_the_sum_grows():
    """Equal tokens: an anchor with members is twice itself, all else is as it was."""
    prompt = clip_prompt(frames=1, tokens=40, audio=0)
    prompt.embeds[:] = 1.0
    stream = with_attention(prompt.stream())
    result = VisionZipCompressor(Budget(retain=0.25))(stream)
    sizes = result.embeds[stream.chunk[result.keep] >= 0].mean(dim=1).tolist()
    assert set(sizes) == {1.0, 2.0}  # equal cosines differ at most by rounding, so one or both anchors have members
    assert torch.isfinite(result.embeds).all()


def test_no_share_is_plain_attention():
    stream = with_attention(regular_prompt(20).stream())
    result = VisionZipCompressor(BUDGETS[0], contextual=0)(stream)
    assert torch.equal(result.keep, AttendedCompressor(BUDGETS[0])(stream).keep)
    assert torch.equal(result.embeds, stream.embeds[result.keep])


def test_options():
    assert VisionZipCompressor(BUDGETS[0]).label == "visionzip"
    assert VisionZipCompressor(BUDGETS[0], contextual=0.1).label == "visionzip-c0.1"
    for wrong in (1, -0.1, "a", True):
        with pytest.raises(CompressorError, match="contextual of 'visionzip'"):
            VisionZipCompressor(BUDGETS[0], contextual=wrong)  # type: ignore[arg-type]
    with pytest.raises(CompressorError, match=r"audio_attention_window.*video_attention"):
        VisionZipCompressor(BUDGETS[0])(random_prompt(1).stream())
