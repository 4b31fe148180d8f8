"""M-RoPE positions of a request by Transformers' rules, for prompts whose videos are already compressed.

Text after a video keeps the position that it has in the uncompressed prompt, as in the released code. So all positions
except those of the kept tokens are known before any encoder runs. `write_kept_positions` writes the others later, from
the columns of their embeddings (`omnisift.serving.position_columns`).

All numbers here count ``parts`` of a rotary id (`ClipLayout.parts`); `omnisift.serving.vllm.fractions` converts them
to what the engine stores.
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
class MediaSpan:
    """The placeholder of a media item in a prompt: a video with ``layout``, or another item with ``position_ids``."""

    start: int
    length: int
    """Number of placeholder tokens; of a video with audio, including the tokens that mark the audio."""
    layout: ClipLayout | None = None
    position_ids: Tensor | None = None
    """[3, length] of an image or a plain audio item, relative to its start."""


def prompt_positions(length: int, spans: Iterable[MediaSpan], parts: int = 1) -> Tensor:
    """Return the positions of a prompt, as far as they are known before the encoders run.

    Args:
        length: number of prompt tokens, S.
        spans: its media items.
        parts: in how many parts an id is counted.

    Returns:
        [3, S] int64. The kept tokens of a video have the position of its start until `write_kept_positions`.
    """
    positions = torch.zeros(3, length, dtype=torch.int64)
    done = next_id = 0
    for span in sorted(spans, key=lambda span: span.start):
        # Text before the item counts up.
        next_id = _write_text(positions, done, span.start, next_id, parts)
        if span.layout is not None:
            done, next_id = _write_clip(positions, span, span.layout, next_id)
            continue
        # Images and plain audio bring their own ids; what follows continues after the largest.
        assert span.position_ids is not None
        done = span.start + span.length
        positions[:, span.start : done] = span.position_ids + next_id
        next_id += int(span.position_ids.max()) + parts
    _write_text(positions, done, length, next_id, parts)
    return positions


def _write_text(positions: Tensor, start: int, stop: int, next_id: int, parts: int) -> int:
    positions[:, start:stop] = torch.arange(stop - start) * parts + next_id
    return next_id + (stop - start) * parts


def _write_clip(positions: Tensor, span: MediaSpan, layout: ClipLayout, next_id: int) -> tuple[int, int]:
    """Write the positions of a video; returns the end of what is written, and the next id."""
    stop = span.start + span.length
    if not layout.has_audio:
        positions[:, span.start : stop] = next_id
        return stop, next_id + layout.end
    parts = layout.parts
    if not layout.marks_share_ids:
        next_id = _write_text(positions, span.start, span.start + 1, next_id, parts)
        positions[:, span.start + 1 : stop - 1] = next_id
        return stop, _write_text(positions, stop - 1, stop, next_id + layout.end, parts)
    # The token that opens the audio has the position of the one that opens the video, and so have the closing tokens.
    positions[:, span.start] = next_id - parts
    positions[:, span.start + 1 : stop - 1] = next_id
    closing = next_id + layout.end
    positions[:, stop - 1 : stop + 1] = closing
    return min(stop + 1, positions.shape[1]), closing + parts


def image_positions(grid: Sequence[int], position_id_per_seconds: int, parts: int = 1) -> Tensor:
    """Return the positions of an image, relative to its start.

    Args:
        grid: (T, H, W) tokens; frames are one second apart.
        position_id_per_seconds: temporal rotary ids per second.
        parts: in how many parts an id is counted.

    Returns:
        [3, T * H * W] int64.
    """
    time, row, column = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    return torch.stack([time * position_id_per_seconds, row, column]).reshape(3, -1) * parts


def media_runs(input_ids: Tensor, labels: Sequence[int]) -> list[tuple[int, int]]:
    """Return [start, stop) of each run of consecutive media tokens.

    Args:
        input_ids: [S] of a prompt.
        labels: ids of the media tokens.
    """
    inside = torch.zeros(len(input_ids) + 2, dtype=torch.bool)
    inside[1:-1] = torch.isin(input_ids, torch.tensor(labels))
    edges = (inside[1:] != inside[:-1]).nonzero().flatten().view(-1, 2)
    return [(int(start), int(stop)) for start, stop in edges]


def write_kept_positions(
    positions: Tensor, columns: Sequence[PositionColumns | None], runs: Sequence[tuple[int, int]], parts: int = 1
) -> Tensor:
    """Write the positions of the kept tokens of videos.

    Args:
        positions: [3, S] of the prompt.
        columns: one entry per media item that is being read, in prompt order; None for an item that is not a video.
        runs: the `media_runs` of the prompt that are not completely read yet.
        parts: in how many parts an id is counted.

    Returns:
        A copy of ``positions`` with these positions.

    Raises:
        UnsupportedCall: no run has the length of a video.
    """
    result = positions.clone()
    remaining = iter(runs)
    for clip in columns:
        if clip is None:
            continue
        # The clip's run is the next one of its length.
        start = next((start for start, stop in remaining if stop - start == clip.total), None)
        if start is None:
            raise UnsupportedCall(
                f"no place for a video of {clip.total} tokens in the prompt; keep a token between media items"
            )
        # Ids are relative to the token before the run.
        first = start + clip.first
        base = result[:, start - 1 : start] + parts
        result[:, first : first + clip.position_ids.shape[1]] = clip.position_ids.to(result.device) + base
    return result
