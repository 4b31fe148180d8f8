"""Every method on audio without video, alone and in a batch with other prompts."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.contract import METHODS, MORE, check_counts, check_embeds, chosen, made
from tests.helpers.prompts import audio_prompt, in_one_batch, random_prompt, steady_prompt, with_attention
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.errors import CompressorError
from omnisift.tokens import Modality, TokenStream
from omnisift.vgas import GUIDES, VGAS, VGASConfig

ALL = [*METHODS, *(name for name in MORE if name not in METHODS)]
GUIDED = [name for name in ALL if name.partition("+")[2] == "omnisift" or name == "omnisift"]
"""Methods whose audio is chosen by the video."""
UNGUIDED = [name for name in ALL if name not in GUIDED]
BUDGETS = [
    Budget(retain=0.35, compress_audio=True),
    Budget(retain_video=0.6, retain_audio=0.7, compress_audio=True),
    *(Budget(tokens=tokens, compress_audio=True) for tokens in (40, 1, 3, 7)),
]
ROWS = [
    steady_prompt(5, 9, 120, seed=1),  # a video with sound
    audio_prompt(130, seed=2),
    random_prompt(0, samples=1, clips=0),  # text
    audio_prompt(1, 75, seed=3),  # two items: one token, and three seconds
    steady_prompt(3, 4, 0, seed=4),  # a silent video
    audio_prompt(1, seed=5),
]


def streamed(prompt: object) -> TokenStream:
    return with_attention(prompt.stream(compress_audio=True))


BATCH, LONG = streamed(in_one_batch(ROWS)), streamed(audio_prompt(430))


def test_an_item_is_a_clip_of_chunks_of_two_seconds_from_its_first_token() -> None:
    shapes = ChunkShapes.of(BATCH)
    assert shapes.audio.tolist() == [50, 50, 20, 50, 50, 30, 1, 50, 25, 0, 0, 1]
    assert shapes.clip.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 5]
    assert shapes.frame0.tolist()[3:9] == [0] * 6
    # Without being asked for, plain audio is text.
    plain = in_one_batch(ROWS).stream()
    assert int(plain.clip.max()) == 1
    assert int((plain.modality == Modality.AUDIO).sum()) == 120


def test_counts_of_an_item_follow_the_ratio_of_audio() -> None:
    shapes = ChunkShapes.of(streamed(audio_prompt(131)))
    for budget in (Budget(retain=0.25), Budget(retain_video=0.9, retain_audio=0.25)):
        assert budget.counts(shapes).audio.tolist() == [13, 13, 8]
    assert Budget(tokens=40).counts(shapes).audio.sum() == 40
    assert Budget(tokens=500).counts(shapes).audio.tolist() == [50, 50, 31]
    assert Budget(tokens=2).counts(shapes).audio.tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", UNGUIDED)
def test_every_method_meets_its_counts_without_video(name: str) -> None:
    reached = 0
    for stream in (LONG, BATCH):
        for budget in BUDGETS:
            result = chosen(name, stream, budget)
            if result is not None:
                check_counts(name, stream, result.keep, budget)
                check_embeds(stream, result)
                reached += not bool(result.keep.all())
        result = chosen(name, stream, Budget(retain=1, compress_audio=True))
        assert result is not None
        assert result.keep.all()
        assert result.embeds is None or result.embeds.equal(stream.embeds)
    assert reached >= 3


@pytest.mark.parametrize("budget", BUDGETS[1::2], ids=lambda budget: budget.words)
@pytest.mark.parametrize("name", UNGUIDED)
def test_a_batch_is_its_rows_alone(name: str, budget: Budget) -> None:
    alone = {row: chosen(name, streamed(prompt), budget) for row, prompt in enumerate(ROWS)}
    rows = [row for row, result in alone.items() if result is not None]
    assert len(rows) == len(ROWS) or name.startswith(("dycoke", "omnizip"))
    together = chosen(name, streamed(in_one_batch([ROWS[row] for row in rows])), budget)
    assert together is not None
    assert together.keep.equal(torch.cat([alone[row].keep for row in rows]))
    if together.embeds is not None:
        parts: list[Tensor] = [
            ROWS[row].embeds[alone[row].keep] if alone[row].embeds is None else alone[row].embeds for row in rows
        ]
        torch.testing.assert_close(together.embeds, torch.cat(parts), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", GUIDED)
def test_a_method_that_needs_visual_anchors_says_so(name: str) -> None:
    for stream in (LONG, BATCH):
        with pytest.raises(CompressorError, match=r"audio without video: choose resift without a selector"):
            made(name, BUDGETS[0])(stream)
    # One token is kept in any case.
    assert made(name, BUDGETS[0])(streamed(audio_prompt(1))).keep.all()


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("timed", [False, True])
def test_a_selector_that_reads_audio_chooses_without_video(guide: str, timed: bool) -> None:
    torch.manual_seed(0)
    config = VGASConfig(input_size=16, hidden_size=16, num_attention_heads=2, guide=guide, time_embedding=timed)
    method = OmniSiftCompressor(BUDGETS[0], VGAS(config)).eval()
    if guide in ("cross", "direct"):
        with pytest.raises(CompressorError, match="audio without video"):
            method(LONG)
        return
    with torch.no_grad():
        together = method(BATCH)
        check_counts("omnisift", BATCH, together.keep, BUDGETS[0])
        assert together.keep.equal(torch.cat([method(streamed(row)).keep for row in ROWS]))
    trained = method.train()(LONG)
    assert trained.gate is not None
    assert int(trained.keep.sum()) < len(LONG)
