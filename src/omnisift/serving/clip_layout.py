"""One clip in a prompt, from its dimensions alone: the order of its tokens, their rotary ids, and how many will stay.

A serving engine lays out a prompt before any encoder runs, so everything here follows from the size of the token grid
and the length of the sound. It restates Transformers' rule for Qwen2.5-Omni (``get_rope_index`` with
``use_audio_in_video``), which needs a whole prompt and a model; a test holds the two together. Chunks and counts come
from `omnisift.chunks` and `omnisift.budget`, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes, build_stream
from omnisift.tokens import Modality, TokenStream


@dataclass(frozen=True)
class Clock:
    """How a model family counts time."""

    ids_per_second: int = 25
    """Temporal rotary ids of a second."""
    seconds_per_turn: float = 2.0
    """Picture and sound take turns in the prompt after so many seconds (``seconds_per_chunk`` of the host)."""


@dataclass(frozen=True)
class ClipLayout:
    """The tokens of one clip in prompt order. ``N`` counts all of them, before anything is dropped."""

    order: Tensor
    """[N] int64: row of ``cat([video, audio])`` at each place."""
    modality: Tensor
    """[N] int8, `Modality`."""
    position: Tensor
    """[3, N] int64 rotary ids, counted from the span's start."""
    end: int
    """Rotary id of what follows the span, counted from its start."""
    seconds_per_id: float

    @classmethod
    def of(cls, grid: tuple[int, int, int], seconds_per_grid: float, audio: int, clock: Clock) -> ClipLayout:
        """The span of a clip.

        ``grid`` is (frames, rows, columns) of tokens; a frame lasts ``seconds_per_grid``; ``audio`` tokens of sound,
        0 for a clip without. The result is shared: never write into it.
        """
        return _span(grid, float(seconds_per_grid), audio, clock)

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def has_sound(self) -> bool:
        """Whether sound is interleaved with the picture."""
        return bool((self.modality == Modality.AUDIO).any())

    @cached_property
    def shapes(self) -> ChunkShapes:
        """Token counts of the chunks, for a budget."""
        return ChunkShapes.of(self.stream(torch.empty(len(self), 0)))

    def stream(self, embeds: Tensor) -> TokenStream:
        """The clip as a compressor sees it; ``embeds`` [N, D] in prompt order."""
        return build_stream(
            embeds=embeds,
            modality=self.modality,
            position=self.position,
            sample=torch.zeros(len(self), dtype=torch.int64),
            seconds_per_position=self.seconds_per_id,
        )

    def counts(self, budget: Budget) -> Counts:
        """Kept tokens of every chunk."""
        return budget.counts(self.shapes)

    def kept(self, budget: Budget) -> list[Modality]:
        """Modality of the tokens that stay, chunk by chunk. Its length is certain; the order is that of most prompts.

        Which tokens stay is not known yet, so where a method ranks over a whole clip, a label may stand at a token of
        the other modality. Labels are overwritten by embeddings; nothing else reads them.
        """
        counts = self.counts(budget)
        labels: list[Modality] = []
        for video, audio in zip((counts.frame0 + counts.frame1).tolist(), counts.audio.tolist(), strict=True):
            labels += [Modality.VIDEO] * video + [Modality.AUDIO] * audio
        return labels


@lru_cache(maxsize=256)
def _span(grid: tuple[int, int, int], seconds_per_grid: float, audio: int, clock: Clock) -> ClipLayout:
    frames, rows, columns = grid
    area = rows * columns
    # In float32 and in this order, as the host does: the truncation to whole ids must agree.
    temporal = (torch.arange(frames) * torch.tensor(seconds_per_grid) * clock.ids_per_second).long()
    picture = torch.stack(
        [
            temporal.repeat_interleave(area),
            torch.arange(rows).repeat_interleave(columns).repeat(frames),
            torch.arange(columns).repeat(frames * rows),
        ]
    )
    sound = torch.arange(audio).expand(3, audio)
    step = int(clock.ids_per_second * clock.seconds_per_turn)
    pieces = _alternate(
        _turns(temporal.tolist(), area, step), _turns(range(audio), 1, step) if audio else [], frames * area
    )
    order = torch.cat(pieces)
    position = torch.cat([picture, sound], dim=1)
    modality = torch.full((len(order),), int(Modality.VIDEO), dtype=torch.int8)
    modality[order >= frames * area] = int(Modality.AUDIO)
    # Text goes on behind the last turn, wherever the others reach.
    end = int(position[:, pieces[-1]].max()) + 1
    return ClipLayout(order, modality, position[:, order], end, 1.0 / clock.ids_per_second)


def _turns(ids: Sequence[int], repeat: int, step: int) -> list[tuple[int, int]]:
    """Cut tokens (``repeat`` for each of ``ids``) into turns: [start, stop) each.

    A token opens a turn when its id reaches the next multiple of ``step``; every token opens at most one, so after a
    jump over several multiples the tokens of one frame open several. So the host does it.
    """
    edges, due = [0], 1
    for index, value in enumerate(ids):
        for place in range(repeat):
            if value < due * step:
                break
            edges.append(index * repeat + place)
            due += 1
    edges.append(len(ids) * repeat)
    return list(pairwise(edges))


def _alternate(picture: list[tuple[int, int]], sound: list[tuple[int, int]], behind: int) -> list[Tensor]:
    """Turns of picture and sound one after the other; rows of the sound lie behind those of the picture."""
    pieces = []
    for turn in range(max(len(picture), len(sound))):
        if turn < len(picture):
            pieces.append(torch.arange(*picture[turn]))
        if turn < len(sound):
            pieces.append(torch.arange(*sound[turn]) + behind)
    return pieces
