"""Stage I of OmniPack: salient tokens, then tokens that cover the others, then merging of what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.attended import NEEDS, encoder_attention
from omnisift.compressors.base import Compressor
from omnisift.ops.diversity import density, separation
from omnisift.ops.frames import Frames, of_modality
from omnisift.ops.groups import Scope, Window, group
from omnisift.ops.segments import averaged, mean_distance
from omnisift.ops.similarity import blocks, cosine, pair_cosine, rounded
from omnisift.ops.topk import row_topk
from omnisift.tokens import Modality, Selection, TokenStream

NEIGHBOURS = 7
"""k of the density."""
COVER_FAR, COVER_SALIENCE = 0.20, 0.35
"""Coverage part: what the largest distance in place adds to a distance, and the largest salience to a density."""
MERGE_SALIENCE = 0.10
"""What the largest salience of a kept token adds to its affinity with a dropped one, in cosine."""
EPSILON = 1e-6
"""In the denominator of `minmax`, as published."""


@dataclass(frozen=True)
class Rule:
    """The published constants of one modality."""

    eta: float
    """Share of the kept tokens that is chosen by salience."""
    far: float
    """What the largest distance in place subtracts from the affinity of a dropped token, in cosine."""
    beta: float
    """Weight of a kept token against the mean of its cluster."""
    axes: tuple[int, ...]
    """Rows of the position that count: time, height, width."""


CHUNKS = 8
"""Chunks of a window: 16 frames, or the audio of their time."""
RULES = {
    Modality.VIDEO: Rule(eta=0.25, far=0.10, beta=0.62, axes=(0, 1, 2)),
    Modality.AUDIO: Rule(eta=0.35, far=0.05, beta=0.65, axes=(0,)),
}
"""The published constants."""


class OmniPackCompressor(Compressor):
    """Stage I of OmniPack (arXiv 2608.03812): salience, coverage and merging, in windows of one modality.

    Windows are `Scope.CHUNK` with eight chunks (16 frames, or their audio); a window keeps the sum of the budget's
    counts. Deviations from paper and code:

    - only stage I; stage II is in the decoder, where it halves the tokens again;
    - windows instead of all tokens of a clip, which has too many pairs. Scaling to [0, 1] and the ratio that sets the
      event's weight are by window, too; change and curvature do read across its edge, at the clip's next token;
    - attention is that within a frame or within a chunk's audio;
    - the redundancy test of the importance part is left out: below its target the published code takes a token
      whatever the test says, and at its target it stops;
    - the only frame of a clip has spatial detail; the code gives it no event. Frames of unequal size have no change;
    - distances in place come from the rotary ids instead of grid indices: the same, scaled, for evenly sampled clips;
    - of equal values the lowest index is taken; cosines are rounded to about 1e-6 (`omnisift.ops.similarity`).

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        attention: whether salience is multiplied by encoder attention, as published. The default reads embeddings only,
            as the published code does where there is no attention; no published result uses that.
    """

    name: ClassVar[str] = "omnipack"
    idea: ClassVar[str] = "keeps salient tokens and density peaks, and merges the rest into them"
    source: ClassVar[str] = "arXiv 2608.03812"

    def __init__(self, budget: Budget | float, attention: bool = False) -> None:
        super().__init__(budget)
        self.check_choice("attention", attention, (True, False))
        self.attention = attention
        self.needs = NEEDS if attention else frozenset()

    @property
    def label(self) -> str:
        """``omnipack-I`` or ``omnipack-I-attention``, since the published method has a second stage."""
        return f"{self.name}-I-attention" if self.attention else f"{self.name}-I"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select and merge in every window of each modality. See `Compressor.select`."""
        embeds, device = stream.embeds, stream.embeds.device
        keep = torch.ones(len(stream), dtype=torch.bool, device=device)
        into = torch.full((len(stream),), -1, device=device)
        weight = torch.ones(len(stream), device=device)
        for modality, rule in RULES.items():
            signals = self._signals(stream, modality)
            position = stream.position[list(rule.axes)].to(device, non_blocking=True)
            groups = group(stream, counts, Scope.CHUNK, modality=modality, chunks=CHUNKS)
            for window in groups.windows(device, matrices=4):
                # Salience, and the two distances: in content and in place.
                salience = _salience(window, [signal[window.index] for signal in signals], modality)
                similar = cosine(embeds, window.index)
                apart = distances(position[:, window.index].movedim(0, -1), window.valid)
                # Kept tokens, and where the dropped ones go.
                chosen = choose(similar, apart, salience, window.valid, window.kept, rule.eta)
                column, share = assign(similar, apart, salience, chosen, window.valid, rule)
                token, valid = window.index[window.valid], window.valid
                keep[token], weight[token] = chosen[valid], share[valid]
                into[token] = window.index.gather(1, column)[valid]
        into = torch.where(keep[into.clamp(min=0)], into, -1)  # a window that keeps nothing merges nothing
        return Selection(keep=keep, embeds=averaged(embeds, keep, into, weight))

    def _signals(self, stream: TokenStream, modality: Modality) -> list[Tensor]:
        """Evidence and curvature of video or change of audio, and attention if used; [L] float32 each."""
        signals = list(video_events(stream)) if modality is Modality.VIDEO else [audio_changes(stream)]
        if self.attention:
            signals.append(torch.nan_to_num(encoder_attention(stream)))
        return signals


