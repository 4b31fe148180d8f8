"""`Layout`: where and when each media token of a prompt is, whatever the rotary ids of its family mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnisift.chunks import index_stream
from omnisift.errors import UnsupportedCall
from omnisift.tokens import Modality, TokenStream


@dataclass(frozen=True)
class Layout:
    """Clip, time and place of the tokens of a batch. ``B`` rows of ``S`` tokens, all on the CPU."""

    modality: Tensor
    """[B, S] int8: `Modality` of each token. Outside clips nothing is ever dropped, whatever it is."""
    clip: Tensor
    """[B, S] int64: number of the clip, counted over the batch; -1 outside clips."""
    position: Tensor
    """[3, B, S] int64: microseconds since the start of the clip, and a video token's row and column in its frame."""

    def stream(self, embeds: Tensor, extras: Mapping[str, Tensor] | None = None) -> TokenStream:
        """Build the stream of a batch.

        Args:
            embeds: [B, S, D], the merged input embeddings.
            extras: see `TokenStream.extras`.
        """
        rows, length = self.clip.shape
        sample = torch.arange(rows).repeat_interleave(length)
        clip = self.clip.flatten()
        return index_stream(
            embeds.flatten(0, 1), self.modality.flatten(), clip, self.position.flatten(1), sample, extras
        )


@dataclass(frozen=True)
class PromptLines:
    """The lines of one row of a prompt, about the last clip before them."""

    begin: int
    """Tokens of the row before those of the first line; padding is not counted. The lines follow one another."""
    lengths: tuple[int, ...]
    """Tokens of each line, in order of their times."""
    times: tuple[int, ...]
    """When each line begins, in microseconds since the start of the clip."""

    def __post_init__(self) -> None:
        """Raise `UnsupportedCall` unless the numbers are whole, and those of each line."""
        numbers = (self.begin, *self.lengths, *self.times)
        if not all(isinstance(number, int) for number in numbers) or min(self.begin, *self.lengths, 0) < 0:
            raise UnsupportedCall(
                f"lines need whole numbers: begin and lengths in tokens, from 0, and times in microseconds; got {self}"
            )
        if len(self.lengths) != len(self.times) or list(self.times) != sorted(self.times):
            raise UnsupportedCall(f"lines need a length and a time each, in order of their times; got {self}")

    @property
    def total(self) -> int:
        """Tokens of all lines."""
        return sum(self.lengths)

    def block(self, mask: Tensor) -> slice:
        """The columns of the lines in a row with the given [S] mask."""
        begin = int(mask.long().argmax()) + self.begin
        return slice(begin, begin + self.total)


