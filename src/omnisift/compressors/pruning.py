"""The picture's half of OmniSIFT: the visual anchors of a block of chunks, by STVP or by a learned score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import FRAME0, FRAME1, ChunkShapes
from omnisift.compressors.chunk_batches import Block, Layout, PaddedGroups
from omnisift.compressors.selection_builder import SelectionBuilder
from omnisift.stvp import norms, saliency, spatial_similarity, temporal_similarity
from omnisift.tokens import TokenStream
from omnisift.video_score import VideoScore


@dataclass(frozen=True)
class Pictures:
    """The frames of the chunks of a block."""

    frame0: PaddedGroups
    frame1: PaddedGroups | None
    first: Tensor
    """[G, N, D]"""
    second: Tensor | None
    """[G, N, D], or None: no chunk has a second frame of its first one's size."""
    alike: Tensor | None
    """[G] bool: the chunks whose two frames are of one size; None if all are."""

    @classmethod
    def of(cls, embeds: Tensor, layout: Layout, block: Block, dtype: torch.dtype | None = None) -> Pictures:
        """Take them out of ``embeds`` [L, D], in ``dtype``."""
        width = None if block.even else max(block.size[FRAME0], block.size[FRAME1])
        frame0 = layout.rectangle(block, FRAME0, width)
        frame1 = layout.rectangle(block, FRAME1, width) if block.size[FRAME1] else None
        first = _cast(frame0.take(embeds), dtype)
        if frame1 is None or frame0.index.shape != frame1.index.shape:
            return cls(frame0, frame1, first, None, None)
        return cls(frame0, frame1, first, _cast(frame1.take(embeds), dtype), frame0.same_rows(frame1))


@torch.no_grad()  # a choice has no gradient: the selector passes it on to the anchors' embeddings
def prune_video(
    embeds: Tensor,
    layout: Layout,
    block: Block,
    tally: SelectionBuilder,
    score_dtype: torch.dtype | None = None,
    picture: VideoScore | None = None,
) -> PaddedGroups:
    """Keep the least similar tokens of both frames; returns the visual anchors of the block.

    ``score_dtype`` is the dtype of the similarities, None that of ``embeds`` [L, D]; ``picture`` replaces STVP.
    """
    seen = Pictures.of(embeds, layout, block, score_dtype)
    similarity, changed = _stvp(seen) if picture is None else _learned(picture, seen)
    tally.video.append((seen.frame0.flat(len(embeds)), saliency(similarity).flatten()))
    anchors = seen.frame0.lowest(similarity, layout.kept(block, FRAME0), block.kept[FRAME0], block.even)
    if seen.frame1 is not None:
        if changed is None:
            changed = torch.zeros(seen.frame1.index.shape, device=embeds.device)  # sizes differ: all of it stays
        else:
            tally.video.append((seen.frame1.flat(len(embeds), seen.alike), saliency(changed).flatten()))
        kept = seen.frame1.lowest(changed, layout.kept(block, FRAME1), block.kept[FRAME1], block.even)
        anchors = anchors.beside(kept)
    tally.kept.append(anchors.flat(len(embeds)))
    return anchors


def _stvp(seen: Pictures) -> tuple[Tensor, Tensor | None]:
    """[G, N] of the first and of the second frame, low stays."""
    norm = norms(seen.first)
    changed = None if seen.second is None else temporal_similarity(seen.first, seen.second, norm)
    return spatial_similarity(seen.first, seen.frame0.valid, norm), changed


def _learned(picture: VideoScore, seen: Pictures) -> tuple[Tensor, Tensor | None]:
    return picture.similarities(seen.first, seen.second, seen.frame0.valid, seen.alike)


def picture_logits(picture: VideoScore, stream: TokenStream) -> Tensor:
    """[L] float32 with a gradient: the learned score of every video token of a chunk, NaN where there is none."""
    layout = Layout(stream, Budget(retain=1.0).counts(ChunkShapes.of(stream)), len(stream))
    result = torch.full((len(stream) + 1,), torch.nan, device=stream.embeds.device)
    for block in layout.blocks():
        seen = Pictures.of(stream.embeds, layout, block)
        first, second = picture(seen.first, seen.second, seen.frame0.valid, seen.alike)
        result = result.scatter(0, seen.frame0.flat(len(stream)), first.flatten())
        if seen.frame1 is not None and second is not None:
            result = result.scatter(0, seen.frame1.flat(len(stream), seen.alike), second.flatten())
    return result[:-1]


def _cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if dtype is None else x.to(dtype)
