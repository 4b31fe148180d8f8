"""Layout of one clip in a prompt, from its dimensions alone: token order, rotary ids, and the number of kept tokens.

A serving engine lays out a prompt before any encoder runs, so all of this follows from the size of the token grid and
the length of the audio. It implements Transformers' rules for Qwen2.5-Omni and Qwen3-Omni (``get_rope_index`` with
``use_audio_in_video``), which need a complete prompt and a model; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import MICROSECONDS, ChunkShapes
from omnisift.models.layout import Layout, Places, audio_in_runs, lay_out
from omnisift.models.qwen2_5_omni import audio_tokens as pooled_audio_tokens
from omnisift.tokens import Modality, TokenStream

PARTS = 4096
"""Parts of a rotary id in families whose ids are fractions. Transformers' float32 has no finer ones from 2,048 on."""


@dataclass(frozen=True)
class TimeConfig:
    """How a model family maps time to rotary ids, in the names of Transformers' configuration."""

    position_id_per_seconds: int = 25
    """Temporal rotary ids per second."""
    seconds_per_chunk: float | None = 2.0
    """Video and audio alternate in the prompt in sections of this length, and a frame has a whole rotary id
    (Qwen2.5-Omni). None: tokens lie in the order of time, and the id of a frame may be a fraction (Qwen3-Omni)."""

    @classmethod
    def of(cls, config: Any) -> TimeConfig:
        """Read the settings from a thinker's configuration."""
        by_turns = str(config.model_type).startswith("qwen2_5_omni")
        return cls(int(config.position_id_per_seconds), float(config.seconds_per_chunk) if by_turns else None)

    @property
    def parts(self) -> int:
        """In how many parts a rotary id is counted."""
        return PARTS if self.seconds_per_chunk is None else 1

    def audio_tokens(self, mel_frames: int) -> int:
        """Return the number of tokens for a spectrogram of ``mel_frames``, 100 a second."""
        if self.seconds_per_chunk is not None:
            return pooled_audio_tokens(mel_frames)
        # Qwen3-Omni encodes each second alone, to 13 tokens; of the rest, eight frames make a token.
        seconds, rest = divmod(mel_frames, 100)
        return 13 * seconds + -(-rest // 8)


@dataclass(frozen=True)
class ClipLayout:
    """The tokens of one clip in prompt order. ``N`` counts all of them, before compression."""

    order: Tensor
    """[N] int64: for each prompt token its row in ``cat([video, audio])``."""
    position_ids: Tensor
    """[3, N] int64: rotary ids relative to the start of the clip, in 1/``parts``."""
    end: int
    """Rotary id of the first token after the clip, relative to the start of the clip, in 1/``parts``."""
    parts: int
    """In how many parts an id is counted: 1 in families whose ids are whole numbers."""
    places: Layout
    """Time and place of the tokens, as compressors read them."""

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

    @classmethod
    def of_patches(cls, config: Any, grid: Sequence[int], seconds: float, mel_frames: int) -> ClipLayout:
        """Return the layout of a clip from the dimensions of its encoders' inputs.

        Args:
            config: the thinker's configuration.
            grid: (frames, rows, columns) of patches.
            seconds: duration of a frame of the grid.
            mel_frames: length of the audio; 0 without audio.
        """
        merge = config.vision_config.spatial_merge_size
        time_config = TimeConfig.of(config)
        frames, rows, columns = grid
        tokens = (frames, rows // merge, columns // merge)
        return cls.of(tokens, seconds, time_config.audio_tokens(mel_frames), time_config)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def modality(self) -> Tensor:
        """[N] int8, values of `Modality`."""
        return self.places.modality[0]

    @property
    def marks_share_ids(self) -> bool:
        """Whether the marks of the audio have the rotary ids of those of the video (Qwen2.5-Omni) or their own."""
        return self.parts == 1

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
        return self.places.stream(embeds[None])

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
    frame_size, rate = rows * columns, time_config.position_id_per_seconds
    by_turns = time_config.seconds_per_chunk is not None
    # Time is computed in float32 and in this order, as the host does, so that truncation and rounding agree.
    seconds = torch.tensor(seconds_per_grid, dtype=torch.float32)
    temporal = torch.arange(frames) * seconds * rate
    # Rotary ids of the video tokens: time, row, column. Audio tokens count up, with the same id on all three axes.
    ids = (temporal.double() * time_config.parts).round().long() if not by_turns else temporal.long()
    whole = torch.stack([torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)])
    video_ids = torch.cat([ids.repeat_interleave(frame_size)[None], whole.repeat(1, frames) * time_config.parts])
    audio_ids = (torch.arange(audio_tokens) * time_config.parts).expand(3, audio_tokens)
    position_ids = torch.cat([video_ids, audio_ids], dim=1)
    # Token order, and when a frame is, in microseconds, as the family's adapter computes it.
    if time_config.seconds_per_chunk is not None:
        step = int(rate * time_config.seconds_per_chunk)
        pieces = _by_turns(ids, frame_size, audio_tokens, step)
        frame_time = (ids * (MICROSECONDS / rate)).round().long()
    else:
        pieces = _by_time(torch.arange(frames).double() * seconds_per_grid * rate, frame_size, audio_tokens)
        frame_time = (torch.arange(frames) * seconds.double() * MICROSECONDS).round().long()
    order = torch.cat(pieces)
    # The text continues after the last piece, even where an earlier one has larger ids.
    end = int(position_ids[:, pieces[-1]].max()) + time_config.parts
    modality = torch.where(order < frames * frame_size, int(Modality.VIDEO), int(Modality.AUDIO)).to(torch.int8)
    places = Places.in_grids(frames * frame_size, torch.tensor([grid]))
    owner = audio_in_runs(modality[None], places)
    layout = lay_out(modality[None], places, frame_time[places.frame], owner, MICROSECONDS / float(rate))
    return ClipLayout(order, position_ids[:, order], end, time_config.parts, layout)


def _by_time(frame_ids: Tensor, frame_size: int, audio_tokens: int) -> list[Tensor]:
    """Sort tokens by their rotary id, video first among equals.

    Ids are compared in float64, as the host's processor does; its ``get_rope_index`` sorts the positions once more in
    float32, and they can differ by rounding.

    Args:
        frame_ids: [frames] float64.
        frame_size: tokens of a frame.
        audio_tokens: their number.

    Returns:
        Rows of ``cat([video, audio])`` in two pieces: the second is the last run of one modality.
    """
    ids = torch.cat([frame_ids.repeat_interleave(frame_size), torch.arange(audio_tokens).double()])
    order = torch.argsort(ids, stable=True)
    is_audio = order >= len(frame_ids) * frame_size
    others = (is_audio != is_audio[-1]).nonzero()
    last = int(others[-1]) + 1 if len(others) else 0
    return [order[:last], order[last:]]


def _by_turns(temporal: Tensor, frame_size: int, audio_tokens: int, step: int) -> list[Tensor]:
    """Cut video and audio into sections of ``step`` ids and let them alternate, video first.

    Args:
        temporal: [frames] int64 rotary ids.
        frame_size: tokens of a frame.
        audio_tokens: their number.
        step: rotary ids of a section.

    Returns:
        The sections, as rows of ``cat([video, audio])``.
    """
    video_sections = _sections(temporal.tolist(), frame_size, step)
    audio_sections = _sections(range(audio_tokens), 1, step) if audio_tokens else []
    return _interleave(video_sections, audio_sections, len(temporal) * frame_size)


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
