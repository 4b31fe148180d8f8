"""The video-blind control: the same selector, looking at the wrong clip.

It keeps its own clip's video anchors, but scores the audio by another clip's anchors. What it loses against the real
thing is what vision guides; what it keeps is what loudness alone tells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.compressors import Compressor
from omnisift.errors import CompressorError
from omnisift.tokens import Modality, Selection, TokenStream


class ShuffledVideoControl(Compressor):
    """``inner`` with the video of ``donor`` [tokens, D] wherever audio is chosen; each row holds one clip like it."""

    name: ClassVar[str] = "blind"
    trained: ClassVar[bool] = True

    def __init__(self, inner: Compressor, donor: Tensor) -> None:
        super().__init__(inner.budget)
        self.inner = inner
        self.donor = donor

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """The inner method twice: for video on the true stream, for audio on the one with strange pictures."""
        video = torch.nonzero(stream.modality == Modality.VIDEO, as_tuple=True)[0]
        rows, rest = divmod(len(video), len(self.donor))
        if rest or rows != len(torch.unique(stream.sample)):
            raise CompressorError(
                f"the blind control needs one clip of {len(self.donor)} video tokens a row, got {len(video)} in all"
            )
        strange = stream.embeds.clone()
        strange[video.to(strange.device)] = self.donor.to(strange).repeat(rows, 1)
        own = self.inner.select(stream, counts)
        other = self.inner.select(replace(stream, embeds=strange), counts)
        audio = (stream.modality == Modality.AUDIO).to(own.keep.device)
        scores = None
        if own.scores is not None and other.scores is not None:
            scores = torch.where(audio, other.scores, own.scores)
        return Selection(keep=torch.where(audio, other.keep, own.keep), scores=scores)
