"""Join decisions into one `Selection`: those of successive batches of chunks, or of video and audio."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnisift.ops.chunk_batches import PaddedGroups
from omnisift.tokens import Modality, Selection, TokenStream

IndexedValues = tuple[Tensor, Tensor]
"""(indices in the stream, values)."""


@dataclass(frozen=True)
class Choice:
    """What an estimator decides in one training step, for ``G`` groups (chunks) of ``A`` tokens."""

    keep: Tensor
    """[G, A] bool: the tokens that stay in the prompt; all of them where ``bias`` is set."""
    gate: Tensor | None = None
    """[G, A] with a gradient: factor of the embeddings."""
    bias: Tensor | None = None
    """[G, A] with a gradient, at most 0: added to the attention logits of the token as a key."""
    mix: Tensor | None = None
    """[G, A, A] with a gradient, rows sum to 1: kept token ``i`` becomes the mean of all tokens, weighted by row
    ``i``."""
    log_prob: Tensor | None = None
    """[G] with a gradient: log-probability of the choice, for estimators that use the loss as a reward."""


@dataclass
class SelectionBuilder:
    """Indices in the stream, and values, batch by batch. The index ``L`` stands for padding."""

    kept: list[Tensor] = field(default_factory=list)
    """Indices of kept tokens."""
    video_scores: list[IndexedValues] = field(default_factory=list)
    """Saliency."""
    audio_scores: list[IndexedValues] = field(default_factory=list)
    """Score in (0, 1)."""
    gate: list[IndexedValues] = field(default_factory=list)
    """See `Selection.gate`."""
    bias: list[IndexedValues] = field(default_factory=list)
    """See `Selection.bias`."""
    merged: list[IndexedValues] = field(default_factory=list)
    """Embeddings [N, D] that replace those of the stream."""
    log_prob: list[IndexedValues] = field(default_factory=list)
    """(any index of each chunk, log-probability of its choice)."""

    def add_choice(self, audio: PaddedGroups, choice: Choice, scored: Tensor | None, embeds: Tensor) -> None:
        """Add what an estimator chose of a batch's audio.

        Args:
            audio: the audio tokens.
            choice: the estimator's choice.
            scored: [G] bool: rows with a score; in others only ``choice.keep`` counts. None means all.
            embeds: [L, D], the stream's embeddings.
        """
        length = len(embeds)
        index = audio.flat(length)
        self.kept.append(index.masked_fill(~choice.keep.flatten(), length))
        index = audio.flat(length, scored)
        if choice.gate is not None:
            self.gate.append((index, choice.gate.flatten()))
        if choice.bias is not None:
            self.bias.append((index, choice.bias.flatten()))
        if choice.mix is not None:
            tokens = audio.take(embeds)
            self.merged.append((index, (choice.mix.to(tokens.dtype) @ tokens).flatten(0, 1)))
        if choice.log_prob is not None:
            log_prob = choice.log_prob if scored is None else choice.log_prob * scored
            self.log_prob.append((audio.index[:, 0], log_prob))

    def build(self, stream: TokenStream) -> Selection:
        """Join the batches into the selection of ``stream``."""
        device, length = stream.embeds.device, len(stream)
        # One more entry than tokens: padding is written there and cut off.
        keep = torch.cat([stream.chunk < 0, torch.zeros(1, dtype=torch.bool)]).to(device, non_blocking=True)
        if self.kept:
            keep.index_fill_(0, torch.cat(self.kept), True)
        scores = torch.full((length + 1,), torch.nan, device=device)
        if self.video_scores:
            index, values = _concat(self.video_scores)
            scores.scatter_(0, index, values.float())
        if self.audio_scores:
            scores = scores.scatter(0, *_concat(self.audio_scores))  # not in place: these have a gradient
        keep = keep[:length]
        return Selection(
            keep=keep,
            scores=scores[:length],
            gate=_scattered(self.gate, torch.ones_like(scores)),
            bias=_scattered(self.bias, torch.zeros_like(scores)),
            embeds=self._merged_embeds(stream.embeds, keep),
            log_prob=self._row_log_prob(stream),
        )

    def _merged_embeds(self, embeds: Tensor, keep: Tensor) -> Tensor | None:
        if not self.merged:
            return None
        padded = torch.cat([embeds, embeds.new_zeros(1, embeds.shape[1])])
        return padded.index_copy(0, *_concat(self.merged))[:-1][keep]

    def _row_log_prob(self, stream: TokenStream) -> Tensor | None:
        if not self.log_prob:
            return None
        index, values = _concat(self.log_prob)
        rows = int(stream.sample.max()) + 1
        return values.new_zeros(rows).index_add(0, stream.sample.to(index.device, non_blocking=True)[index], values)


def _concat(parts: list[IndexedValues]) -> IndexedValues:
    indices, values = zip(*parts, strict=True)
    return torch.cat(indices), torch.cat(values)


def _scattered(parts: list[IndexedValues], base: Tensor) -> Tensor | None:
    """The values written into ``base`` [L + 1], without its last entry; None if there are none."""
    return base.scatter(0, *_concat(parts))[:-1] if parts else None


def join(stream: TokenStream, video: Selection, audio: Selection) -> Selection:
    """Combine two selections.

    Args:
        stream: the tokens of the batch.
        video: decides on video tokens.
        audio: decides on audio tokens; only it may have a gate, bias or log-probability.

    Returns:
        The combined selection; all other tokens are kept.
    """
    device = stream.embeds.device
    modality = torch.where(stream.chunk >= 0, stream.modality, int(Modality.TEXT)).to(device, non_blocking=True)
    is_audio, is_video = modality == Modality.AUDIO, modality == Modality.VIDEO
    keep = torch.where(is_audio, audio.keep, video.keep | ~is_video)
    scores = _joined_scores(is_audio, video.scores, audio.scores)
    # Merged embeddings: each selection replaces the kept rows of its own modality.
    embeds = None
    if video.embeds is not None or audio.embeds is not None:
        embeds = stream.embeds[keep]
        for part, mask in ((video, is_video), (audio, is_audio)):
            if part.embeds is not None:
                rows = torch.cumsum(part.keep, dim=0) - 1
                embeds[mask[keep]] = part.embeds[rows[mask & keep]].to(embeds.dtype)
    # Only audio has an estimator, and it leaves video and text as they are.
    gate = None
    if audio.gate is not None:
        gate = torch.where(is_audio, audio.gate, torch.ones_like(audio.gate))
    return Selection(keep, scores, gate, embeds, bias=audio.bias, log_prob=audio.log_prob)


def _joined_scores(is_audio: Tensor, video: Tensor | None, audio: Tensor | None) -> Tensor | None:
    if video is None and audio is None:
        return None
    missing = torch.full(is_audio.shape, torch.nan, device=is_audio.device)
    video, audio = (missing if scores is None else scores.float() for scores in (video, audio))
    return torch.where(is_audio, audio, video)
