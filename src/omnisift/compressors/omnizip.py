"""OmniZip: the kept audio decides how much video each chunk keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.base import Compressor
from omnisift.errors import UnreachableBudget
from omnisift.ops.contextual_anchors import anchor_count, evenly_among
from omnisift.ops.diversity import density, separation
from omnisift.ops.frames import Frames
from omnisift.ops.groups import Groups, Scope, group
from omnisift.ops.integer_shares import allocate
from omnisift.ops.segments import averaged
from omnisift.ops.similarity import best_match, pair_cosine
from omnisift.ops.topk import segment_topk
from omnisift.tokens import Modality, Selection, TokenStream

LOW, HIGH = 0.35, 0.75
"""Published bounds of a chunk's drop rate."""
NOMINAL = 0.6
"""The drop rate of the video as a whole for which the bounds were published."""
NEIGHBOURS = 5
"""k of the density."""


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
        self.check_choice("rebounded", rebounded, (True, False))
        self.check_number("contextual", contextual, 0, 1, below=True)
        self.check_number("members", members, 0, integer=True)
        self.rebounded = rebounded
        self.contextual = float(contextual)
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
        frame1 = shapes.frame1 * kept // (shapes.frame0 + shapes.frame1).clamp(min=1)
        groups = group(stream, replace(counts, frame0=kept - frame1, frame1=frame1), modality=Modality.VIDEO)
        # Step 5: the tokens of each frame.
        scores = video_scores(stream)
        return groups.highest(scores), scores

    def _consolidated(self, stream: TokenStream, audio: KeptAudio, keep: Tensor, scores: Tensor) -> Selection:
        into, weight = consolidate(stream, audio, self.members)
        if not bool((into >= 0).any()):
            return Selection(keep=keep, scores=scores)
        return Selection(keep, scores, embeds=averaged(stream.embeds, keep, into, weight, self_weight=0.5))


@dataclass(frozen=True)
class KeptAudio:
    """The audio that OmniZip keeps. All on the device."""

    keep: Tensor
    """[L] bool: dominant tokens and anchors; True for all but the audio of chunks."""
    anchor: Tensor
    """[L] bool: the anchors."""
    scores: Tensor
    """[L] float32: attention received within the clip; NaN for all but the audio of chunks."""

    def shares(self, stream: TokenStream, shapes: ChunkShapes) -> Tensor:
        """Return the kept share of each chunk's audio, [C] float64 on the CPU; NaN without audio. One device sync."""
        audio = (stream.modality == Modality.AUDIO) & (stream.chunk >= 0)
        kept = torch.bincount(stream.chunk[audio & self.keep.cpu()], minlength=len(shapes))
        return kept.double() / shapes.audio


def choose_audio(stream: TokenStream, counts: Counts, contextual: float) -> KeptAudio:
    """Choose dominant tokens by attention over the clip, then anchors among the rest (steps 1 and 2).

    Published: round((1 - rho_a) N) dominant tokens, and c N anchors on top. Here both together are the budget's total
    for the clip, so c N of it are anchors (at most all but one), and there are fewer dominant tokens by that number.

    Args:
        stream: a stream with the extra ``audio_attention``.
        counts: kept tokens of every chunk.
        contextual: c, the share of the audio tokens that become anchors.

    Returns:
        The kept audio.
    """
    device = stream.embeds.device
    groups = group(stream, counts, Scope.CLIP, modality=Modality.AUDIO)
    anchors = anchor_count(groups.size, groups.kept, contextual)
    audio = (groups.group >= 0).to(device, non_blocking=True)
    # Step 1: the most attended tokens.
    scores = torch.where(audio, stream.extras["audio_attention"].to(device, non_blocking=True).float(), torch.nan)
    dominant = replace(groups, kept=groups.kept - anchors).highest(scores)
    # Step 2: evenly spaced tokens among the others.
    anchor = evenly_among(groups, ~dominant, anchors)
    return KeptAudio(dominant | anchor, anchor, scores)


def consolidate(stream: TokenStream, kept_audio: KeptAudio, members: int) -> tuple[Tensor, Tensor]:
    """Assign dropped audio tokens to anchors (step 3).

    Every dropped token belongs to its most similar anchor (cosine). Of an anchor's tokens, the ``members`` most similar
    to any video token of the clip join it, weighted by the softmax of that similarity; the others are dropped. The
    video is the unpruned one; in a clip of audio alone, the similarity is that to the anchor. Runs clip by clip, with
    two device syncs in all.

    Args:
        stream: the tokens of the batch.
        kept_audio: from `choose_audio`.
        members: tokens that join each anchor.

    Returns:
        The anchor that each token joins, [L] int64 on the device (-1: none), and its weight, [L] float32.
    """
    device, length = stream.embeds.device, len(stream)
    into, weight = torch.full((length,), -1, device=device), torch.zeros(length, device=device)
    audio, video = ((stream.modality == kind) & (stream.chunk >= 0) for kind in (Modality.AUDIO, Modality.VIDEO))
    dropped, anchor = audio & ~kept_audio.keep.cpu(), audio & kept_audio.anchor.cpu()
    for clip in torch.unique(stream.clip[anchor]).tolist():
        in_clip = (_indices(tokens & (stream.clip == clip), device) for tokens in (dropped, anchor, video))
        tokens, anchors, video_tokens = in_clip
        if len(tokens):
            similarity, nearest = best_match(stream.embeds, tokens, anchors)
            if len(video_tokens):
                similarity, _ = best_match(stream.embeds, tokens, video_tokens)
            # The best members of each anchor join it.
            row = torch.searchsorted(anchors, nearest)
            joins = segment_topk(similarity, row, torch.full_like(anchors, members))
            into[tokens] = torch.where(joins, nearest, -1)
            weight[tokens] = similarity.exp()  # cosines: no overflow; `averaged` divides by the sum
    return into, weight


