"""The picture's half of OmniSIFT: the visual anchors of a block of chunks, by STVP or by a learned score."""

from __future__ import annotations

import torch
from torch import Tensor

from omnisift.chunks import FRAME0, FRAME1
from omnisift.compressors.blocks import Block, Layout, Rectangle
from omnisift.compressors.tally import Tally
from omnisift.picture_score import PictureScore
from omnisift.stvp import norms, saliency, spatial_similarity, temporal_similarity


@torch.no_grad()  # a choice has no gradient: the selector passes it on to the anchors' embeddings
def prune_video(
    embeds: Tensor,
    layout: Layout,
    block: Block,
    tally: Tally,
    score_dtype: torch.dtype | None = None,
    picture: PictureScore | None = None,
) -> Rectangle:
    """Keep the least similar tokens of both frames; returns the visual anchors of the block.

    ``score_dtype`` is the dtype of the similarities, None that of ``embeds`` [L, D]; ``picture`` replaces STVP.
    """
    width = None if block.even else max(block.size[FRAME0], block.size[FRAME1])
    frame0 = layout.rectangle(block, FRAME0, width)
    frame1 = layout.rectangle(block, FRAME1, width) if block.size[FRAME1] else None
    first, second = _cast(frame0.take(embeds), score_dtype), None
    compared = None  # the rows whose two frames are of one size
    if frame1 is not None and frame0.index.shape == frame1.index.shape:
        second, compared = _cast(frame1.take(embeds), score_dtype), frame0.same_rows(frame1)
    if picture is None:
        norm = norms(first)
        similarity = spatial_similarity(first, frame0.valid, norm)
        changed = None if second is None else temporal_similarity(first, second, norm)
    else:
        similarity, changed = picture.similarities(first, second, frame0.valid, compared)
    tally.video.append((frame0.flat(len(embeds)), saliency(similarity).flatten()))
    anchors = frame0.lowest(similarity, layout.kept(block, FRAME0), block.kept[FRAME0], block.even)
    if frame1 is not None:
        if changed is None:
            changed = torch.zeros(frame1.index.shape, device=embeds.device)  # sizes differ: all of it stays
        else:
            tally.video.append((frame1.flat(len(embeds), compared), saliency(changed).flatten()))
        kept = frame1.lowest(changed, layout.kept(block, FRAME1), block.kept[FRAME1], block.even)
        anchors = anchors.beside(kept)
    tally.kept.append(anchors.flat(len(embeds)))
    return anchors


def _cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if dtype is None else x.to(dtype)
