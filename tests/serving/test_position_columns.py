"""Positions that travel with embeddings: exact in every dtype, whole or in parts."""

from __future__ import annotations

import pytest
import torch

from omnisift.errors import UnsupportedCall
from omnisift.serving.clip_layout import ClipLayout, Clock
from omnisift.serving.position_columns import PositionColumns, attach_columns, detach_columns
from omnisift.serving.vllm.positions import Piece, laid_out, offset_of, runs, written


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_numbers_survive(dtype: torch.dtype) -> None:
    position = torch.tensor([[0, 255, 256, 70_001], [1, 2, 257, 4], [9, 1023, 3, 16_777_215]])
    embeds = torch.randn(4, 8).to(dtype)
    rows, places = detach_columns(attach_columns(embeds, position), 8)
    assert places is not None
    assert torch.equal(rows, embeds)
    assert torch.equal(places.position, position)
    assert (places.first, places.total) == (0, 4)


def test_a_part_says_where_it_belongs() -> None:
    whole = attach_columns(torch.zeros(300, 4), torch.arange(300).expand(3, -1))
    _, places = detach_columns(whole[260:290], 4)
    assert places is not None
    assert (places.first, places.total) == (260, 300)
    assert places.position[0].tolist() == list(range(260, 290))


def test_rows_without_places() -> None:
    assert detach_columns(torch.zeros(2, 4), 4)[1] is None


VIDEO, SOUND, WORD = 1, 2, 9
CLIP = ClipLayout.of((2, 1, 2), 1.0, 20, Clock())


def clip_prompt() -> tuple[torch.Tensor, torch.Tensor]:
    """Two words, a mark, five kept tokens, a mark, the end of the video, two words."""
    ids = torch.tensor([WORD, WORD, WORD, VIDEO, VIDEO, SOUND, SOUND, SOUND, WORD, WORD, WORD, WORD])
    return ids, laid_out(len(ids), [Piece(2, 7, span=CLIP)])


def test_text_behind_a_clip_keeps_its_position() -> None:
    _, position = clip_prompt()
    assert position[0, :3].tolist() == [0, 1, 1], "the mark of the sound stands with the mark before it"
    assert position[0, 8:].tolist() == [2 + CLIP.end, 2 + CLIP.end, 3 + CLIP.end, 4 + CLIP.end]


def test_new_tokens_go_on_behind_the_last() -> None:
    """Though the picture reaches to 27, its second frame."""
    ids, position = clip_prompt()
    assert int(position[0, -1]) == 24
    assert len(ids) + offset_of(position) == 25


def test_writing_in_parts_and_twice() -> None:
    ids, position = clip_prompt()
    local = torch.tensor([[0, 25, 3, 7, 19], [0, 0, 3, 7, 19], [1, 1, 3, 7, 19]])
    where = runs(ids, (VIDEO, SOUND))
    assert where == [(3, 8)]
    whole = written(position, [PositionColumns(local, 0, 5)], where)
    assert torch.equal(whole[:, 3:8], local + 2)
    parts = written(position, [PositionColumns(local[:, 2:], 2, 5)], where)
    assert torch.equal(written(parts, [None, PositionColumns(local[:, :3], 0, 5)], where), whole)
    assert torch.equal(written(whole, [PositionColumns(local, 0, 5)], where), whole)


def test_the_second_of_two_clips() -> None:
    """Behind a cached prefix only the later clip is read; a run of another length is none of its."""
    position = torch.arange(10).expand(3, -1)
    local = torch.tensor([[5, 6]]).expand(3, -1)
    found = written(position, [PositionColumns(local, 0, 2)], [(1, 4), (6, 8)])
    assert found[0].tolist() == [0, 1, 2, 3, 4, 5, 11, 12, 8, 9]


def test_no_place_is_an_error() -> None:
    with pytest.raises(UnsupportedCall, match="no place of 4 tokens"):
        written(torch.zeros(3, 5), [PositionColumns(torch.zeros(3, 4), 0, 4)], [(1, 3)])
