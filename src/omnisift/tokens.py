"""The nouns of the library: what a compressor looks at (`TokenStream`) and what it says (`Selection`).

A stream is a whole batch, flat: the rows of the batch lie one after another along ``L``, so ragged batches need no
padding of their own and one prompt is a view, not a copy. Everything that can be known without looking at values lies
on the CPU; only ``embeds`` (and extras) live on the model's device, so counting and grouping never wait for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor


class Modality(IntEnum):
    """What a token is. TEXT also covers everything that is never compressed: images, plain audio, padding."""

    TEXT = 0
    VIDEO = 1
    AUDIO = 2


@dataclass(frozen=True)
class TokenStream:
    """The merged input embeddings of a batch, and where and when each token is.

    ``L`` counts all tokens of all rows (padding included, as TEXT); ``D`` is the language model's width.
    A *clip* is one video of the prompt with its own sound: two videos in one prompt are two clips.
    """

    embeds: Tensor
    """[L, D] float, on the model's device. Never written to."""
    modality: Tensor
    """[L] int8 on the CPU, values of `Modality`."""
    position: Tensor
    """[3, L] int64 on the CPU: the host's rotary ids (time, height, width)."""
    time: Tensor
    """[L] float32 on the CPU: seconds since the start of the token's own clip; 0 for text."""
    chunk: Tensor
    """[L] int64 on the CPU: number of the paper's chunk, over the whole batch; -1 where nothing may be dropped."""
    frame: Tensor
    """[L] int64 on the CPU: 0 or 1 for video tokens (first or second frame of the chunk), -1 for all others."""
    clip: Tensor
    """[L] int64 on the CPU: number of the clip, counted over the whole batch; -1 outside any clip."""
    sample: Tensor
    """[L] int64 on the CPU: row of the batch."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What a method declared in ``needs`` and the adapter supplied, by name."""

    def __post_init__(self) -> None:
        length = self.embeds.shape[0]
        for name in ("modality", "time", "chunk", "frame", "clip", "sample"):
            value: Tensor = getattr(self, name)
            if value.shape != (length,) or value.device.type != "cpu":
                raise ValueError(f"{name} must be [{length}] on the CPU, got {tuple(value.shape)} on {value.device}")
        if self.position.shape != (3, length) or self.position.device.type != "cpu":
            raise ValueError(f"position must be [3, {length}] on the CPU, got {tuple(self.position.shape)}")

    def __len__(self) -> int:
        return int(self.embeds.shape[0])

    @property
    def width(self) -> int:
        """``D``, the width of the embeddings."""
        return int(self.embeds.shape[1])


@dataclass(frozen=True)
class Selection:
    """What stays. Decided once, then applied to embeddings, positions, masks, labels and the picture."""

    keep: Tensor
    """[L] bool on the stream's device; True for every token outside chunks."""
    scores: Tensor | None = None
    """[L] float on the stream's device, higher stays; NaN where a token was not scored. For inspector and training."""
    gate: Tensor | None = None
    """[L] float with a gradient, or None: the straight-through multiplier, exactly 1.0 on kept tokens."""
    embeds: Tensor | None = None
    """[keep.sum(), D], or None: what replaces the kept embeddings, for methods that merge."""
    bias: Tensor | None = None
    """[L] float with a gradient, at most 0, or None: added to every attention logit that looks at the token. Only in
    training, for estimators that fade tokens instead of dropping them."""
    log_prob: Tensor | None = None
    """[B] float with a gradient, or None: log-probability of each row's choice, for estimators that draw."""

    @property
    def indices(self) -> Tensor:
        """[K] int64 on the stream's device: the kept tokens in their old order. One device sync."""
        return torch.nonzero(self.keep, as_tuple=True)[0]