def _indices(mask: Tensor, device: torch.device) -> Tensor:
    return torch.nonzero(mask, as_tuple=True)[0].to(device, non_blocking=True)


def chunk_totals(counts: Counts, shapes: ChunkShapes, shares: Tensor, rebounded: bool) -> Tensor:
    """Divide each clip's video total over its chunks by the share of audio that they kept (step 4).

    Args:
        counts: kept tokens of every chunk, for the totals.
        shapes: token counts of the chunks.
        shares: [C] float64: kept share of the chunk's audio, NaN without audio.
        rebounded: whether the bounds are scaled around the clip's own drop rate.

    Returns:
        [C] int64 on the CPU: kept video tokens of each chunk.

    Raises:
        UnreachableBudget: a clip's total is below what the bounds allow.
    """
    size, totals = shapes.frame0 + shapes.frame1, counts.frame0 + counts.frame1
    for clip in torch.unique(shapes.clip).tolist():
        in_clip = shapes.clip == clip
        if bool(size[in_clip].any()) and not bool(shares[in_clip].isnan().all()):
            totals[in_clip] = _clip_totals(totals[in_clip], size[in_clip], shares[in_clip], rebounded)
    return totals


def _clip_totals(nominal: Tensor, size: Tensor, shares: Tensor, rebounded: bool) -> Tensor:
    """Step 4 for one clip: drop rates ``high - (high - low) * share``, shifted to meet the total.

    Published: rates are scaled to the mean, except for the extreme chunks of clips with more than two, clipped, and the
    remainder is spread once, which misses the total by a little. Here each chunk gets its minimum, and what its
    rate gives above that is scaled so that integers meet the total exactly (`allocate`). Bounds are rounded outwards. A
    chunk without audio has the clip's own rate, as published.
    """
    total, tokens = int(nominal.sum()), int(size.sum())
    rho = 1 - total / tokens
    low, high = _rebounded(rho) if rebounded else (LOW, HIGH)
    rate = torch.where(shares.isnan(), rho, high - (high - low) * shares).clamp(low, high)
    # A billionth undoes the error of products such as 100 * (1 - .35).
    minimum = torch.floor(size * (1 - high) + 1e-9).long()
    maximum = torch.ceil(size * (1 - low) - 1e-9).long()
    if total < int(minimum.sum()):
        raise UnreachableBudget(
            f"omnizip can't keep {total} of {tokens} video tokens: it keeps a quarter of every chunk, at least "
            f"{int(minimum.sum())}; raise retain, retain_video or tokens, or set rebounded=true"
        )
    if total > int(maximum.sum()):
        return nominal
    return minimum + allocate(size * (1 - rate) - minimum, maximum - minimum, total - int(minimum.sum()))


def _rebounded(rho: float) -> tuple[float, float]:
    """Bounds around ``rho`` that equal the published ones at .6 and stay in [0, 1).

    The lower one keeps its ratio to what is dropped, the upper one its ratio to what is kept.
    """
    return rho * LOW / NOMINAL, 1 - (1 - rho) * (1 - HIGH) / (1 - NOMINAL)


def video_scores(stream: TokenStream) -> Tensor:
    """Score the video tokens (step 5, ISTC).

    First frames: density peaks. Second frames: one minus the cosine with the same place in the first. A second frame
    whose size differs from its first is scored like a first one.

    Returns:
        [L] float32 on the device; the highest are kept. NaN for all but video tokens.
    """
    # Second frames.
    frames = Frames.of(stream)
    first = frames.partner()
    scores = 1 - pair_cosine(stream.embeds, first)
    # First frames, and others without a partner.
    alone = torch.where(first < 0, frames.number, -1)
    groups = Groups(alone, torch.zeros(len(frames), dtype=torch.int64))
    for window in groups.windows(stream.embeds.device, width=stream.width):
        peaks = _peaks(stream.embeds[window.index], window.valid)
        scores[window.index[window.valid]] = peaks[window.valid]
    return scores


def _peaks(embeds: Tensor, valid: Tensor) -> Tensor:
    """Density times separation [G, N] float32 of ``embeds`` [G, N, D], by cosine distance."""
    unit = F.normalize(embeds.float(), dim=-1)
    distance = (1 - torch.bmm(unit, unit.transpose(1, 2))).clamp(min=0)
    # A product may differ from its mirror image in the last bit, which would decide between two equal tokens.
    distance = (distance + distance.transpose(1, 2)) / 2
    local_density = density(distance, valid, NEIGHBOURS)
    return local_density * separation(distance, local_density, valid)
