"""Streams with inconsistent shapes are refused; streams and selections have a repr of one line."""

from __future__ import annotations

import pytest
import torch

from omnisift.tokens import Modality, Selection, TokenStream


def fields(length: int) -> dict[str, torch.Tensor]:
    complete = torch.zeros(length, dtype=torch.int64)
    return {
        "embeds": torch.zeros(length, 4),
        "modality": torch.full((length,), int(Modality.TEXT), dtype=torch.int8),
        "position": torch.zeros(3, length, dtype=torch.int64),
        "time": torch.zeros(length),
        "chunk": complete - 1,
        "frame": complete - 1,
        "clip": complete - 1,
        "sample": complete,
    }


def test_a_stream_knows_its_length_and_width() -> None:
    stream = TokenStream(**fields(5))
    assert (len(stream), stream.width) == (5, 4)


@pytest.mark.parametrize("name", ["modality", "position", "time", "chunk", "frame", "clip", "sample"])
def test_a_field_of_another_length_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        TokenStream(**(fields(5) | {name: fields(6)[name]}))


def test_indices_are_the_kept_tokens_in_order() -> None:
    selection = Selection(keep=torch.tensor([True, False, True, True]))
    assert selection.indices.tolist() == [0, 2, 3]


def test_a_repr_is_one_short_line_without_tensors() -> None:
    stream = TokenStream(**fields(5), extras={"video_attention": torch.zeros(5)})
    assert repr(stream) == "TokenStream(5 tokens: 0 video, 0 audio, extras=['video_attention'])"
    keep = torch.tensor([True, False, True])
    assert repr(Selection(keep)) == "Selection(2 of 3 tokens kept)"
    assert repr(Selection(keep, scores=torch.zeros(3), embeds=torch.zeros(2, 4))).endswith("kept, scores, embeds)")
