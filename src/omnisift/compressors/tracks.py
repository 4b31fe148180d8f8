"""Tracks: which tokens of further modalities of clips stay. A method chooses among video and audio alone.

To the method, tokens of further modalities are text that stays. When it has chosen, each track chooses among those of
its own modality. docs/add-a-modality.md shows how to add one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Counts
from omnisift.errors import CompressorError
from omnisift.ops.segments import add_rows
from omnisift.ops.similarity import blocks, cosine_between, rounded
from omnisift.ops.topk import segment_topk
from omnisift.tokens import Modality, Selection, TokenStream


class Track(ABC):
    """A further modality of clips: which of its tokens stay, decided after video and audio.

    Options belong into a frozen dataclass: prompts are held by the ``repr`` of a track.
    """

    name: ClassVar[str]
    """The name for messages."""
    modality: ClassVar[int]
    """The tokens it chooses among: a value of `TokenStream.modality`, from 3 to 127."""
    clip_only: ClassVar[bool] = False
    """Whether the choice depends on the tokens of the clip alone, as `Compressor.clip_only` says it of a method."""

    @abstractmethod
    def select(self, stream: TokenStream, index: Tensor, kept: Selection, counts: Counts) -> Selection:
        """Select among the tokens of the modality.

        Args:
            stream: the tokens of all rows of the batch.
            index: [T] int64 on the CPU: the tokens of the modality inside chunks, in order of the stream.
            kept: the decision so far, on all L tokens of the stream: that of the method on video and audio, and of the
                tracks before this one. Tokens that nobody has decided on are kept.
            counts: kept tokens of every chunk.

        Returns:
            ``keep`` and ``scores`` of the T tokens, in their order. Nothing else of it is read.
        """

    def select_next(
        self,
        stream: TokenStream,
        index: Tensor,
        kept: Selection,
        counts: Counts,
        memory: dict[str, Any],  # noqa: ARG002
    ) -> Selection:
        """Select among the tokens of the next part of one clip; `Compressor.next_part` describes the arguments.

        By default that is `select`. A track that reads more of the past than the chunk itself overrides it and keeps
        what it needs in ``memory``, which is its own: the context of the stream is as wide as the method needs it.
        """
        return self.select(stream, index, kept, counts)

    def __repr__(self) -> str:
        """Show the class and its attributes."""
        options = ", ".join(f"{name}={value!r}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__name__}({options})"


@dataclass(frozen=True)
class SubtitleTrack(Track):
    """Keeps, of the subtitles of each chunk, what was not said before and is close to what was kept of the chunk.

    The score of a token is the sum of

    - its novelty: one minus the largest cosine with the ``window`` subtitle tokens before it in its clip, at most 1,
      so that a line that is repeated goes first,
    - the mean of its cosines with the video and audio tokens that were kept of its chunk; 0 where none were.

    The highest scores of each chunk stay, as many as the budget says; of equal scores the first.

    Args:
        window: subtitle tokens that a token is compared with; 256 are the words of about two minutes.
    """

    window: int = 256

    name: ClassVar[str] = "subtitles"
    modality: ClassVar[int] = int(Modality.SUBTITLE)
    clip_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.window, int) or isinstance(self.window, bool) or self.window < 1:
            raise CompressorError(f"window of track 'subtitles' is an integer from 1, got {self.window!r}")

    def select(self, stream: TokenStream, index: Tensor, kept: Selection, counts: Counts) -> Selection:
        """See `Track.select`. One device sync."""
        return self.select_next(stream, index, kept, counts, {})

    def select_next(
        self, stream: TokenStream, index: Tensor, kept: Selection, counts: Counts, memory: dict[str, Any]
    ) -> Selection:
        """See `Track.select_next`; ``memory`` is that of `novelty`. One device sync."""
        scores = rounded(novelty(stream, index, self.window, memory) + closeness(stream, index, kept.keep))
        chunk, most = (values.to(scores.device, non_blocking=True) for values in (stream.chunk[index], counts.text))
        return Selection(segment_topk(scores, chunk, most), scores)


def novelty(stream: TokenStream, index: Tensor, window: int, memory: dict[str, Any]) -> Tensor:
    """Compute how much tokens differ from those of ``index`` before them: one minus the largest cosine.

    Memory and time grow with the tokens times ``window``.

    Args:
        stream: the tokens of the batch.
        index: [T] int64 on the CPU: tokens inside chunks.
        window: tokens of the same clip that a token is compared with, at most.
        memory: of a clip in parts: the last embeddings of the parts before, and the time of the latest of their
            tokens, in microseconds; changed in place. Empty for complete clips, and at the first part.

    Returns:
        [T] float32 in [0, 1] on the device; 1 for the first token of a clip, 0 for tokens of the parts before.
    """
    result = torch.zeros(len(index), device=stream.embeds.device)
    # Chunk by chunk, without the tokens of the parts before.
    time = stream.position[0, index]
    order = torch.argsort(stream.chunk[index], stable=True)
    order = order[time[order] > memory.get("time", -1)]
    if not len(order):
        return result
    place, clip = order.to(result.device, non_blocking=True), stream.clip[index[order]]
    token, clip = index.to(result.device, non_blocking=True)[place], clip.to(result.device, non_blocking=True)
    past: Tensor = memory.get("embeds", stream.embeds[:0])
    past_clip = clip[:1].expand(len(past))
    for begin in range(0, len(order), window):
        part = slice(begin, begin + window)
        rows = stream.embeds[token[part]].detach()
        columns, column_clip = torch.cat([past, rows]), torch.cat([past_clip, clip[part]])
        similar = cosine_between(rows[None], columns[None])[0]
        # Columns that are of the same clip and at most so many tokens before the row.
        column = torch.arange(len(columns), device=result.device)
        before = column[len(past) :, None] - column
        seen = (before >= 1) & (before <= window) & (clip[part, None] == column_clip)
        result[place[part]] = 1 - torch.where(seen, similar, 0.0).amax(dim=1).clamp(0, 1)
        past, past_clip = columns[-window:], column_clip[-window:]
    memory |= {"time": int(time.max()), "embeds": past.clone()}
    return result


def closeness(stream: TokenStream, index: Tensor, keep: Tensor) -> Tensor:
    """Compute the mean cosine of tokens with the kept video and audio tokens of their chunk.

    Args:
        stream: the tokens of the batch.
        index: [T] int64 on the CPU: tokens inside chunks.
        keep: [L] bool on the device.

    Returns:
        [T] float32 in [-1, 1] on the device; 0 where a chunk keeps no such token.
    """
    embeds, width = stream.embeds.detach(), stream.width
    # Number the chunks that are needed, and find what they keep.
    chunks, group = torch.unique(stream.chunk[index], return_inverse=True)
    of_media = (stream.modality == Modality.VIDEO) | (stream.modality == Modality.AUDIO)
    media = torch.nonzero(of_media & torch.isin(stream.chunk, chunks) & keep.cpu(), as_tuple=True)[0]
    number = torch.searchsorted(chunks, stream.chunk[media])
    size = torch.bincount(number, minlength=len(chunks)).clamp(min=1)
    # The mean of cosines is the product with the mean of the unit vectors.
    device = embeds.device
    media, number, index, group, size = (
        values.to(device, non_blocking=True) for values in (media, number, index, group, size)
    )
    mean = torch.zeros(len(chunks), width, device=device)
    for part in blocks(len(media), width):
        add_rows(mean, number[part], F.normalize(embeds[media[part]].float(), dim=-1))
    mean /= size[:, None]
    result = torch.empty(len(index), device=device)
    for part in blocks(len(index), width):
        result[part] = (F.normalize(embeds[index[part]].float(), dim=-1) * mean[group[part]]).sum(dim=-1)
    return result


def checked_tracks(tracks: Sequence[Track]) -> tuple[Track, ...]:
    """Return the tracks as a tuple.

    Raises:
        CompressorError: one is no track, is of a modality below 3 or above 127, or of the same as another.
    """
    tracks = tuple(tracks)
    for track in tracks:
        if not isinstance(track, Track):
            raise CompressorError(f"tracks are instances of Track, got {track!r}: derive its class from omnisift.Track")
        if not Modality.AUDIO < track.modality <= torch.iinfo(torch.int8).max:
            raise CompressorError(
                f"track {track.name!r} is of modality {track.modality}: further modalities are numbers from 3 to 127"
            )
        others = [other.name for other in tracks if other.modality == track.modality and other is not track]
        if others or tracks.count(track) > 1:
            raise CompressorError(
                f"tracks {track.name!r} and {(others or [track.name])[0]!r} are both of modality {track.modality}: "
                "keep one of them"
            )
    return tracks


def with_tracks(
    method: str,
    tracks: Sequence[Track],
    stream: TokenStream,
    counts: Counts,
    decide: Callable[[TokenStream, Counts], Selection],
    memory: dict[str, Any],
) -> Selection:
    """Select by a method, then by tracks. A stream without further modalities in chunks goes to the method as it is.

    Args:
        method: the name of the method, for messages.
        tracks: from `checked_tracks`.
        stream: the tokens of the batch.
        counts: kept tokens of every chunk.
        decide: selects video and audio tokens.
        memory: of a clip in parts, for all tracks; changed in place.

    Returns:
        The selection on all tokens.

    Raises:
        CompressorError: a modality has no track, or a track returns another number of decisions.
    """
    further = (stream.chunk >= 0) & (stream.modality > Modality.AUDIO)
    if not bool(further.any()):
        return decide(stream, counts)
    known = {track.modality for track in tracks}
    for modality in torch.unique(stream.modality[further]).tolist():
        if modality not in known:
            raise CompressorError(
                f"the prompt has tokens of modality {modality} in clips, and compressor {method!r} has no track for "
                "them: add one, compressor.tracks = (*compressor.tracks, MyTrack())"
            )
    selection = decide(_as_text(stream, further), counts)
    for track in tracks:
        index = torch.nonzero(further & (stream.modality == track.modality), as_tuple=True)[0]
        if len(index):
            with without_autocast(stream):
                own = memory.setdefault(track.name, {})
                chosen = track.select_next(stream, index, selection, counts, own)
            selection = _joined(track, index, selection, chosen)
    return selection


def without_autocast(stream: TokenStream) -> AbstractContextManager[object]:
    """A block without autocast on the device of a stream."""
    device = stream.embeds.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _as_text(stream: TokenStream, tokens: Tensor) -> TokenStream:
    """The stream with some ``tokens`` [L] as text outside clips."""
    outside = {name: getattr(stream, name).masked_fill(tokens, -1) for name in ("chunk", "frame", "clip")}
    zeros = {name: getattr(stream, name).masked_fill(tokens, 0) for name in ("position", "time")}
    return replace(stream, modality=stream.modality.masked_fill(tokens, int(Modality.TEXT)), **outside, **zeros)


def _joined(track: Track, index: Tensor, before: Selection, chosen: Selection) -> Selection:
    """The selection ``before`` with what a track has ``chosen`` of the tokens at ``index``."""
    if not isinstance(chosen, Selection) or chosen.keep.shape != index.shape or chosen.keep.dtype != torch.bool:
        got = f"{chosen.keep.dtype} {list(chosen.keep.shape)}" if isinstance(chosen, Selection) else repr(chosen)[:80]
        raise CompressorError(f"track {track.name!r} must return a Selection of bool {list(index.shape)}, got {got}")
    device = before.keep.device
    index = index.to(device, non_blocking=True)
    keep = before.keep.index_copy(0, index, chosen.keep.to(device))
    scores = before.scores
    if chosen.scores is not None:
        if scores is None:
            scores = torch.full(keep.shape, torch.nan, device=device)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores = scores.index_copy(0, index, chosen.scores.to(device, scores.dtype))
    # Merged embeddings have a row for each token that was kept before.
    embeds = None if before.embeds is None else before.embeds[keep[before.keep]]
    return replace(before, keep=keep, scores=scores, embeds=embeds)
