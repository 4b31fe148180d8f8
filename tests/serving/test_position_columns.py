"""Positions in columns of the embeddings: exact in every dtype, complete or in parts."""

from __future__ import annotations

import pytest
import torch

from omnisift.errors import UnsupportedCall
from omnisift.serving.clip_layout import ClipLayout, TimeConfig
from omnisift.serving.position_columns import PositionColumns, attach_columns, detach_columns
from omnisift.serving.vllm.fractions import position_delta
from omnisift.serving.vllm.positions import MediaSpan, media_runs, prompt_positions, write_kept_positions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_numbers_survive(dtype: torch.dtype) -> None:
    position = torch.tensor([[0, 255, 256, 70_001], [1, 2, 257, 4], [9, 1023, 3, 16_777_215]])
    embeds = torch.randn(4, 8).to(dtype)
    rows, columns = detach_columns(attach_columns(embeds, position), 8)
    assert columns is not None
    assert torch.equal(rows, embeds)
    assert torch.equal(columns.position_ids, position)
    assert (columns.first, columns.total) == (0, 4)


def test_a_part_says_where_it_belongs() -> None:
    complete = attach_columns(torch.zeros(300, 4), torch.arange(300).expand(3, -1))
    _, columns = detach_columns(complete[260:290], 4)
    assert columns is not None
    assert (columns.first, columns.total) == (260, 300)
    assert columns.position_ids[0].tolist() == list(range(260, 290))


def test_rows_without_columns() -> None:
    assert detach_columns(torch.zeros(2, 4), 4)[1] is None


VIDEO, AUDIO, WORD = 1, 2, 9
CLIP = ClipLayout.of((2, 1, 2), 1.0, 20, TimeConfig())


def clip_prompt() -> tuple[torch.Tensor, torch.Tensor]:
    """Two words, a mark, five kept tokens, a mark, the end of the video, two words."""
    ids = torch.tensor([WORD, WORD, WORD, VIDEO, VIDEO, AUDIO, AUDIO, AUDIO, WORD, WORD, WORD, WORD])
    return ids, prompt_positions(len(ids), [MediaSpan(2, 7, layout=CLIP)])


def test_text_after_a_clip_keeps_its_position() -> None:
    _, position = clip_prompt()
    assert position[0, :3].tolist() == [0, 1, 1], "the mark of the audio has the position of the mark before it"
    assert position[0, 8:].tolist() == [2 + CLIP.end, 2 + CLIP.end, 3 + CLIP.end, 4 + CLIP.end]


def test_new_tokens_continue_after_the_last() -> None:
    """Although the second frame of the video reaches to 27."""
    ids, position = clip_prompt()
    assert int(position[0, -1]) == 24
    assert len(ids) + position_delta(position) == 25


def test_writing_in_parts_and_twice() -> None:
    ids, position = clip_prompt()
    local = torch.tensor([[0, 25, 3, 7, 19], [0, 0, 3, 7, 19], [1, 1, 3, 7, 19]])
    runs = media_runs(ids, (VIDEO, AUDIO))
    assert runs == [(3, 8)]
    complete = write_kept_positions(position, [PositionColumns(local, 0, 5)], runs)
    assert torch.equal(complete[:, 3:8], local + 2)
    parts = write_kept_positions(position, [PositionColumns(local[:, 2:], 2, 5)], runs)
    assert torch.equal(write_kept_positions(parts, [None, PositionColumns(local[:, :3], 0, 5)], runs), complete)
    assert torch.equal(write_kept_positions(complete, [PositionColumns(local, 0, 5)], runs), complete)


def test_the_second_of_two_clips() -> None:
    """After a cached prefix only the later clip is read; runs of other lengths are skipped."""
    position = torch.arange(10).expand(3, -1)
    local = torch.tensor([[5, 6]]).expand(3, -1)
    positions = write_kept_positions(position, [PositionColumns(local, 0, 2)], [(1, 4), (6, 8)])
    assert positions[0].tolist() == [0, 1, 2, 3, 4, 5, 11, 12, 8, 9]


def test_a_video_without_a_run_is_an_error() -> None:
    with pytest.raises(UnsupportedCall, match="no place for a video of 4 tokens"):
        write_kept_positions(torch.zeros(3, 5), [PositionColumns(torch.zeros(3, 4), 0, 4)], [(1, 3)])
