"""Chunks of the paper: which tokens form one, computed from the time of each token.

A chunk is two consecutive frames (distinct times) of one clip, with the audio from their start to the start of the next
pair (paper section 3.1; the released code groups by *pairs of ids*, not by two seconds). Audio outside a video, where
it is compressed, has chunks of two seconds. Everything here is integer work on the CPU and reads no embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.tokens import Modality, TokenStream

FRAME0, FRAME1, AUDIO = 0, 1, 2
"""The three segments of a chunk, each of which has its own count."""
MICROSECONDS = 1_000_000
"""Clock ticks per second in `TokenStream.position`."""
AUDIO_CHUNK = 2 * MICROSECONDS
"""Length of a chunk in a clip of audio alone."""


@dataclass(frozen=True)
class ChunkShapes:
    """Token counts of each chunk: all that a budget reads."""

    frame0: Tensor
    """[C] int64 on the CPU: video tokens of the first frame; 0 in a clip of audio alone."""
    frame1: Tensor
    """[C] int64 on the CPU: video tokens of the second frame; 0 for the odd last frame of a clip, and without video."""
    audio: Tensor
    """[C] int64 on the CPU: audio tokens of the chunk."""
    clip: Tensor
    """[C] int64 on the CPU: number of the chunk's clip."""
    text: Tensor = None  # type: ignore[assignment]  # zeros
    """[C] int64 on the CPU: subtitle tokens of the chunk; 0 everywhere if it is not given."""

    def __post_init__(self) -> None:
        if self.text is None:
            object.__setattr__(self, "text", torch.zeros_like(self.frame0))

    @classmethod
    def of(cls, stream: TokenStream) -> ChunkShapes:
        """Count the tokens of every chunk of ``stream``."""
        sizes = segment_sizes(stream)
        inside = stream.chunk >= 0
        clip = torch.zeros(sizes.shape[0], dtype=torch.int64)
        clip[stream.chunk[inside]] = stream.clip[inside]
        text = torch.bincount(stream.chunk[inside & (stream.modality == Modality.SUBTITLE)], minlength=len(clip))
        return cls(frame0=sizes[:, FRAME0], frame1=sizes[:, FRAME1], audio=sizes[:, AUDIO], clip=clip, text=text)

    def __len__(self) -> int:
        return int(self.frame0.shape[0])


def build_stream(
    embeds: Tensor,
    modality: Tensor,
    position: Tensor,
    sample: Tensor,
    seconds_per_position: float,
    extras: Mapping[str, Tensor] | None = None,
    *,
    compress_audio: bool = False,
) -> TokenStream:
    """Build a `TokenStream`: find clips, chunks, frames and times in a flat batch, from rotary position ids.

    Each clip has its own chunks; the released code groups all videos of a prompt together by their position ids.

    Args:
        embeds: [L, D] float, the merged input embeddings.
        modality: [L] int8 on the CPU: VIDEO and AUDIO on *all* placeholder tokens. Audio outside a clip becomes TEXT.
        position: [3, L] on the CPU: rotary position ids (time, height, width).
        sample: [L] int64 on the CPU: row of the batch.
        seconds_per_position: length of one temporal id (0.04 s for Qwen2.5-Omni).
        extras: see `TokenStream.extras`.
        compress_audio: as `index_clips` takes it.

    Returns:
        The stream.
    """
    clip = index_clips(modality, sample, compress_audio=compress_audio)
    return index_stream(embeds, modality, clip, places_in_clips(position, modality, clip, seconds_per_position),
                        sample, extras)  # fmt: skip


def index_stream(
    embeds: Tensor,
    modality: Tensor,
    clip: Tensor,
    position: Tensor,
    sample: Tensor,
    extras: Mapping[str, Tensor] | None = None,
) -> TokenStream:
    """Build a `TokenStream` whose clips are known: find the chunks, frames and times.

    Args:
        embeds: as `build_stream` takes it.
        modality: as `build_stream` takes it.
        clip: [L] int64 on the CPU: number of each token's clip, -1 outside clips.
        position: [3, L] int64 on the CPU, as `TokenStream.position` describes it.
        sample: as `build_stream` takes it.
        extras: as `build_stream` takes it.
    """
    modality = torch.where(clip >= 0, modality, int(Modality.TEXT)).to(torch.int8)
    chunk, frame = index_chunks(modality, position[0], clip)
    return TokenStream(
        embeds=embeds,
        modality=modality,
        position=position,
        time=(position[0].double() / MICROSECONDS).float(),
        chunk=chunk,
        frame=frame,
        clip=clip,
        sample=sample.to(torch.int64),
        extras={} if extras is None else extras,
    )