def _salience(window: Window, signals: list[Tensor], modality: Modality) -> Tensor:
    """Combine the signals [G, N] to a salience [G, N] float32 >= 0.

    Video: event = minmax(evidence) + 0.35 minmax(curvature), salience = minmax(attention) (1 + w minmax(event)).
    Audio: salience = minmax(attention) + 0.25 minmax(change). Without attention: the event or change alone, since
    salience is only ranked or scaled to [0, 1].
    """
    scaled = [minmax(signal, window.valid) for signal in signals]
    if modality is Modality.AUDIO:
        change, *attention = scaled
        return attention[0] + 0.25 * change if attention else change
    evidence, curvature, *attention = scaled
    event = evidence + 0.35 * curvature
    if not attention:
        return event
    weight = _event_weight(window.kept / window.valid.sum(dim=1)).unsqueeze(1)
    return attention[0] * (1 + weight * minmax(event, window.valid))


def _event_weight(ratio: Tensor) -> Tensor:
    """0.35 for kept shares from 0.42 on, 0.35 of that up to 0.14, linear in between (published code)."""
    return 0.35 * (0.35 + 0.65 * ((ratio - 0.14) / 0.28).clamp(0, 1))


def choose(similar: Tensor, apart: Tensor, salience: Tensor, valid: Tensor, kept: Tensor, eta: float) -> Tensor:
    """Choose the kept tokens of every window: a share by salience, the rest as density peaks among what remains.

    Args:
        similar: [G, N, N] cosine; padding is not read.
        apart: [G, N, N] distance in place, in any unit.
        salience: [G, N] float; the highest are kept.
        valid: [G, N] bool, False on padding.
        kept: [G] int64, kept tokens of each window.
        eta: share chosen by salience, at least one token.

    Returns:
        [G, N] bool. Of equal values the lowest index is taken.
    """
    # Importance part: the most salient tokens.
    important = torch.minimum(kept, (kept.double() * eta).round().long().clamp(min=1))  # half to even, as published
    keep = row_topk(salience, important, valid)
    # Coverage part: density peaks among the rest, by distance in content and place.
    rest = valid & ~keep
    distance = minmax(apart, rest.unsqueeze(1)).mul_(COVER_FAR).sub_(similar).add_(1).clamp_(min=0)
    peaks = density(distance, rest, NEIGHBOURS, squared=True) * (1 + COVER_SALIENCE * minmax(salience, rest))
    return keep | row_topk(peaks * separation(distance, peaks, rest), kept - important, rest)


