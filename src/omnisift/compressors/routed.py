"""Routes a chunk's budget between picture and sound by measured informativeness."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.base import Compressor
from omnisift.compressors.distinctiveness import FLAT, part_means, part_of, unlikeness
from omnisift.compressors.groups import group
from omnisift.compressors.integer_shares import allocate
from omnisift.errors import CompressorError
from omnisift.tokens import Selection, TokenStream


class RoutedCompressor(Compressor):
    """Give more of the budget to whichever of picture and sound says more just now.

    The idea of OmniSelect (arXiv 2605.18041) without its audio-image model and its question: there AudioCLIP compares
    both with keywords, here a modality's informativeness is how unlike each other its tokens are (mean of
    `unlikeness`: STVP's score for the picture, which is spatial in first and temporal in second frames, and distance
    to the chunk's mean for sound). Each is divided by its mean over the clip, so that neither modality wins by scale.

    The total of both modalities together is the budget's, the split is the method's: counts per modality differ from
    those of other methods. ``scope="chunk"`` holds the total of every chunk, ``"clip"`` that of the clip, so that
    chunks compete as well. Every modality of a chunk keeps between 1 - ``swing`` and 1 + ``swing`` times its nominal
    count, and no more than it has. The rule for the integers is that of `routed_counts`. Within a modality the most
    unlike tokens stay, in every frame and every chunk's sound. Half of a pair has nothing to route: nominal counts.
    """

    name: ClassVar[str] = "routed"
    idea: ClassVar[str] = "routes a chunk's budget between picture and sound by measured informativeness"
    source: ClassVar[str] = "after arXiv 2605.18041"

    def __init__(self, budget: Budget | float, scope: str = "chunk", swing: float = 0.5) -> None:
        super().__init__(budget)
        if scope not in ("chunk", "clip"):
            raise CompressorError(f"scope of 'routed' is chunk or clip, got {scope!r}")
        if isinstance(swing, bool) or not isinstance(swing, (int, float)) or not 0 <= swing <= 1:
            raise CompressorError(f"swing of 'routed' is the share of a count that may move, in [0, 1], got {swing!r}")
        self.scope = scope
        self.swing = float(swing)

    @property
    def label(self) -> str:
        """``routed``, with scope and swing where they are not the defaults."""
        scope = "" if self.scope == "chunk" else f"-{self.scope}"
        return f"{self.name}{scope}" if self.swing == 0.5 else f"{self.name}{scope}-swing{self.swing:g}"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Measure, route, then rank every frame and every chunk's sound. One device sync."""
        scores = unlikeness(stream)
        shapes = ChunkShapes.of(stream)
        counts = routed_counts(counts, shapes, informativeness(stream, shapes, scores.cpu()), self.scope, self.swing)
        return Selection(keep=group(stream, counts).highest(scores), scores=scores)

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Half of a pair: the most unlike tokens at the budget's own counts."""
        scores = unlikeness(stream)
        return Selection(keep=group(stream, counts).highest(scores), scores=scores)

    def select_audio(self, stream: TokenStream, counts: Counts, picture: Selection) -> Selection:  # noqa: ARG002
        """Half of a pair: as `select_video`."""
        return self.select_video(stream, counts)


def informativeness(stream: TokenStream, shapes: ChunkShapes, scores: Tensor) -> Tensor:
    """[C, 2] float64 >= 0 on the CPU, picture and sound: mean score of the chunk over that of the clip.

    ``scores`` [L] float on the CPU. 1 where the clip's mean is nothing but rounding.
    """
    scores, part = torch.nan_to_num(scores), part_of(stream)
    clips = int(shapes.clip.max()) + 1 if len(shapes) else 0
    clip = torch.where(part >= 0, 2 * stream.clip + part % 2, -1)
    mean = part_means(scores, part, 2 * len(shapes))[:-1].view(-1, 2)
    usual = part_means(scores, clip, 2 * clips)[:-1].view(-1, 2)[shapes.clip]
    return torch.where(usual > FLAT, mean / usual.clamp(min=FLAT), 1.0)


def routed_counts(counts: Counts, shapes: ChunkShapes, informative: Tensor, scope: str, swing: float) -> Counts:
    """``counts`` with the total of every chunk or clip split anew over picture and sound.

    Of its nominal count n each part has ``ceil((1 - swing) n)`` for sure and gets at most ``floor((1 + swing) n)``, or
    its size. What is left of the total goes by n times informativeness, by largest remainder, ties to the first (the
    picture of a chunk before its sound, earlier chunks before later): of two parts that is rounding to the nearest.
    Equal informativeness gives the nominal counts back, but for rounding.
    """
    nominal = torch.stack([counts.frame0 + counts.frame1, counts.audio], dim=1)
    size = torch.stack([shapes.frame0 + shapes.frame1, shapes.audio], dim=1)
    # A billionth undoes the error of products like 10 * 0.9, which must not round up.
    low = torch.ceil(nominal * (1 - swing) - 1e-9).long()
    high = torch.minimum(torch.floor(nominal * (1 + swing) + 1e-9).long(), size)
    weight = nominal * informative
    extra = _split_chunks if scope == "chunk" else _split_clips
    kept = low + extra(weight, high - low, nominal - low, shapes.clip)
    # Both frames of a chunk in their nominal ratio, rounded in favour of the first.
    video = nominal[:, 0].clamp(min=1)
    frame1 = torch.minimum(kept[:, 0] * counts.frame1 // video, shapes.frame1)
    frame0 = torch.minimum(kept[:, 0] - frame1, shapes.frame0)
    return Counts(frame0=frame0, frame1=kept[:, 0] - frame0, audio=kept[:, 1])


def _split_chunks(weight: Tensor, room: Tensor, spare: Tensor, clip: Tensor) -> Tensor:  # noqa: ARG001
    """[C, 2] int64: each chunk's ``spare`` [C, 2] tokens together, over its parts by ``weight``, at most ``room``."""
    total = spare.sum(dim=1)
    weight = torch.where(weight.sum(dim=1, keepdim=True) > 0, weight, spare.double())  # neither says anything
    picture = (total * weight[:, 0] / weight.sum(dim=1).clamp(min=1e-30) + 0.5 + 1e-9).long()
    picture = torch.maximum(torch.minimum(picture, room[:, 0]), total - room[:, 1])
    return torch.stack([picture, total - picture], dim=1)


def _split_clips(weight: Tensor, room: Tensor, spare: Tensor, clip: Tensor) -> Tensor:
    """[C, 2] int64: each clip's ``spare`` tokens together, over all its parts by ``weight``, at most ``room``."""
    found = torch.zeros_like(room)
    for number in torch.unique(clip).tolist():
        here = clip == number
        total = int(spare[here].sum())
        found[here] = allocate(weight[here].flatten(), room[here].flatten(), total).view(-1, 2)
    return found
