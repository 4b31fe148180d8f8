"""OmniZip: the kept audio decides how much video each chunk keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.base import Compressor
from omnisift.compressors.omnizip_audio import KeptAudio, choose_audio, consolidate
from omnisift.compressors.omnizip_video import chunk_totals, video_scores
from omnisift.errors import CompressorError
from omnisift.ops.contextual_anchors import check_share
from omnisift.ops.groups import group
from omnisift.ops.merging import averaged
from omnisift.tokens import Modality, Selection, TokenStream


class OmniZipCompressor(Compressor):
    """OmniZip's core (CVPR'26, arXiv 2511.14582): audio first, then video by the share of audio kept in each chunk.

    Totals are the budget's for each clip and modality (`Scope.CLIP`). Audio: `choose_audio` and `consolidate`. Video: a
    chunk that kept the share r of its audio drops ``.75 - .40 r`` of its video tokens; all rates are then shifted to
    meet the total (`chunk_totals`), and tokens are chosen by `video_scores`.

    Published rates are in .35 ... .75, so every chunk keeps at least a quarter and smaller budgets are an error. Above
    .65 of the video, no rates within the bounds exist: such a clip keeps the budget's own counts in every chunk, and so
    does a clip without audio.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        rebounded: whether the bounds are scaled around the budget's own drop rate, for any budget. Not published.
        contextual: share of the audio tokens that become anchors, in [0, 1).
        members: tokens that join each anchor, at least 0.
    """

    name: ClassVar[str] = "omnizip"
    idea: ClassVar[str] = "keeps attended audio, then more video where more audio was kept"
    source: ClassVar[str] = "arXiv 2511.14582"
    needs = frozenset({"audio_attention"})

    def __init__(
        self, budget: Budget | float, rebounded: bool = False, contextual: float = 0.05, members: int = 3
    ) -> None:
        super().__init__(budget)
        if not isinstance(rebounded, bool):
            raise CompressorError(f"rebounded of 'omnizip' is true or false, got {rebounded!r}")
        if isinstance(members, bool) or not isinstance(members, int) or members < 0:
            raise CompressorError(f"members of 'omnizip' is how many tokens join an anchor, 0 or more, got {members!r}")
        self.rebounded = rebounded
        self.contextual = check_share(self.name, contextual)
        self.members = members

    @property
    def label(self) -> str:
        """``omnizip`` or ``omnizip-rebounded``, with anchors and members where they are not the defaults."""
        label = f"{self.name}-rebounded" if self.rebounded else self.name
        label += "" if self.contextual == 0.05 else f"-c{self.contextual:g}"
        return label if self.members == 3 else f"{label}-g{self.members}"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select both modalities and consolidate the audio anchors. See `Compressor.select`.

        Raises:
            UnreachableBudget: the budget is below a quarter of the video.
        """
        audio = choose_audio(stream, counts, self.contextual)
        keep, scores = self._video(stream, counts, audio)
        scores = torch.where(audio.scores.isnan(), scores, audio.scores)
        return self._consolidated(stream, audio, keep & audio.keep, scores)

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """As half of a pair: the video that goes with OmniZip's own audio. See `Compressor.select_video`.

        Raises:
            UnreachableBudget: the budget is below a quarter of the video.
        """
        return Selection(*self._video(stream, counts, choose_audio(stream, counts, self.contextual)))

    def select_audio(self, stream: TokenStream, counts: Counts, video: Selection) -> Selection:  # noqa: ARG002
        """As half of a pair: reads the unpruned video only, so any video budget works."""
        audio = choose_audio(stream, counts, self.contextual)
        return self._consolidated(stream, audio, audio.keep, audio.scores)

    def _video(self, stream: TokenStream, counts: Counts, audio: KeptAudio) -> tuple[Tensor, Tensor]:
        """Kept tokens and scores, [L] each."""
        # Step 4: the total of each chunk.
        shapes = ChunkShapes.of(stream)
        kept = chunk_totals(counts, shapes, audio.shares(stream, shapes), self.rebounded)
        # Both frames keep the chunk's share, rounded down; the remainder goes to the first.
        frame1 = shapes.frame1 * kept // (shapes.frame0 + shapes.frame1)
        groups = group(stream, replace(counts, frame0=kept - frame1, frame1=frame1), modality=Modality.VIDEO)
        # Step 5: the tokens of each frame.
        scores = video_scores(stream)
        return groups.highest(scores), scores

    def _consolidated(self, stream: TokenStream, audio: KeptAudio, keep: Tensor, scores: Tensor) -> Selection:
        into, weight = consolidate(stream, audio, self.members)
        if not bool((into >= 0).any()):
            return Selection(keep=keep, scores=scores)
        return Selection(keep, scores, embeds=averaged(stream.embeds, keep, into, weight, self_weight=0.5))