def assign(
    similar: Tensor, apart: Tensor, salience: Tensor, keep: Tensor, valid: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Assign each dropped token to a kept one.

    A dropped token joins where ``cos - far minmax(apart) + 0.1 minmax(salience of the kept)`` is largest, with share
    ``w = 0.5 + 0.5 minmax(salience of the dropped)``. The published result is ``beta x + (1 - beta) m``, with m the
    mean of the kept x (weight 1) and its members. For W the sum of shares, that is a weighted mean with
    ``w (1 - beta) / (1 + beta W)`` against the kept token's 1, which is returned.

    Args:
        similar: [G, N, N] cosine.
        apart: [G, N, N] distance in place, in any unit.
        salience: [G, N] float.
        keep: [G, N] bool, from `choose`.
        valid: [G, N] bool, False on padding.
        rule: constants of the modality.

    Returns:
        The column of the kept token that each token joins, [G, N] int64, and its weight, [G, N] float32.
    """
    # The kept token with the highest affinity.
    affinity = minmax(apart, keep.unsqueeze(1)).mul_(-rule.far).add_(similar)
    affinity += MERGE_SALIENCE * minmax(salience, keep).unsqueeze(1)
    into = affinity.masked_fill_(~keep.unsqueeze(1), -torch.inf).argmax(dim=2)
    dropped = valid & ~keep
    share = torch.where(dropped, 0.5 + 0.5 * minmax(salience, dropped), 0.0)
    # W: a sum over a full matrix [G, N, N], as scattered additions vary in order on a GPU.
    joined = affinity.zero_().scatter_(2, into.unsqueeze(2), share.unsqueeze(2)).sum(dim=1).gather(1, into)
    weight = share * (1 - rule.beta) / (1 + rule.beta * joined)
    return into, torch.where(keep, 1.0, weight)


def distances(position: Tensor, valid: Tensor) -> Tensor:
    """Compute Euclidean distances in place, after scaling every axis of a window to [0, 1].

    Args:
        position: [G, N, A] int64: rotary ids of A axes.
        valid: [G, N] bool, False on padding.

    Returns:
        [G, N, N] float32.
    """
    inside = valid.unsqueeze(-1)
    high = position.masked_fill(~inside, torch.iinfo(torch.int64).min).amax(dim=1, keepdim=True)
    low = position.masked_fill(~inside, torch.iinfo(torch.int64).max).amin(dim=1, keepdim=True)
    scaled = (position - low).float() / (high - low).clamp(min=1).float()
    # Not by matrix products: they would make equal places differ by noise.
    return torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist")


def minmax(values: Tensor, among: Tensor) -> Tensor:
    """Scale values to [0, 1] over the last axis.

    Args:
        values: [..., N] float.
        among: bool, broadcast: the entries that count.

    Returns:
        A new tensor; 0 where ``among`` is False.
    """
    low = values.masked_fill(~among, torch.inf).amin(dim=-1, keepdim=True)
    high = values.masked_fill(~among, -torch.inf).amax(dim=-1, keepdim=True)
    return ((values - low) / (high - low + EPSILON)).masked_fill_(~among, 0.0)


def video_events(stream: TokenStream) -> tuple[Tensor, Tensor]:
    """Compute evidence and curvature of the video tokens.

    Evidence is the largest of the cosine distances to the same place in the previous frame, in the next frame, and to
    the mean of the token's own frame. Curvature is the cosine distance between the step from the previous frame and
    the step to the next one. A frame that is missing or of another size counts as no change and no curvature.

    Returns:
        Evidence and curvature, [L] float32 in [0, 2] on the device each; 0 for all but video tokens.
    """
    frames, embeds = Frames.of(stream), stream.embeds.detach()
    previous, following = frames.neighbour(-1), frames.neighbour(1)
    evidence = mean_distance(embeds, frames.number, len(frames))  # NaN outside, which `rounded` makes 0
    for other in (previous, following):
        evidence = torch.maximum(evidence, 1 - pair_cosine(embeds, other, default=1.0))
    return rounded(evidence), _curvature(embeds, previous, following)


def audio_changes(stream: TokenStream) -> Tensor:
    """Compute the change of the audio tokens.

    Returns:
        [L] float32 in [0, 2] on the device: the larger cosine distance to the previous and the next audio token of the
        clip; 0 for all but audio tokens, and where there is no other.
    """
    audio = torch.nonzero(of_modality(stream, Modality.AUDIO), as_tuple=True)[0]
    same_clip = stream.clip[audio[1:]] == stream.clip[audio[:-1]]
    previous, following = torch.full((len(stream),), -1), torch.full((len(stream),), -1)
    previous[audio[1:]] = torch.where(same_clip, audio[:-1], -1)
    following[audio[:-1]] = torch.where(same_clip, audio[1:], -1)
    embeds = stream.embeds.detach()
    similar = (pair_cosine(embeds, other, default=1.0) for other in (previous, following))
    return rounded(1 - torch.minimum(*similar))


def _curvature(embeds: Tensor, previous: Tensor, following: Tensor) -> Tensor:
    """Curvature [L] float32; ``previous`` and ``following`` are token indices on the CPU, -1 for none."""
    curvature = torch.zeros(len(embeds), device=embeds.device)
    between = torch.nonzero((previous >= 0) & (following >= 0), as_tuple=True)[0]
    for part in blocks(len(between), embeds.shape[1]):
        block = between[part]
        old, now, new = (
            embeds[i.to(embeds.device, non_blocking=True)].float() for i in (previous[block], block, following[block])
        )
        curvature[block.to(embeds.device, non_blocking=True)] = 1 - F.cosine_similarity(now - old, new - now, dim=-1)
    return rounded(curvature)
