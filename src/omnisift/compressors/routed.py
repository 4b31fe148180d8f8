"""Route a chunk's budget to video or audio, whichever is more informative."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.base import Compressor
from omnisift.ops.frames import EPSILON, chunk_modality, distinctiveness
from omnisift.ops.groups import group
from omnisift.ops.integer_shares import allocate
from omnisift.ops.segments import value_means
from omnisift.tokens import Selection, TokenStream


class RoutedCompressor(Compressor):
    """Give more of the budget to the modality that is more informative in a chunk.

    The idea of OmniSelect (arXiv 2605.18041) without its audio-image model and the question: there AudioCLIP compares
    both modalities with keywords; here informativeness is how much the tokens of a modality differ (the mean of
    `distinctiveness`). Each is divided by its mean over the clip, so that neither modality wins by scale.

    The total of both modalities is the budget's, the split is the method's: counts per modality differ from those of
    other methods. Every modality of a chunk keeps between 1 - ``swing`` and 1 + ``swing`` times its nominal count, and
    no more than it has (`routed_counts`). Within a modality the most distinctive tokens are kept, in every frame and
    every chunk's audio. Half of a pair has nothing to route and keeps nominal counts.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        scope: ``chunk`` keeps the total of every chunk, ``clip`` that of the clip, so that chunks compete as well.
        swing: share of a count that may move, in [0, 1].
    """

    name: ClassVar[str] = "routed"
    idea: ClassVar[str] = "splits a chunk's budget between video and audio by how informative each is"
    source: ClassVar[str] = "after arXiv 2605.18041"

    def __init__(self, budget: Budget | float, scope: str = "chunk", swing: float = 0.5) -> None:
        super().__init__(budget)
        self.check_choice("scope", scope, ("chunk", "clip"))
        self.check_number("swing", swing, 0, 1)
        self.scope = scope
        self.swing = float(swing)

    @property
    def label(self) -> str:
        """``routed``, with scope and swing where they are not the defaults."""
        scope = "" if self.scope == "chunk" else f"-{self.scope}"
        return f"{self.name}{scope}" if self.swing == 0.5 else f"{self.name}{scope}-swing{self.swing:g}"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Measure, route, then rank every frame and every chunk's audio. One device sync. See `Compressor.select`."""
        scores = distinctiveness(stream)
        shapes = ChunkShapes.of(stream)
        counts = routed_counts(counts, shapes, informativeness(stream, shapes, scores.cpu()), self.scope, self.swing)
        return Selection(keep=group(stream, counts).highest(scores), scores=scores)

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """As half of a pair: the most distinctive tokens, at the budget's own counts. See `Compressor.select_video`."""
        scores = distinctiveness(stream)
        return Selection(keep=group(stream, counts).highest(scores), scores=scores)

    def select_audio(self, stream: TokenStream, counts: Counts, video: Selection) -> Selection:  # noqa: ARG002
        """As half of a pair: like `select_video`."""
        return self.select_video(stream, counts)


def informativeness(stream: TokenStream, shapes: ChunkShapes, scores: Tensor) -> Tensor:
    """Compute the informativeness of video and audio in each chunk: their mean score over that of the clip.

    Args:
        stream: the tokens of the batch.
        shapes: token counts of the chunks.
        scores: [L] float on the CPU: distinctiveness.

    Returns:
        [C, 2] float64 >= 0 on the CPU; 1 where the clip's mean is rounding only.
    """
    scores, part = torch.nan_to_num(scores), chunk_modality(stream)
    clips = int(shapes.clip.max()) + 1 if len(shapes) else 0
    clip = torch.where(part >= 0, 2 * stream.clip + part % 2, -1)
    mean = value_means(scores, part, 2 * len(shapes))[:-1].view(-1, 2)
    clip_mean = value_means(scores, clip, 2 * clips)[:-1].view(-1, 2)[shapes.clip]
    return torch.where(clip_mean > EPSILON, mean / clip_mean.clamp(min=EPSILON), 1.0)


def routed_counts(counts: Counts, shapes: ChunkShapes, informative: Tensor, scope: str, swing: float) -> Counts:
    """Split the total of every chunk or clip between video and audio by informativeness.

    A part (one modality of a chunk) with nominal count n gets at least ``ceil((1 - swing) n)`` and at most
    ``floor((1 + swing) n)``, or its size. What is left of the total is divided by n times informativeness, by largest
    remainder, ties to the first (video before audio, earlier chunks before later). Equal informativeness gives the
    nominal counts, up to rounding.

    Args:
        counts: nominal counts of every chunk.
        shapes: token counts of the chunks.
        informative: [C, 2] float64 on the CPU, from `informativeness`.
        scope: ``chunk`` or ``clip``.
        swing: share of a count that may move, in [0, 1].

    Returns:
        The routed counts.
    """
    nominal = torch.stack([counts.frame0 + counts.frame1, counts.audio], dim=1)
    size = torch.stack([shapes.frame0 + shapes.frame1, shapes.audio], dim=1)
    # Bounds. A billionth undoes the error of products such as 10 * 0.9, which must not round up.
    low = torch.ceil(nominal * (1 - swing) - 1e-9).long()
    high = torch.minimum(torch.floor(nominal * (1 + swing) + 1e-9).long(), size)
    # Divide what is left.
    weight = nominal * informative
    split = _split_chunks if scope == "chunk" else _split_clips
    kept = low + split(weight, high - low, nominal - low, shapes.clip)
    # Both frames of a chunk in their nominal ratio, rounded in favour of the first.
    video = nominal[:, 0].clamp(min=1)
    frame1 = torch.minimum(kept[:, 0] * counts.frame1 // video, shapes.frame1)
    frame0 = torch.minimum(kept[:, 0] - frame1, shapes.frame0)
    return Counts(frame0=frame0, frame1=kept[:, 0] - frame0, audio=kept[:, 1])


def _split_chunks(weight: Tensor, capacity: Tensor, spare: Tensor, clip: Tensor) -> Tensor:  # noqa: ARG001
    """Each chunk's ``spare`` [C, 2] tokens together, over its parts by ``weight``, at most ``capacity``: [C, 2]."""
    total = spare.sum(dim=1)
    weight = torch.where(weight.sum(dim=1, keepdim=True) > 0, weight, spare.double())  # neither is informative
    video = (total * weight[:, 0] / weight.sum(dim=1).clamp(min=1e-30) + 0.5 + 1e-9).long()
    video = torch.maximum(torch.minimum(video, capacity[:, 0]), total - capacity[:, 1])
    return torch.stack([video, total - video], dim=1)


def _split_clips(weight: Tensor, capacity: Tensor, spare: Tensor, clip: Tensor) -> Tensor:
    """Each clip's ``spare`` [C, 2] tokens together, over all its parts by ``weight``, at most ``capacity``: [C, 2]."""
    result = torch.zeros_like(capacity)
    for number in torch.unique(clip).tolist():
        in_clip = clip == number
        total = int(spare[in_clip].sum())
        result[in_clip] = allocate(weight[in_clip].flatten(), capacity[in_clip].flatten(), total).view(-1, 2)
    return result
