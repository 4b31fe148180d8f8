"""Find the video tokens that each audio token attends to most, with the selector's own attention."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from omnisift.chunks import steps_in_chunk
from omnisift.compressors import Compressor
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.inspector.trace import AnchorAttention
from omnisift.tokens import Modality, TokenStream

TOP = 3
"""Number of anchors recorded per audio token."""


@torch.inference_mode()
def anchor_attention(method: Compressor, stream: TokenStream, keep: Tensor) -> AnchorAttention | None:
    """Attention of each audio token over the kept video tokens of its chunk.

    As in the method itself, a chunk whose video was dropped entirely is guided by all of it, and a chunk with a single
    audio token is not scored.

    Args:
        method: the compressor that selected the audio.
        stream: what it was shown.
        keep: [L] bool, what it returned.

    Returns:
        None unless ``method`` has a selector that attends to the video.
    """
    selector = method.selector if isinstance(method, OmniSiftCompressor) else None
    if selector is None or selector.config.guide == "self":
        return None
    device = stream.embeds.device
    # The trace numbers clip tokens without the text.
    keep, number = keep.cpu(), torch.cumsum(stream.clip >= 0, dim=0) - 1
    steps = steps_in_chunk(stream)
    parts = []
    for chunk in range(int(stream.chunk.max()) + 1):
        inside = stream.chunk == chunk
        audio = torch.nonzero(inside & (stream.modality == Modality.AUDIO))[:, 0]
        if len(audio) < 2:
            continue
        video = inside & (stream.modality == Modality.VIDEO)
        anchors = torch.nonzero(video & keep if bool((video & keep).any()) else video)[:, 0]
        # Same inputs as in the compressor: embeddings, and steps for selectors with a time embedding.
        embeds = [stream.embeds[index.to(device)].to(selector.dtype)[None] for index in (anchors, audio)]
        times = [steps[index].to(device)[None] for index in (anchors, audio)]
        share = selector.attention(*embeds, *times)[0].float().cpu()
        parts.append((number[audio], *_highest(share, number[anchors])))
    if not parts:
        return None
    token, top, shares = (torch.cat(columns).numpy() for columns in zip(*parts, strict=True))
    return AnchorAttention(token, top, shares.astype(np.float32))


def _highest(share: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """([A, TOP] indices, [A, TOP] shares) from ``share`` [A, K] and ``anchors`` [K], padded with -1 and 0."""
    count = min(TOP, len(anchors))
    values, column = torch.sort(share, dim=1, descending=True, stable=True)
    top = torch.full((len(share), TOP), -1, dtype=torch.int64)
    top[:, :count] = anchors[column[:, :count]]
    shares = torch.zeros(len(share), TOP)
    shares[:, :count] = values[:, :count]
    return top, shares
