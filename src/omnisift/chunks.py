"""The paper's chunk: which tokens form one, and how a ragged stream becomes rectangles and back.

A chunk is two consecutive frames (distinct temporal rotary ids) of one clip and the audio between their start and the
start of the next pair (paper section 3.1; the grouping by *pairs of ids* instead of two seconds is what the released
code does). Everything here is integer work on the CPU: it depends on shapes and positions, never on values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.tokens import Modality, TokenStream

FRAME0, FRAME1, AUDIO = 0, 1, 2
"""The three segments of a chunk: each is cut on its own, to its own count."""


@dataclass(frozen=True)
class ChunkShapes:
    """How many tokens each chunk has: all that a budget may look at."""

    frame0: Tensor
    """[C] int64 on the CPU: video tokens of the first frame, at least 1."""
    frame1: Tensor
    """[C] int64 on the CPU: video tokens of the second frame; 0 for the odd last frame of a clip."""
    audio: Tensor
    """[C] int64 on the CPU: audio tokens of the chunk."""
    clip: Tensor
    """[C] int64 on the CPU: the clip that the chunk belongs to."""

    @classmethod
    def of(cls, stream: TokenStream) -> ChunkShapes:
        """Count the tokens of every chunk of ``stream``."""
        sizes = segment_sizes(stream)
        inside = stream.chunk >= 0
        clip = torch.zeros(sizes.shape[0], dtype=torch.int64)
        clip[stream.chunk[inside]] = stream.clip[inside]
        return cls(frame0=sizes[:, FRAME0], frame1=sizes[:, FRAME1], audio=sizes[:, AUDIO], clip=clip)

    def __len__(self) -> int:
        return int(self.frame0.shape[0])


def build_stream(
    embeds: Tensor,
    modality: Tensor,
    position: Tensor,
    sample: Tensor,
    seconds_per_position: float,
    extras: Mapping[str, Tensor] | None = None,
) -> TokenStream:
    """Find clips, chunks, frames and times in a flat batch.

    ``modality`` [L] int8 marks *all* placeholder tokens of video and audio. Audio that is not interleaved with a video
    becomes TEXT (left alone). Clips are grouped apart; the released code groups all videos of a prompt together by
    their position ids (a stated deviation). ``seconds_per_position`` is the length of one temporal id (0.04 s for
    Qwen2.5-Omni).
    """
    clip = index_clips(modality, sample)
    modality = torch.where(clip >= 0, modality, int(Modality.TEXT)).to(torch.int8)
    temporal = position[0].to(torch.int64)
    chunk, frame = index_chunks(modality, temporal, clip)
    time = _seconds_in_clip(temporal, clip, seconds_per_position)
    return TokenStream(
        embeds=embeds,
        modality=modality,
        position=position,
        time=time,
        chunk=chunk,
        frame=frame,
        clip=clip,
        sample=sample.to(torch.int64),
        extras={} if extras is None else extras,
    )


def index_clips(modality: Tensor, sample: Tensor) -> Tensor:
    """[L] int64: number of the clip of each token, -1 outside.

    A clip is a maximal run of video and audio tokens of one sample that holds at least one video token: so is a video
    interleaved with its own sound. A run of audio alone is plain audio and no clip.
    """
    media = modality != Modality.TEXT
    starts = media.clone()
    starts[1:] &= ~media[:-1] | (sample[1:] != sample[:-1])
    run = torch.cumsum(starts, dim=0) - 1
    videos = torch.bincount(run[modality == Modality.VIDEO], minlength=int(starts.sum()))
    number = torch.where(videos > 0, torch.cumsum(videos > 0, dim=0) - 1, -1)
    clip = torch.full_like(run, -1)
    clip[media] = number[run[media]]
    return clip


def index_chunks(modality: Tensor, temporal: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    """[L] int64 each: number of the chunk (-1: never dropped), and frame inside it (0, 1; -1 for all but video).

    Audio belongs to the chunk with ``start <= t < start of the next``; the last chunk of a clip takes all that follows,
    and audio before the first frame belongs to none.
    """
    chunk, frame = torch.full_like(clip, -1), torch.full_like(clip, -1)
    video = modality == Modality.VIDEO
    if not bool(video.any()):
        return chunk, frame
    low = int(temporal.min())
    span = int(temporal.max()) - low + 1
    key = clip * span + (temporal - low)  # sorts by clip, then by time
    times, inverse = torch.unique(key[video], return_inverse=True)
    clip_of_time = times // span
    rank = torch.arange(len(times)) - torch.searchsorted(clip_of_time, clip_of_time)
    opens = rank % 2 == 0
    number = torch.cumsum(opens, dim=0) - 1
    chunk[video], frame[video] = number[inverse], (rank % 2)[inverse]

    audio = modality == Modality.AUDIO
    found = torch.searchsorted(times[opens], key[audio], right=True) - 1
    same_clip = (found >= 0) & (clip_of_time[opens][found.clamp(min=0)] == clip[audio])
    chunk[audio] = torch.where(same_clip, found, -1)
    return chunk, frame


def segment_of(stream: TokenStream) -> Tensor:
    """[L] int64 on the CPU: 3 * chunk + (0 first frame, 1 second frame, 2 audio); -1 outside chunks."""
    part = torch.where(stream.modality == Modality.AUDIO, AUDIO, stream.frame)
    return torch.where(stream.chunk >= 0, 3 * stream.chunk + part, -1)


def segment_sizes(stream: TokenStream) -> Tensor:
    """[C, 3] int64 on the CPU: tokens of each segment of each chunk."""
    segment = segment_of(stream)
    chunks = int(stream.chunk.max()) + 1 if len(stream) else 0
    return torch.bincount(segment[segment >= 0], minlength=3 * chunks).view(chunks, 3)


def _seconds_in_clip(temporal: Tensor, clip: Tensor, seconds_per_position: float) -> Tensor:
    """[L] float32: seconds since the first token of the clip; 0 outside clips."""
    inside = clip >= 0
    time = torch.zeros(len(clip), dtype=torch.float32)
    if bool(inside.any()):
        start = torch.full((int(clip.max()) + 1,), torch.iinfo(torch.int64).max)
        start.scatter_reduce_(0, clip[inside], temporal[inside], reduce="amin")
        time[inside] = ((temporal[inside] - start[clip[inside]]).double() * seconds_per_position).float()
    return time


def steps_in_chunk(stream: TokenStream, steps: int = 50, default_length: int = 50) -> Tensor:
    """[L] int64 on the CPU in [0, steps): when in its chunk each token is, in equal parts of the chunk; 0 outside
    chunks.

    In a chunk of two seconds of Qwen2.5-Omni (50 temporal ids) the audio tokens are 0 ... 49 and the frames 0 and 25.
    The length of a clip's last chunk is that of the chunk before it, else twice the distance of its frames, else
    ``default_length`` temporal ids; what lies beyond it counts as its last part.
    """
    inside = stream.chunk >= 0
    chunks = int(stream.chunk.max()) + 1 if len(stream) else 0
    chunk, temporal = stream.chunk[inside], stream.position[0][inside]
    far = torch.iinfo(torch.int64).max
    first_of = torch.full((chunks, 2), far).flatten()
    video = stream.frame[inside] >= 0
    first_of.scatter_reduce_(0, (2 * chunk + stream.frame[inside])[video], temporal[video], reduce="amin")
    start, second = first_of.view(chunks, 2).unbind(dim=1)
    length = torch.where(second < far, 2 * (second - start), default_length)
    clip = torch.zeros(chunks, dtype=torch.int64)
    clip[chunk] = stream.clip[inside]
    follows = clip[1:] == clip[:-1]  # whether a chunk of the same clip comes after
    gap = start.diff()
    length[1:] = torch.where(follows, gap, length[1:])
    length[:-1] = torch.where(follows, gap, length[:-1])
    result = torch.zeros(len(stream), dtype=torch.int64)
    result[inside] = ((temporal - start[chunk]) * steps // length[chunk]).clamp(0, steps - 1)
    return result
