"""Video pruning of OmniSIFT: the visual anchors of a batch of chunks, by STVP or by a learned score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import FRAME0, FRAME1, ChunkShapes
from omnisift.compressors.chunk_batches import ChunkBatch, ChunkBatches, PaddedGroups
from omnisift.compressors.selection_builder import SelectionBuilder
from omnisift.stvp import norms, saliency, spatial_similarity, temporal_similarity
from omnisift.tokens import TokenStream
from omnisift.video_score import VideoScore


@dataclass(frozen=True)
class FramePairs:
    """The frames of the chunks of a batch."""

    frame0: PaddedGroups
    frame1: PaddedGroups | None
    """None if no chunk has a second frame."""
    first: Tensor
    """[G, N, D]: tokens of the first frames."""
    second: Tensor | None
    """[G, N, D]: tokens of the second frames; None if no chunk has one of its first frame's size."""
    paired: Tensor | None
    """[G] bool: chunks whose two frames have the same size; None if all have."""

    @classmethod
    def of(
        cls, embeds: Tensor, batches: ChunkBatches, batch: ChunkBatch, dtype: torch.dtype | None = None
    ) -> FramePairs:
        """Gather the frames.

        Args:
            embeds: [L, D], the stream's embeddings.
            batches: all batches.
            batch: the one to gather.
            dtype: dtype of the result; None keeps that of ``embeds``.
        """
        width = None if batch.even else max(batch.size[FRAME0], batch.size[FRAME1])
        frame0 = batches.padded(batch, FRAME0, width)
        frame1 = batches.padded(batch, FRAME1, width) if batch.size[FRAME1] else None
        first = _cast(frame0.take(embeds), dtype)
        if frame1 is None or frame0.index.shape != frame1.index.shape:
            return cls(frame0, frame1, first, None, None)
        return cls(frame0, frame1, first, _cast(frame1.take(embeds), dtype), frame0.same_size(frame1))


@torch.no_grad()  # a choice has no gradient; the selector passes one to the anchors' embeddings
def prune_video(
    embeds: Tensor,
    batches: ChunkBatches,
    batch: ChunkBatch,
    builder: SelectionBuilder,
    score_dtype: torch.dtype | None = None,
    video_score: VideoScore | None = None,
) -> PaddedGroups:
    """Select the visual anchors of a batch of chunks (paper eq 2-5).

    Args:
        embeds: [L, D], the stream's embeddings.
        batches: all batches.
        batch: the one to prune.
        builder: collects the kept tokens and their saliency.
        score_dtype: dtype of the similarities; None means that of ``embeds``.
        video_score: a learned score that replaces STVP.

    Returns:
        The kept video tokens of each chunk, first frame before second.
    """
    frames = FramePairs.of(embeds, batches, batch, score_dtype)
    length = len(embeds)
    # eq 2-4: similarity of first frames to their mean, and of second frames to the first.
    if video_score is None:
        spatial, temporal = _stvp(frames)
    else:
        spatial, temporal = video_score.similarities(frames.first, frames.second, frames.frame0.valid, frames.paired)
    # eq 5, first frame: keep the least similar; of equal tokens the first, as in the released code.
    builder.video_scores.append((frames.frame0.flat(length), saliency(spatial).flatten()))
    anchors = frames.frame0.lowest(spatial, batches.kept(batch, FRAME0), batch.kept[FRAME0], batch.even)
    # eq 5, second frame.
    if frames.frame1 is not None:
        if temporal is None:
            # Frames of unequal size: the counts keep the second one in full, so any order will do.
            temporal = torch.zeros(frames.frame1.index.shape, device=embeds.device)
        else:
            builder.video_scores.append((frames.frame1.flat(length, frames.paired), saliency(temporal).flatten()))
        kept = frames.frame1.lowest(temporal, batches.kept(batch, FRAME1), batch.kept[FRAME1], batch.even)
        anchors = anchors.concat(kept)
    builder.kept.append(anchors.flat(length))
    return anchors


def _stvp(frames: FramePairs) -> tuple[Tensor, Tensor | None]:
    """Similarities of the first and of the second frame, [G, N] each."""
    norm = norms(frames.first)  # shared by both equations
    temporal = None if frames.second is None else temporal_similarity(frames.first, frames.second, norm)
    return spatial_similarity(frames.first, frames.frame0.valid, norm), temporal


def video_logits(video_score: VideoScore, stream: TokenStream) -> Tensor:
    """Compute the learned score of every video token, with a gradient, for training.

    Args:
        video_score: the learned score.
        stream: the tokens of the batch.

    Returns:
        [L] float32; NaN where a token has no score.
    """
    batches = ChunkBatches(stream, Budget(retain=1.0).counts(ChunkShapes.of(stream)), len(stream))
    result = torch.full((len(stream) + 1,), torch.nan, device=stream.embeds.device)
    for batch in batches:
        frames = FramePairs.of(stream.embeds, batches, batch)
        first, second = video_score(frames.first, frames.second, frames.frame0.valid, frames.paired)
        result = result.scatter(0, frames.frame0.flat(len(stream)), first.flatten())
        if frames.frame1 is not None and second is not None:
            result = result.scatter(0, frames.frame1.flat(len(stream), frames.paired), second.flatten())
    return result[:-1]


def _cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if dtype is None else x.to(dtype)
