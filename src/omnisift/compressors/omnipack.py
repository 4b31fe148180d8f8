"""Stage I of OmniPack: salient tokens, then tokens that cover the others, then merging of what is left."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.attended import NEEDS, encoder_attention
from omnisift.compressors.base import Compressor
from omnisift.compressors.events import audio_changes, video_events
from omnisift.compressors.packing import Rule, assign, choose, distances, minmax
from omnisift.errors import CompressorError
from omnisift.ops.cosine import cosine
from omnisift.ops.groups import MAX_ELEMENTS, Scope, Window, group
from omnisift.ops.merging import averaged
from omnisift.tokens import Modality, Selection, TokenStream

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
    - of equal values the lowest index is taken; cosines are rounded to about 1e-6 (`omnisift.ops.cosine`).

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
        if not isinstance(attention, bool):
            raise CompressorError(f"attention of 'omnipack' is true or false, got {attention!r}")
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
            position = stream.position[list(rule.axes)].to(device)
            groups = group(stream, counts, Scope.CHUNK, modality=modality, chunks=CHUNKS)
            for window in groups.windows(device, max_elements=MAX_ELEMENTS // 4):  # about six matrices at a time
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
