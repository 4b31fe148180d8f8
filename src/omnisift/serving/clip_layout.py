"""Layout of one clip in a prompt, from its dimensions alone: token order, rotary ids, and the number of kept tokens.

A serving engine lays out a prompt before any encoder runs, so all of this follows from the size of the token grid and
the length of the audio. It implements Transformers' rule for Qwen2.5-Omni (``get_rope_index`` with
``use_audio_in_video``), which needs a complete prompt and a model; a test compares the two.
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
class TimeConfig:
    """How a model family maps time to rotary ids, in the names of Transformers' configuration."""

    position_id_per_seconds: int = 25
    """Temporal rotary ids per second."""
    seconds_per_chunk: float = 2.0
    """Video and audio alternate in the prompt in sections of this length."""


@dataclass(frozen=True)
class ClipLayout:
    """The tokens of one clip in prompt order. ``N`` counts all of them, before compression."""

    order: Tensor
    """[N] int64: for each prompt token its row in ``cat([video, audio])``."""
    modality: Tensor
    """[N] int8, values of `Modality`."""
    position_ids: Tensor
    """[3, N] int64 rotary ids, relative to the start of the clip."""
    end: int
    """Rotary id of the first token after the clip, relative to the start of the clip."""
    seconds_per_id: float

    @classmethod
    def of(
        cls, grid: tuple[int, int, int], seconds_per_grid: float, audio_tokens: int, time_config: TimeConfig
    ) -> ClipLayout:
        """Return the layout of a clip.

        Args:
            grid: (frames, rows, columns) of video tokens.
            seconds_per_grid: duration of a frame of the grid.
            audio_tokens: number of audio tokens; 0 for a clip without audio.
            time_config: the model's time settings.

        Returns:
            The layout; it is cached and shared, so its tensors must not be changed.
        """
        return _layout(grid, float(seconds_per_grid), audio_tokens, time_config)

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def has_audio(self) -> bool:
        """Whether the clip has audio tokens."""
        return bool((self.modality == Modality.AUDIO).any())

    @cached_property
    def shapes(self) -> ChunkShapes:
        """Token counts of the chunks, for a budget."""
        return ChunkShapes.of(self.stream(torch.empty(len(self), 0)))

    @property
    def tokens_in_chunks(self) -> int:
        """Number of tokens that a budget counts: all but audio before the first frame."""
        return int((self.shapes.frame0 + self.shapes.frame1 + self.shapes.audio).sum())

    def stream(self, embeds: Tensor) -> TokenStream:
        """Return the clip as the input of a compressor.

        Args:
            embeds: [N, D] in prompt order.
        """
        return build_stream(
            embeds=embeds,
            modality=self.modality,
            position=self.position_ids,
            sample=torch.zeros(len(self), dtype=torch.int64),
            seconds_per_position=self.seconds_per_id,
        )

    def counts(self, budget: Budget) -> Counts:
        """Return the number of tokens that each chunk keeps."""
        return budget.counts(self.shapes)

    def kept_labels(self, budget: Budget) -> list[Modality]:
        """Return the modality of each kept token, chunk by chunk.

        The length is exact. The order is a guess, because the selection is not known yet: where a method ranks over
        the entire clip, a label may differ from the token at its place. Labels are overwritten by embeddings, and
        nothing else reads them.
        """
        counts = self.counts(budget)
        labels: list[Modality] = []
        for video, audio in zip((counts.frame0 + counts.frame1).tolist(), counts.audio.tolist(), strict=True):
            labels += [Modality.VIDEO] * video + [Modality.AUDIO] * audio
        return labels


@lru_cache(maxsize=256)
def _layout(
    grid: tuple[int, int, int], seconds_per_grid: float, audio_tokens: int, time_config: TimeConfig
) -> ClipLayout:
    frames, rows, columns = grid
    frame_size = rows * columns
    # Rotary ids of the video tokens: time, row, column. Time is computed in float32 and in this order, as the host
    # does, so that the truncation to integers agrees.
    temporal = (torch.arange(frames) * torch.tensor(seconds_per_grid) * time_config.position_id_per_seconds).long()
    video_ids = torch.stack(
        [
            temporal.repeat_interleave(frame_size),
            torch.arange(rows).repeat_interleave(columns).repeat(frames),
            torch.arange(columns).repeat(frames * rows),
        ]
    )
    # Audio tokens count up, with the same id on all three axes.
    audio_ids = torch.arange(audio_tokens).expand(3, audio_tokens)
    # Cut both into sections of seconds_per_chunk and let them alternate, video first.
    step = int(time_config.position_id_per_seconds * time_config.seconds_per_chunk)
    video_sections = _sections(temporal.tolist(), frame_size, step)
    audio_sections = _sections(range(audio_tokens), 1, step) if audio_tokens else []
    pieces = _interleave(video_sections, audio_sections, frames * frame_size)
    order = torch.cat(pieces)
    position_ids = torch.cat([video_ids, audio_ids], dim=1)
    modality = torch.full((len(order),), int(Modality.VIDEO), dtype=torch.int8)
    modality[order >= frames * frame_size] = int(Modality.AUDIO)
    # The text continues after the last section, even where an earlier one has larger ids.
    end = int(position_ids[:, pieces[-1]].max()) + 1
    return ClipLayout(order, modality, position_ids[:, order], end, 1.0 / time_config.position_id_per_seconds)


def _sections(ids: Sequence[int], repeat: int, step: int) -> list[tuple[int, int]]:
    """Cut tokens (``repeat`` for each of ``ids``) into sections, [start, stop) each.

    A token starts a section when its id reaches the next multiple of ``step``. Each token starts at most one, so after
    a jump over several multiples the tokens of one frame start several, as in the host.
    """
    edges, next_multiple = [0], 1
    for index, value in enumerate(ids):
        for offset in range(repeat):
            if value < next_multiple * step:
                break
            edges.append(index * repeat + offset)
            next_multiple += 1
    edges.append(len(ids) * repeat)
    return list(pairwise(edges))


def _interleave(video: list[tuple[int, int]], audio: list[tuple[int, int]], audio_start: int) -> list[Tensor]:
    """Alternate sections of video and audio; rows of audio begin at ``audio_start``."""
    pieces = []
    for section in range(max(len(video), len(audio))):
        if section < len(video):
            pieces.append(torch.arange(*video[section]))
        if section < len(audio):
            pieces.append(torch.arange(*audio[section]) + audio_start)
    return pieces