def index_clips(modality: Tensor, sample: Tensor, *, compress_audio: bool = False) -> Tensor:
    """Number the clips of a batch.

    A clip is a maximal run of media tokens of one row with at least one video token: a video interleaved with its own
    audio track. A run with audio but no video is plain audio. Further modalities, such as subtitles, belong to the run
    that they are in, and make no clip.

    Args:
        modality: [L] int8.
        sample: [L] int64: row of the batch.
        compress_audio: whether plain audio is a clip too.

    Returns:
        [L] int64: number of each token's clip, -1 outside clips.
    """
    # Number the runs of media tokens ...
    media = modality != Modality.TEXT
    starts = media.clone()
    starts[1:] &= ~media[:-1] | (sample[1:] != sample[:-1])
    run = torch.cumsum(starts, dim=0) - 1
    # ... and of these, the ones with a video token, or with any video or audio.
    opens = modality == Modality.VIDEO
    if compress_audio:
        opens |= modality == Modality.AUDIO
    is_clip = torch.bincount(run[opens], minlength=int(starts.sum())) > 0
    number = torch.where(is_clip, torch.cumsum(is_clip, dim=0) - 1, -1)
    clip = torch.full_like(run, -1)
    clip[media] = number[run[media]]
    return clip


def has_clips(modality: Tensor, *, compress_audio: bool = False) -> bool:
    """Whether some tokens may be dropped: whether there is a video, or plain audio that is compressed.

    Args:
        modality: int8 of any shape: `Modality` of each token, audio outside a video included.
        compress_audio: whether plain audio is compressed.
    """
    has_video, has_audio = (bool((modality == kind).any()) for kind in (Modality.VIDEO, Modality.AUDIO))
    return has_video or (compress_audio and has_audio)


