"""Control for video guidance: audio is scored with the video anchors of another clip.

Video tokens are selected as usual. The accuracy lost against the unchanged selector is due to guidance by video; what
remains is due to the audio alone.
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
    """Select video as ``inner`` does, and audio as it does for the video embeddings of another clip.

    Args:
        inner: The method.
        donor: [V, D] video embeddings of the other clip. Each sample of a batch holds one clip with V video tokens.
    """

    name: ClassVar[str] = "blind"
    trained: ClassVar[bool] = True

    def __init__(self, inner: Compressor, donor: Tensor) -> None:
        super().__init__(inner.budget)
        self.inner = inner
        self.donor = donor

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Run the inner method on the true stream for video, and on the stream with exchanged video for audio."""
        video = torch.nonzero(stream.modality == Modality.VIDEO, as_tuple=True)[0]
        rows, rest = divmod(len(video), len(self.donor))
        if rest or rows != len(torch.unique(stream.sample)):
            raise CompressorError(
                f"the control needs one clip of {len(self.donor)} video tokens per sample, got {len(video)} in all"
            )
        exchanged = stream.embeds.clone()
        exchanged[video.to(exchanged.device)] = self.donor.to(exchanged).repeat(rows, 1)
        true = self.inner.select(stream, counts)
        other = self.inner.select(replace(stream, embeds=exchanged), counts)
        audio = (stream.modality == Modality.AUDIO).to(true.keep.device)
        scores = None
        if true.scores is not None and other.scores is not None:
            scores = torch.where(audio, other.scores, true.scores)
        return Selection(keep=torch.where(audio, other.keep, true.keep), scores=scores)
