"""Which visual anchors each audio token attended to, by the selector's own modules, chunk by chunk."""

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
"""Anchors kept of each audio token."""


@torch.inference_mode()
def looks_of(method: Compressor, stream: TokenStream, keep: Tensor) -> AnchorAttention | None:
    """The anchors of ``keep`` [L] bool that the audio tokens of every chunk look at most.

    None unless ``method``, which decided on the sound, has a selector that looks at the picture. As in the method
    itself a chunk of which no picture was kept is guided by all of it, and a chunk of one audio token is not scored.
    """
    selector = method.selector if isinstance(method, OmniSiftCompressor) else None
    if selector is None or selector.config.guide == "self":
        return None
    keep, number = keep.cpu(), torch.cumsum(stream.clip >= 0, dim=0) - 1
    steps = steps_in_chunk(stream)
    found = []
    for chunk in range(int(stream.chunk.max()) + 1):
        here = stream.chunk == chunk
        audio = torch.nonzero(here & (stream.modality == Modality.AUDIO))[:, 0]
        video = here & (stream.modality == Modality.VIDEO)
        anchors = torch.nonzero(video & keep if bool((video & keep).any()) else video)[:, 0]
        if len(audio) < 2:
            continue
        pair = [stream.embeds[places.to(stream.embeds.device)].to(selector.dtype)[None] for places in (anchors, audio)]
        times = [steps[places].to(stream.embeds.device)[None] for places in (anchors, audio)]
        share = selector.attention(*pair, *times)[0].float().cpu()
        found.append((number[audio], *_highest(share, number[anchors])))
    if not found:
        return None
    token, chosen, shares = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return AnchorAttention(token, chosen, shares.astype(np.float32))


def _highest(share: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """([A, TOP] numbers, [A, TOP] shares) of [A, K] and [K]; -1 and 0 where there are fewer."""
    top = min(TOP, len(anchors))
    values, column = torch.sort(share, dim=1, descending=True, stable=True)
    chosen = torch.full((len(share), TOP), -1, dtype=torch.int64)
    chosen[:, :top] = anchors[column[:, :top]]
    shares = torch.zeros(len(share), TOP)
    shares[:, :top] = values[:, :top]
    return chosen, shares
