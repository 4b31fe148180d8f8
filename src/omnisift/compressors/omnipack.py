"""The first stage of OmniPack: important tokens, then tokens that cover the rest, then the rest merged into them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.attended import NEEDS, encoder_attention
from omnisift.compressors.base import Compressor
from omnisift.compressors.cosine import cosine
from omnisift.compressors.events import picture_events, sound_changes
from omnisift.compressors.groups import CELLS, Scope, Window, group
from omnisift.compressors.merging import averaged
from omnisift.compressors.packing import Rule, choose, distances, joins, minmax
from omnisift.errors import CompressorError
from omnisift.tokens import Modality, Selection, TokenStream

CHUNKS = 8
"""Chunks of a window: 16 frames, or the sound of their time."""
RULES = {
    Modality.VIDEO: Rule(eta=0.25, far=0.10, beta=0.62, axes=(0, 1, 2)),
    Modality.AUDIO: Rule(eta=0.35, far=0.05, beta=0.65, axes=(0,)),
}


class OmniPackCompressor(Compressor):
    """Stage I of OmniPack (arXiv 2608.03812): salience, coverage, merging, in windows of one modality.

    Windows are `Scope.CHUNK` with eight chunks (16 frames, or their sound); a window keeps the sum of the budget's
    counts. ``attention`` multiplies salience by what the encoders attend to, as published; the default needs
    embeddings only, as the published code does where there is no attention (no published row uses that). Deviations
    from paper and code:

    - only stage I; stage II lives in the decoder, where it halves the tokens again;
    - windows instead of all tokens of a clip, whose pairs are too many. Scaling to [0, 1] and the ratio that sets the
      event's weight are by window, too; change and curvature do look across its edge, at the clip's next token;
    - attention is that within a frame or within a chunk's sound;
    - the redundancy test of the importance part is left out: below its target the published code takes a token
      whatever the test says, and at its target it stops;
    - the only frame of a clip has spatial detail; the code gives it no event. Frames of unequal size do not change;
    - distances in place come from the rotary ids instead of grid indices: the same, scaled, for evenly sampled clips;
    - ties take the lowest index; cosines are rounded to about 1e-6 (`omnisift.compressors.cosine`).
    """

    name: ClassVar[str] = "omnipack"
    idea: ClassVar[str] = "keeps salient tokens and density peaks, merges the rest into them"
    source: ClassVar[str] = "arXiv 2608.03812"

    def __init__(self, budget: Budget | float, attention: bool = False) -> None:
        super().__init__(budget)
        if not isinstance(attention, bool):
            raise CompressorError(f"attention of 'omnipack' is true or false, got {attention!r}")
        self.attention = attention
        self.needs = NEEDS if attention else frozenset()

    @property
    def label(self) -> str:
        """``omnipack-I`` or ``omnipack-I-attention``: the full method is another one."""
        return f"{self.name}-I-attention" if self.attention else f"{self.name}-I"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Choose and merge in every window of each modality."""
        embeds, device = stream.embeds, stream.embeds.device
        keep = torch.ones(len(stream), dtype=torch.bool, device=device)
        into = torch.full((len(stream),), -1, device=device)
        weight = torch.ones(len(stream), device=device)
        for modality, rule in RULES.items():
            signals = self._signals(stream, modality)
            position = stream.position[list(rule.axes)].to(device)
            groups = group(stream, counts, Scope.CHUNK, modality=modality, chunks=CHUNKS)
            for window in groups.windows(device, cells=CELLS // 4):  # some six matrices live at a time
                salience = _salience(window, [signal[window.place] for signal in signals], modality)
                similar = cosine(embeds, window.place)
                apart = distances(position[:, window.place].movedim(0, -1), window.valid)
                chosen = choose(similar, apart, salience, window.valid, window.kept, rule.eta)
                column, share = joins(similar, apart, salience, chosen, window.valid, rule)
                here, valid = window.place[window.valid], window.valid
                keep[here], weight[here] = chosen[valid], share[valid]
                into[here] = window.place.gather(1, column)[valid]
        into = torch.where(keep[into.clamp(min=0)], into, -1)  # a window that keeps nothing merges nothing
        return Selection(keep=keep, embeds=averaged(embeds, keep, into, weight))

    def _signals(self, stream: TokenStream, modality: Modality) -> list[Tensor]:
        """[L] float32 each: evidence and curvature of the picture or change of the sound; attention, if used, last."""
        signals = list(picture_events(stream)) if modality is Modality.VIDEO else [sound_changes(stream)]
        if self.attention:
            signals.append(torch.nan_to_num(encoder_attention(stream)))
        return signals


def _salience(window: Window, signals: list[Tensor], modality: Modality) -> Tensor:
    """[G, N] float32 >= 0, from signals [G, N].

    Picture: event = minmax(evidence) + 0.35 minmax(curvature), salience = minmax(attention) (1 + w minmax(event));
    sound: salience = minmax(attention) + 0.25 minmax(change). Without attention, the event or change alone: whoever
    reads salience scales it to [0, 1] or ranks it.
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
    """0.35 from a kept share of 0.42 on, down to 0.35 of that at 0.14 and below, linear between (published code)."""
    return 0.35 * (0.35 + 0.65 * ((ratio - 0.14) / 0.28).clamp(0, 1))
