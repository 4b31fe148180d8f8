"""Spatio-temporal video pruning (STVP): the visual anchors of every chunk (paper eq 2-5). No parameters.

The lowest similarities are kept. Ranking by ``1 - similarity`` would round away differences that decide the order, so
the subtraction (`saliency`) is for reports only; the released code ranks by similarity too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import FRAME0, FRAME1, ChunkShapes
from omnisift.ops.chunk_batches import ChunkBatch, ChunkBatches, PaddedGroups
from omnisift.ops.selection_builder import SelectionBuilder
from omnisift.tokens import TokenStream
from omnisift.video_score import VideoScore

_EPS = 1e-8
"""Lower bound of a norm, as in torch's cosine_similarity."""

_STRIP = {"cpu": 1 << 18}
"""Elements processed at a time: a megabyte on a CPU, so that it stays in the core's own cache ..."""

_LARGE_STRIP = 1 << 22
"""... and more on other devices, bounded to save memory."""


def spatial_similarity(frame0: Tensor, valid: Tensor | None = None, norm0: Tensor | None = None) -> Tensor:
    """Compute the cosine of every token of the first frame with the mean of its frame (paper eq 2-3).

    Args:
        frame0: [C, P, D] tokens of the first frames.
        valid: [C, P] bool, False on padding; None if nothing is padded.
        norm0: [C, P] `norms` of ``frame0``, if known.

    Returns:
        [C, P]; values of padding are meaningless.
    """
    # eq 2: the mean token of the frame.
    if valid is None:
        mean = frame0.mean(dim=1, keepdim=True)
    else:
        weight = valid.to(frame0.dtype) / valid.sum(dim=1, keepdim=True)
        mean = torch.bmm(weight.unsqueeze(1), frame0)
    # eq 3, without "1 -": cosine with the mean.
    if _is_half_precision(frame0):
        return torch.cat([F.cosine_similarity(x, mean, dim=-1) for x in _strips(frame0)], dim=1)
    dots = torch.bmm(frame0, mean.transpose(1, 2)).squeeze(-1)
    return dots / ((norms(frame0) if norm0 is None else norm0) * norms(mean))


def temporal_similarity(frame0: Tensor, frame1: Tensor, norm0: Tensor | None = None) -> Tensor:
    """Compute the cosine of every token of the second frame with the same place in the first frame (paper eq 4).

    The first frame is the unpruned one.

    Args:
        frame0: [C, P, D] tokens of the first frames.
        frame1: [C, P, D] tokens of the second frames.
        norm0: [C, P] `norms` of ``frame0``, if known.

    Returns:
        [C, P].
    """
    # eq 4, without "1 -".
    pairs = zip(_strips(frame0), _strips(frame1), strict=True)
    if _is_half_precision(frame0):
        return torch.cat([F.cosine_similarity(x, y, dim=-1) for x, y in pairs], dim=1)
    dots = torch.cat([(x * y).sum(dim=-1) for x, y in pairs], dim=1)
    return dots / ((norms(frame0) if norm0 is None else norm0) * norms(frame1))


def saliency(similarity: Tensor) -> Tensor:
    """Return ``1 - similarity``, the paper's score, of which the highest are kept; for reports."""
    return 1 - similarity


def norms(x: Tensor) -> Tensor:
    """Return the norms of ``x`` [..., D] over the last axis, at least 1e-8."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm.clamp_(min=_EPS)


def _strips(x: Tensor) -> tuple[Tensor, ...]:
    """Views of ``x`` [C, P, D] along P, of bounded size."""
    elements = _STRIP.get(x.device.type, _LARGE_STRIP)
    return torch.split(x, max(1, elements * x.shape[1] // max(1, x.numel())), dim=1)


def _is_half_precision(x: Tensor) -> bool:
    # There, every rounding step decides ties, so torch's own cosine is used, as in the released code. In float32 it
    # is five times slower than the same formula in fewer passes.
    return x.dtype in (torch.bfloat16, torch.float16)


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
        The kept video tokens of each chunk, first frame before second; none in chunks of audio alone.
    """
    if not batch.size[FRAME0]:
        return batches.padded(batch, FRAME0)
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
        if temporal is not None:
            builder.video_scores.append((frames.frame1.flat(length, frames.paired), saliency(temporal).flatten()))
        else:
            # Frames of unequal size: where the counts keep the second one in full, any order will do.
            temporal = torch.zeros(frames.frame1.index.shape, device=embeds.device)
        # Elsewhere such a frame is pruned like a first one, by its own mean.
        alone = batches.prunes_unpaired(batch)
        if bool(alone.any()):
            alone = alone.to(embeds.device)
            tokens, valid = _cast(frames.frame1.take(embeds), score_dtype), frames.frame1.valid
            own = spatial_similarity(tokens, valid)
            if video_score is not None:
                own, _ = video_score.similarities(tokens, None, valid)
            builder.video_scores.append((frames.frame1.flat(length, alone), saliency(own).flatten()))
            temporal = torch.where(alone[:, None], own, temporal.to(own.dtype))
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
        if not batch.size[FRAME0]:
            continue
        frames = FramePairs.of(stream.embeds, batches, batch)
        first, second = video_score(frames.first, frames.second, frames.frame0.valid, frames.paired)
        result = result.scatter(0, frames.frame0.flat(len(stream)), first.flatten())
        if frames.frame1 is not None and second is not None:
            result = result.scatter(0, frames.frame1.flat(len(stream), frames.paired), second.flatten())
    return result[:-1]


def _cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if dtype is None else x.to(dtype)