def index_chunks(modality: Tensor, temporal: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Number the chunks of a batch.

    Audio belongs to the chunk with ``start <= t < start of the next``. The last chunk of a clip has all later audio;
    audio before the first frame is in no chunk. In a clip of audio alone a chunk begins every `AUDIO_CHUNK`. Tokens of
    further modalities belong to chunks by their time, as audio does, but those before the first chunk of their clip
    belong to it. They open no chunk.

    Args:
        modality: [L] int8.
        temporal: [L] int64: time of each token in its clip; in any unit, but microseconds for audio alone.
        clip: [L] int64, from `index_clips`.

    Returns:
        Two [L] int64: number of each token's chunk (-1: never dropped), and its frame in the chunk (0 or 1; -1 for all
        but video tokens).
    """
    chunk, frame = torch.full_like(clip, -1), torch.full_like(clip, -1)
    video, audio = modality == Modality.VIDEO, modality == Modality.AUDIO
    alone = audio & (clip >= 0) & ~torch.isin(clip, clip[video])
    if not bool((video | alone).any()):
        return chunk, frame
    # One key that sorts by clip, then by time.
    first_id = int(temporal.min())
    id_range = int(temporal.max()) - first_id + 1
    key = clip * id_range + (temporal - first_id)
    # Frames are the distinct times of video tokens; every second one of a clip opens a chunk.
    times, inverse = torch.unique(key[video], return_inverse=True)
    clip_of_time = times // id_range
    rank = torch.arange(len(times)) - torch.searchsorted(clip_of_time, clip_of_time)
    # Audio alone opens one wherever a whole number of spans has passed since its first token.
    since = _since_first(temporal, clip, alone)
    starts = torch.unique(torch.cat([times[rank % 2 == 0], (key - since % AUDIO_CHUNK)[alone]]))
    number = torch.searchsorted(starts, times, right=True) - 1
    chunk[video], frame[video] = number[inverse], (rank % 2)[inverse]
    # Audio tokens: the last chunk that starts no later, if it is of the same clip.
    latest = torch.searchsorted(starts, key[audio], right=True) - 1
    same_clip = (latest >= 0) & (starts[latest.clamp(min=0)] // id_range == clip[audio])
    chunk[audio] = torch.where(same_clip, latest, -1)
    # Further modalities: likewise, but no earlier than the first chunk of their clip.
    further = (modality > Modality.AUDIO) & (clip >= 0)
    if bool(further.any()):
        clip_of_start = starts // id_range
        latest = torch.searchsorted(starts, key[further], right=True) - 1
        latest = torch.maximum(latest, torch.searchsorted(clip_of_start, clip[further])).clamp(max=len(starts) - 1)
        chunk[further] = torch.where(clip_of_start[latest] == clip[further], latest, -1)
    return chunk, frame


def segment_of(stream: TokenStream) -> Tensor:
    """Number the segments: [L] int64 on the CPU, 3 * chunk + (0 first frame, 1 second frame, 2 audio); -1 outside.

    Further modalities have no segment: -1.
    """
    segment = torch.where(stream.modality == Modality.AUDIO, AUDIO, stream.frame)
    return torch.where((stream.chunk >= 0) & (segment >= 0), 3 * stream.chunk + segment, -1)


def segment_sizes(stream: TokenStream) -> Tensor:
    """Count the tokens of each segment of each chunk: [C, 3] int64 on the CPU."""
    segment = segment_of(stream)
    chunks = int(stream.chunk.max()) + 1 if len(stream) else 0
    return torch.bincount(segment[segment >= 0], minlength=3 * chunks).view(chunks, 3)


def places_in_clips(position: Tensor, modality: Tensor, clip: Tensor, seconds_per_position: float) -> Tensor:
    """Convert rotary position ids to `TokenStream.position`.

    Args:
        position: [3, L] on the CPU: rotary position ids (time, height, width).
        modality: [L] int8.
        clip: [L] int64, from `index_clips`.
        seconds_per_position: length of one temporal id.

    Returns:
        [3, L] int64: microseconds since the first token of the clip, row and column; 0 outside clips.
    """
    video = (modality == Modality.VIDEO) & (clip >= 0)
    time = _since_first(position[0], clip, clip >= 0).double() * (seconds_per_position * MICROSECONDS)
    return torch.stack([time.round().long(), *(_since_first(axis, clip, video).long() for axis in position[1:])])


def _since_first(values: Tensor, clip: Tensor, among: Tensor) -> Tensor:
    """[L]: each value minus the smallest of its clip, where ``among`` [L]; 0 elsewhere."""
    result = torch.zeros_like(values)
    if bool(among.any()):
        first = values.new_zeros(int(clip.max()) + 1)
        first.scatter_reduce_(0, clip[among], values[among], reduce="amin", include_self=False)
        result[among] = values[among] - first[clip[among]]
    return result


def steps_in_chunk(stream: TokenStream, steps: int = 50, default_length: int = 2 * MICROSECONDS) -> Tensor:
    """Compute when in its chunk each token is, in ``steps`` equal parts of the chunk.

    In a two-second chunk of Qwen2.5-Omni (50 audio tokens), audio tokens have 0 to 49 and frames 0 and 25. The last
    chunk of a clip has the length of the one before it, else twice the distance of its frames, else
    ``default_length``; tokens beyond it are in its last part.

    Args:
        stream: the tokens of the batch.
        steps: parts of a chunk.
        default_length: length of a chunk in microseconds, for a clip with one frame.

    Returns:
        [L] int64 on the CPU, in [0, steps); 0 outside chunks.
    """
    inside = stream.chunk >= 0
    chunks = int(stream.chunk.max()) + 1 if len(stream) else 0
    chunk, temporal = stream.chunk[inside], stream.position[0][inside]
    # Start of both frames of every chunk.
    never = torch.iinfo(torch.int64).max
    first_of = torch.full((chunks, 2), never).flatten()
    video = stream.frame[inside] >= 0
    first_of.scatter_reduce_(0, (2 * chunk + stream.frame[inside])[video], temporal[video], reduce="amin")
    start, second = first_of.view(chunks, 2).unbind(dim=1)
    # Without video, a chunk starts with its first token.
    first_token = torch.full((chunks,), never).scatter_reduce_(0, chunk, temporal, reduce="amin")
    start = torch.where(start < never, start, first_token)
    # Length of every chunk: to the start of the next one of its clip, if there is one.
    length = torch.where(second < never, 2 * (second - start), default_length)
    clip = torch.zeros(chunks, dtype=torch.int64)
    clip[chunk] = stream.clip[inside]
    follows = clip[1:] == clip[:-1]
    gap = start.diff()
    length[1:] = torch.where(follows, gap, length[1:])
    length[:-1] = torch.where(follows, gap, length[:-1])
    result = torch.zeros(len(stream), dtype=torch.int64)
    result[inside] = ((temporal - start[chunk]) * steps // length[chunk]).clamp(0, steps - 1)
    return result
