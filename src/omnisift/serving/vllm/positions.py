"""M-RoPE positions of a whole request: Transformers' rule, for prompts whose videos are already short.

Text behind a video keeps the position that it has in the uncompressed prompt, as the released code does, so all but the
positions of the kept tokens themselves is known before any encoder runs. Those are written later (`written`), from what
their embeddings carry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.errors import UnsupportedCall
from omnisift.serving.clip_layout import ClipLayout
from omnisift.serving.position_columns import PositionColumns


@dataclass(frozen=True)
class Piece:
    """A media item in a prompt: where its tokens lie, and what it is."""

    start: int
    length: int
    span: ClipLayout | None = None
    """Of a video; then ``length`` counts the marks around a sound too."""
    local: Tensor | None = None
    """[3, length] of an image or a plain sound, counted from its own start."""


def laid_out(length: int, pieces: Iterable[Piece]) -> Tensor:
    """[3, length] positions of a prompt. Kept tokens of videos stand at the start of their span until `written`."""
    position = torch.zeros(3, length, dtype=torch.int64)
    done = following = 0
    for piece in sorted(pieces, key=lambda piece: piece.start):
        following = _text(position, done, piece.start, following)
        if piece.span is None:
            assert piece.local is not None
            position[:, piece.start : piece.start + piece.length] = piece.local + following
            done, following = piece.start + piece.length, following + int(piece.local.max()) + 1
            continue
        done, following = _clip(position, piece, piece.span, following)
    _text(position, done, length, following)
    return position


def offset_of(position: Tensor) -> int:
    """What the engine adds to the number of a new token to get its position, for a prompt with ``position`` [3, S].

    New tokens go on behind the last token, as in ``generate`` of Transformers 5, even where a picture reaches further.
    """
    return int(position[:, -1].max()) + 1 - position.shape[1]


def _text(position: Tensor, start: int, stop: int, following: int) -> int:
    position[:, start:stop] = torch.arange(stop - start) + following
    return following + stop - start


def _clip(position: Tensor, piece: Piece, span: ClipLayout, following: int) -> tuple[int, int]:
    """Write a clip: how far the prompt is done, and the position of what follows."""
    stop = piece.start + piece.length
    if not span.has_sound:
        position[:, piece.start : stop] = following
        return stop, following + span.end
    # The mark of the sound stands at the same position as the mark of the video around it; so do both ends.
    position[:, piece.start] = following - 1
    position[:, piece.start + 1 : stop - 1] = following
    after = following + span.end
    position[:, stop - 1 : stop + 1] = after
    return min(stop + 1, position.shape[1]), after + 1


def local_grid(grid: Sequence[int], ids_per_second: int) -> Tensor:
    """[3, T * H * W] of an image with ``grid`` tokens, counted from its start; a second lies between its frames."""
    time, row, column = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    return torch.stack([time * ids_per_second, row, column]).reshape(3, -1)


def runs(ids: Tensor, labels: Sequence[int]) -> list[tuple[int, int]]:
    """[start, stop) of each unbroken row of media tokens in a prompt."""
    inside = torch.zeros(len(ids) + 2, dtype=torch.bool)
    inside[1:-1] = torch.isin(ids, torch.tensor(labels))
    edges = (inside[1:] != inside[:-1]).nonzero().flatten().view(-1, 2)
    return [(int(start), int(stop)) for start, stop in edges]


def written(position: Tensor, found: Sequence[PositionColumns | None], where: Sequence[tuple[int, int]]) -> Tensor:
    """``position`` [3, S] with the kept tokens of the clips that ``found`` tells of.

    ``found`` has one entry for each media item that is being read, None for those that are no clips, in prompt order;
    ``where`` are the `runs` of the prompt that are not read yet, or not wholly.
    """
    result = position.clone()
    waiting = iter(where)
    for places in found:
        if places is None:
            continue
        start = next((start for start, stop in waiting if stop - start == places.total), None)
        if start is None:
            raise UnsupportedCall(
                f"no place of {places.total} tokens in the prompt for a video: keep a token between media items"
            )
        first = start + places.first
        base = result[:, start - 1 : start] + 1
        result[:, first : first + places.position.shape[1]] = places.position.to(result.device) + base
    return result