@dataclass(frozen=True)
class Places:
    """Clip, frame, row and column of the N video tokens of a batch, in their order; [N] int64 each, on the CPU."""

    clip: Tensor
    frame: Tensor
    row: Tensor
    column: Tensor

    @classmethod
    def in_grids(cls, count: int, grids: Tensor) -> Places:
        """Lay the video tokens on the grids of their clips. Text between the frames of a clip does not matter.

        Args:
            count: ``N``.
            grids: [V, 3] int64: frames, rows and columns of tokens of each clip, in the order of the prompt.

        Raises:
            UnsupportedCall: the grids are those of another number of tokens.
        """
        sizes = grids.prod(dim=1)
        if int(sizes.sum()) != count:
            raise UnsupportedCall(
                f"the prompt has {count} video tokens, but the grids are of {int(sizes.sum())}: pass the grids of the "
                "videos in this prompt, and the prompt as a whole"
            )
        clip = torch.arange(len(grids)).repeat_interleave(sizes)
        # Tokens of a clip lie frame by frame, those of a frame row by row.
        index = torch.arange(count) - (sizes.cumsum(0) - sizes)[clip]
        columns = grids[clip, 2]
        area = grids[clip, 1] * columns
        return cls(clip, index // area, index % area // columns, index % columns)


def repeated_videos(sizes: Tensor, counts: Tensor) -> Tensor:
    """Find the video of each clip of a batch whose rows were repeated, for beams, after the videos were encoded.

    Args:
        sizes: [V] int64: tokens of each video.
        counts: [B] int64: video tokens of each row; rows of one prompt are adjacent.

    Returns:
        [W] int64: index of a video for each clip of the batch; 0 to V - 1 if nothing was repeated.
    """
    total, unit = int(counts.sum()), max(1, int(sizes.sum()))
    times = total // unit
    if times <= 1 or total != times * unit or len(counts) % times:
        return torch.arange(len(sizes))
    # A video belongs to the first of the distinct rows up to whose end there are as many tokens as up to its own.
    row = torch.searchsorted(counts[::times].cumsum(0), sizes.cumsum(0))
    return torch.cat([(row == number).nonzero()[:, 0].repeat(times) for number in range(len(counts) // times)])


def grouped_grids(grids: Tensor, sizes: Sequence[int], counts: Tensor) -> Tensor:
    """Sum up the grids of an encoder that was called frame by frame.

    Args:
        grids: [n, 3] int64: frames, rows and columns of tokens of single frames.
        sizes: tokens of each video of the batch, whose rows may have been repeated for beams after the encoder ran.
        counts: [B] int64: video tokens of each row.

    Returns:
        [V, 3] int64: those of each video that was encoded.
    """
    videos = torch.tensor(list(sizes), dtype=torch.int64)
    # Leave out the videos of repeated rows.
    times = max(1, int(videos.sum()) // max(1, int(grids.prod(dim=1).sum())))
    row = torch.searchsorted(counts.cumsum(0), videos.cumsum(0))
    ends = videos[row % times == 0].cumsum(0)
    # A frame belongs to the first video up to whose end there are as many tokens as up to its own.
    owner = torch.searchsorted(ends, grids.prod(dim=1).cumsum(0)).clamp(max=len(ends) - 1)
    frames = torch.zeros(len(ends), dtype=torch.int64).index_add_(0, owner, grids[:, 0])
    first = torch.searchsorted(owner, torch.arange(len(ends))).clamp(max=len(grids) - 1)
    return torch.cat([frames[:, None], grids[first, 1:]], dim=1)


def audio_in_runs(modality: Tensor, places: Places) -> Tensor:
    """Find the clip of each audio token where the audio of a video lies in one run with it.

    Args:
        modality: [B, S] int8 on the CPU: VIDEO and AUDIO on all placeholder tokens.
        places: of the video tokens.

    Returns:
        [B, S] int64: number of the clip of each audio token; -1 on audio outside clips and on other tokens.
    """
    video, run = modality == Modality.VIDEO, run_numbers(modality != Modality.TEXT)
    owner = torch.full((int(run.max()) + 2 if run.numel() else 1,), -1)
    owner[run[video]] = places.clip
    return torch.where(modality == Modality.AUDIO, owner[run], -1)


def audio_in_order(modality: Tensor, places: Places) -> Tensor:
    """Find the clip of each audio token where videos and audio lie apart.

    All audio of a row with one video belongs to that video; in a row with several, the i-th audio belongs to the i-th
    video. In a row that has not as many of both, and in one without video, audio is outside clips.

    Args:
        modality: as `audio_in_runs` takes it.
        places: of the video tokens.

    Returns:
        As `audio_in_runs`.
    """
    video, run = modality == Modality.VIDEO, run_numbers(modality == Modality.AUDIO)
    rows = torch.nonzero(video, as_tuple=True)[0]
    owner = torch.full_like(run, -1)
    for row in range(len(modality)):
        clips, runs = torch.unique(places.clip[rows == row]), torch.unique(run[row][run[row] >= 0])
        heard = run[row] >= 0
        if len(clips) == 1:
            owner[row, heard] = clips
        elif len(clips) and len(clips) == len(runs):
            owner[row, heard] = clips[torch.searchsorted(runs, run[row, heard])]
    return owner


def lay_out(
    modality: Tensor,
    places: Places,
    frame_time: Tensor,
    owner: Tensor,
    audio_step: float,
    *,
    compress_audio: bool = False,
) -> Layout:
    """Lay out a batch.

    Args:
        modality: [B, S] int8 on the CPU: VIDEO and AUDIO on all placeholder tokens.
        places: of the video tokens.
        frame_time: [N] int64: when the frame of each video token is, in microseconds.
        owner: [B, S] int64: clip of each audio token, from `audio_in_runs` or `audio_in_order`.
        audio_step: microseconds from one audio token of a clip to the next.
        compress_audio: whether audio in a run without video is a clip of its own; else it is outside clips.
    """
    video = modality == Modality.VIDEO
    clip = owner.clone()
    clip[video] = places.clip
    if compress_audio:
        clip = _with_plain_audio(clip, run_numbers(modality == Modality.AUDIO))
    position = torch.zeros(3, *clip.shape, dtype=torch.int64)
    position[:, video] = torch.stack([frame_time, places.row, places.column])
    # Audio tokens of one clip follow one another at a fixed rate.
    audio = (modality == Modality.AUDIO) & (clip >= 0)
    clips = clip[audio]
    rank = torch.arange(len(clips)) - torch.searchsorted(clips, clips)
    position[0, audio] = (rank * audio_step).round().long()
    return Layout(modality, clip, position)


def rows_of_lines(lines: Sequence[PromptLines | None] | None, rows: int) -> list[PromptLines | None]:
    """The lines of each row of a batch, whose prompts may have been repeated for beams.

    Raises:
        UnsupportedCall: there is another number of rows, or an entry is something else.
    """
    known = isinstance(lines, Sequence) and all(isinstance(row, PromptLines | None) for row in lines)
    if lines is not None and not known:
        raise UnsupportedCall("lines are a list with one PromptLines for each prompt, or None for a prompt without any")
    if not lines:
        return [None] * rows
    times, rest = divmod(rows, len(lines))
    if rest or not times:
        raise UnsupportedCall(f"lines of {len(lines)} prompts for {rows} rows: give one entry for each prompt")
    return [row for row in lines for _ in range(times)]


def with_lines(layout: Layout, lines: Sequence[PromptLines | None], mask: Tensor) -> Layout:
    """Mark the tokens of lines, with the clip and the time of each. Without a clip before them they stay text.

    Args:
        layout: of a prompt in which they are text.
        lines: of each row.
        mask: [B, S] bool, False on padding.

    Raises:
        UnsupportedCall: a row has no text where its lines should be.
    """
    modality, clip, position = layout.modality.clone(), layout.clip.clone(), layout.position.clone()
    for row, found in enumerate(lines):
        if found is None or not found.total:
            continue
        block = found.block(mask[row])
        if block.stop > mask.shape[1] or bool((modality[row, block] != Modality.TEXT).any()):
            raise UnsupportedCall("the lines are not where the prompt has text: count the tokens before them again")
        inside = torch.nonzero(clip[row, : block.start] >= 0)[:, 0]
        if not len(inside):
            continue
        modality[row, block] = int(Modality.SUBTITLE)
        clip[row, block] = clip[row, inside[-1]]
        times = torch.tensor(found.times).repeat_interleave(torch.tensor(found.lengths))
        position[:, row, block] = torch.stack([times, torch.zeros_like(times), torch.zeros_like(times)])
    return replace(layout, modality=modality, clip=clip, position=position)


def run_numbers(media: Tensor) -> Tensor:
    """[B, S] int64: number of the run of True, counted over the batch; -1 elsewhere. A run ends with its row."""
    starts = media.clone()
    starts[:, 1:] &= ~media[:, :-1]
    return torch.where(media, (starts.flatten().cumsum(0) - 1).view_as(media), -1)


def _with_plain_audio(clip: Tensor, run: Tensor) -> Tensor:
    """[B, S]: clips ``clip``, and each run of audio (``run``, -1 on other tokens) outside of them as one more.

    Clips are numbered by their first token, as everywhere.
    """
    clip = torch.where((clip < 0) & (run >= 0), int(clip.max()) + 1 + run, clip).flatten()
    inside = torch.nonzero(clip >= 0)[:, 0]
    _, number = torch.unique(clip[inside], return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(clip)).scatter_reduce_(0, number, inside, reduce="amin")
    clip[inside] = torch.argsort(torch.argsort(first))[number]
    return clip.view_as(run)
