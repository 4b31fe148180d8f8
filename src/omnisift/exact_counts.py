"""A number of tokens divided exactly over the segments of a clip: frames, and the audio and text of its chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from omnisift.chunks import ChunkShapes


def exact_text(shapes: ChunkShapes, tokens: int, retain_text: float) -> Tensor:
    """Compute how many of a number of tokens of each clip are subtitles.

    ``retain_text`` of them, rounded, and one of each chunk at least, but at most half of the number, and no more than
    what leaves one token to every frame and to the audio of every chunk. Where there are fewer tokens than segments,
    at most the share of the chunks with subtitles in the segments. What video and audio leave is kept in any case.
    A larger number never takes a token from the subtitles, or from video and audio together.

    Args:
        shapes: token counts of the chunks.
        tokens: tokens kept of each clip; a clip that has no more keeps all.
        retain_text: the fraction to keep, in (0, 1].

    Returns:
        [clips] int64 on the CPU.
    """
    clips = int(shapes.clip.max()) + 1 if len(shapes) else 0
    if not bool(shapes.text.any()):
        return torch.zeros(clips, dtype=torch.int64)
    media = torch.stack([shapes.frame0, shapes.frame1, shapes.audio], dim=1)
    n_media, n_text = sum_by(media.sum(dim=1), shapes.clip, clips), sum_by(shapes.text, shapes.clip, clips)
    least_media = sum_by((media > 0).sum(dim=1), shapes.clip, clips)
    least_text = sum_by((shapes.text > 0).long(), shapes.clip, clips)
    least = least_media + least_text
    total = (n_media + n_text).clamp(max=tokens)
    # One token per segment does not fit: the share of the segments with text, rounded.
    share = (2 * total * least_text + least) // (2 * least).clamp(min=1)
    most = torch.minimum(total // 2, torch.where(total < least, share, total - least_media))
    wanted = torch.maximum((n_text * retain_text + 0.5).long(), least_text)
    return torch.maximum(torch.minimum(wanted, most), total - n_media)


def exact_counts(shapes: ChunkShapes, tokens: int, video_rate: Tensor, kept_text: Tensor) -> Tensor:
    """Divide a number of tokens over the segments of each clip: its frames, and the audio and text of its chunks.

    Every segment keeps at least one token. Subtitles keep ``kept_text``. The video keeps ``video_rate`` of its tokens,
    rounded, and its audio the rest; within each, `_even_shares` divides. Where there are fewer tokens than segments, a
    segment keeps one token or none, those that keep one are spread over time, and video and audio share the number by
    their segments. A larger number never takes a token from a segment, except where the split of `Budget.rates`
    changes to that for few video tokens.

    Args:
        shapes: token counts of the chunks.
        tokens: tokens kept of each clip; a clip that has no more keeps all.
        video_rate: [clips] float64 on the CPU: the share of the clip's video to keep.
        kept_text: [clips] int64 on the CPU, from `exact_text`.

    Returns:
        [C, 4] int64 on the CPU: kept tokens of both frames, audio and text, whose sum over each clip is ``tokens`` or
        all that it has.
    """
    kept = torch.stack([shapes.frame0, shapes.frame1, shapes.audio, shapes.text], dim=1)
    for clip in torch.unique(shapes.clip).tolist():
        rows = shapes.clip == clip
        size = kept[rows]
        video, audio, text = size[:, :2].flatten(), size[:, 2], size[:, 3]
        n_video, n_audio = int(video.sum()), int(audio.sum())
        if n_video + n_audio + int(text.sum()) <= tokens:
            continue
        if kept_text[clip]:
            size[:, 3] = _even_shares(text, int(kept_text[clip]))
        else:
            size[:, 3] = 0
        left = tokens - int(kept_text[clip])
        least_video, least_audio = int((video > 0).sum()), int((audio > 0).sum())
        least = least_video + least_audio
        if left < least:
            # One token per segment does not fit: the video's share of the segments, rounded.
            share = (2 * left * least_video + least) // (2 * least)
        else:
            # The video's share, within what it has and what leaves the audio at least one token per chunk.
            share = int(float(video_rate[clip]) * n_video + 0.5)
            share = min(max(share, least_video, left - n_audio), n_video, left - least_audio)
        size[:, :2] = _even_shares(video, share).view(-1, 2)
        size[:, 2] = _even_shares(audio, left - share)
        kept[rows] = size
    return kept


def _even_shares(size: Tensor, total: int) -> Tensor:
    """Divide ``total`` over segments in proportion to their sizes, [S] int64; first one for each that has a token.

    Largest remainders would take tokens from a segment as the total grows, and give the first segments more where all
    are equal. Instead tokens are given one by one, the next to the segment with the lowest (given + 1/2) / size
    (Webster's method), and of equals in an order that spreads over time.
    """
    # One row per token that may be given: its segment, and how many its segment has before it.
    segment = torch.repeat_interleave(torch.arange(len(size)), size)
    given = torch.arange(len(segment)) - (size.cumsum(0) - size)[segment]
    turn = torch.where(given == 0, 0.0, (given + 0.5) / size[segment])
    # The first `total` of them, ordered by turn and then by the segment's place in the spread order.
    by_place = torch.argsort(_spread(len(size))[segment], stable=True)
    taken = by_place[torch.argsort(turn[by_place], stable=True)[:total]]
    return torch.bincount(segment[taken], minlength=len(size))


def _spread(count: int) -> Tensor:
    """The place of each of ``count`` segments in an order of which every beginning is spread evenly, [count] int64."""
    # The number's binary digits in reverse: 0, 4, 2, 6, 1, 5, 3, 7 for eight segments.
    bits, number = max(count - 1, 0).bit_length(), torch.arange(count)
    digits = [((number >> bit) & 1) << (bits - 1 - bit) for bit in range(bits)]
    return torch.stack(digits).sum(dim=0) if digits else number


def sum_by(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum integers by group.

    Args:
        values: [N] int64.
        index: [N] int64: the group of each.
        size: number of groups.

    Returns:
        [size] int64.
    """
    return torch.zeros(size, dtype=torch.int64).index_add_(0, index, values)
