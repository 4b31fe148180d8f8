"""What a compressor reads (`TokenStream`) and what it returns (`Selection`).

A stream is a flat batch: the rows follow one another along ``L``, so ragged batches need no padding of their own and
one prompt is a view, not a copy. Everything known without reading values is on the CPU; only ``embeds`` and the extras
are on the model's device, so counting and grouping never wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor


class Modality(IntEnum):
    """Kind of a token. TEXT is everything that is never compressed: images, padding; plain audio by default."""

    TEXT = 0
    VIDEO = 1
    AUDIO = 2
    SUBTITLE = 3
    """Text with a time in a clip: its subtitles or a transcript. Larger numbers are free (docs/add-a-modality.md)."""


@dataclass(frozen=True, repr=False)
class TokenStream:
    """The merged input embeddings of a batch, with the place and time of each token.

    ``L`` counts the tokens of all rows (padding included, as TEXT); ``D`` is the width of the language model. A *clip*
    is one video of the prompt with its own audio track; two videos in one prompt are two clips. Audio outside a video
    (plain audio) is a clip of its own where it is compressed.

    Raises:
        ValueError: a field has another shape than ``embeds``, or is not on the CPU.
    """

    embeds: Tensor
    """[L, D] float on the model's device. Never written to."""
    modality: Tensor
    """[L] int8 on the CPU: values of `Modality`."""
    position: Tensor
    """[3, L] int64 on the CPU: microseconds since the start of the token's clip, and a video token's row and column in
    its frame; 0 elsewhere. These are no rotary ids, whose meaning depends on the host."""
    time: Tensor
    """[L] float32 on the CPU: seconds since the start of the token's clip; 0 for text."""
    chunk: Tensor
    """[L] int64 on the CPU: number of the paper's chunk, counted over the batch; -1 where nothing may be dropped."""
    frame: Tensor
    """[L] int64 on the CPU: 0 or 1 for video tokens (first or second frame of the chunk), -1 for all others."""
    clip: Tensor
    """[L] int64 on the CPU: number of the clip, counted over the batch; -1 outside clips."""
    sample: Tensor
    """[L] int64 on the CPU: row of the batch."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Values that a method declares in ``needs`` and the adapter supplies, [L] float on the model's device each:
    ``video_attention``, ``audio_attention_window`` and ``audio_attention``, the attention that each token receives in
    the last layer of its encoder, within its frame, its chunk's audio and its clip's audio."""

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

    def __repr__(self) -> str:
        """Show counts instead of tensors."""
        video, audio = (int((self.modality == kind).sum()) for kind in (Modality.VIDEO, Modality.AUDIO))
        extras = f", extras={sorted(self.extras)}" if self.extras else ""
        return f"TokenStream({len(self)} tokens: {video} video, {audio} audio{extras})"

    @property
    def width(self) -> int:
        """``D``, the width of the embeddings."""
        return int(self.embeds.shape[1])


@dataclass(frozen=True, repr=False)
class Selection:
    """Which tokens are kept. Decided once, then applied to embeddings, positions, masks and labels."""

    keep: Tensor
    """[L] bool on the stream's device; True for every token outside chunks."""
    scores: Tensor | None = None
    """[L] float on the stream's device, or None: the highest are kept; NaN where a token has no score."""
    gate: Tensor | None = None
    """[L] float with a gradient, or None: the straight-through factor, exactly 1.0 on kept tokens."""
    embeds: Tensor | None = None
    """[K, D], or None: replaces the K kept embeddings, for methods that merge tokens."""
    bias: Tensor | None = None
    """[L] float with a gradient, at most 0, or None: added to the attention logits of the token as a key. Only in
    training, for estimators that fade tokens instead of dropping them."""
    log_prob: Tensor | None = None
    """[B] float with a gradient, or None: log-probability of each row's choice, for estimators that sample."""

    def __repr__(self) -> str:
        """Show counts instead of tensors."""
        optional = ("scores", "gate", "embeds", "bias", "log_prob")
        present = "".join(f", {name}" for name in optional if getattr(self, name) is not None)
        return f"Selection({int(self.keep.sum())} of {len(self.keep)} tokens kept{present})"

    @property
    def indices(self) -> Tensor:
        """[K] int64 on the stream's device: the kept tokens, in order. Costs one device sync."""
        return torch.nonzero(self.keep, as_tuple=True)[0]
