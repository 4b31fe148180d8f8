"""OmniZip: the sound decides how much of the picture each chunk keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.anchors import checked_share
from omnisift.compressors.base import Compressor
from omnisift.compressors.groups import group
from omnisift.compressors.merging import averaged
from omnisift.compressors.omnizip_audio import Sound, choose_sound, consolidate
from omnisift.compressors.omnizip_video import chunk_totals, picture_scores
from omnisift.errors import CompressorError
from omnisift.tokens import Modality, Selection, TokenStream


class OmniZipCompressor(Compressor):
    """OmniZip's core (CVPR'26, arXiv 2511.14582): sound first, then the picture by the sound's share in each chunk.

    Totals are the budget's for each clip and modality (`Scope.CLIP`). Sound: `choose_sound` and `consolidate`. Picture:
    a chunk of whose sound the share r was kept drops ``.75 - .40 r`` of its video tokens; all rates are then moved to
    meet the total (`chunk_totals`), and tokens chosen by `picture_scores`.

    Published rates lie in .35 ... .75, so that no chunk keeps less than a quarter: smaller budgets are an error.
    ``rebounded`` scales the bounds around the budget's own drop rate, for any budget ("OmniZip (rebounded)"; not
    published). Above .65 of the picture no rates within the bounds exist: such a clip keeps the budget's own counts in
    every chunk, and so does a clip without sound.
    """

    name: ClassVar[str] = "omnizip"
    idea: ClassVar[str] = "keeps attended sound, then more picture where more sound was kept"
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
        self.contextual = checked_share(self.name, contextual)
        self.members = members

    @property
    def label(self) -> str:
        """``omnizip`` or ``omnizip-rebounded``, with anchors and members where they are not the defaults."""
        label = f"{self.name}-rebounded" if self.rebounded else self.name
        label += "" if self.contextual == 0.05 else f"-c{self.contextual:g}"
        return label if self.members == 3 else f"{label}-g{self.members}"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Both modalities, with the anchors consolidated."""
        sound = choose_sound(stream, counts, self.contextual)
        keep, scores = self._picture(stream, counts, sound)
        scores = torch.where(sound.scores.isnan(), scores, sound.scores)
        return self._consolidated(stream, sound, keep & sound.keep, scores)

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Half of a pair: the picture that goes with OmniZip's own sound."""
        return Selection(*self._picture(stream, counts, choose_sound(stream, counts, self.contextual)))

    def select_audio(self, stream: TokenStream, counts: Counts, picture: Selection) -> Selection:  # noqa: ARG002
        """Half of a pair: needs no picture but the whole one, so no budget of it is too small."""
        sound = choose_sound(stream, counts, self.contextual)
        return self._consolidated(stream, sound, sound.keep, sound.scores)

    def _picture(self, stream: TokenStream, counts: Counts, sound: Sound) -> tuple[Tensor, Tensor]:
        shapes = ChunkShapes.of(stream)
        kept = chunk_totals(counts, shapes, sound.shares(stream, shapes), self.rebounded)
        # Both frames keep the chunk's share, rounded down; what is missing goes to the first.
        frame1 = shapes.frame1 * kept // (shapes.frame0 + shapes.frame1)
        groups = group(stream, replace(counts, frame0=kept - frame1, frame1=frame1), modality=Modality.VIDEO)
        scores = picture_scores(stream)
        return groups.highest(scores), scores

    def _consolidated(self, stream: TokenStream, sound: Sound, keep: Tensor, scores: Tensor) -> Selection:
        into, weight = consolidate(stream, sound, self.members)
        if not bool((into >= 0).any()):
            return Selection(keep=keep, scores=scores)
        return Selection(keep, scores, embeds=averaged(stream.embeds, keep, into, weight, own=0.5))
