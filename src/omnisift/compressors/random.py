"""Random selection, stratified: the same budget in every frame and chunk, tokens drawn by a seeded hash."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.compressors.base import ScoredCompressor
from omnisift.tokens import TokenStream

_MIX = (-4658895280553007687, -7723592293110705685)
"""The two odd multipliers of the 64-bit SplitMix finaliser, as signed integers."""
_STEP = -7046029254386353131
"""2^64 divided by the golden ratio, as a signed integer: the same generator's increment."""


class RandomCompressor(ScoredCompressor):
    """Keep a random subset. The draw depends on the seed, the clip's number in its prompt and the token's place in the
    clip, so it is the same on every device, in every run and beside any batch neighbour."""

    name: ClassVar[str] = "random"

    def __init__(self, budget: Budget, seed: int = 0) -> None:
        super().__init__(budget)
        self.seed = seed

    def score(self, stream: TokenStream) -> Tensor:
        """[L] float32, uniform in [0, 1)."""
        clip, place = _place_in_clip(stream)
        state = _mix(torch.tensor(self.seed, dtype=torch.int64) + _STEP)
        bits = _mix(_mix(state + clip * _STEP) + place * _STEP)
        return (((bits >> 40) & 0xFFFFFF).float() / 2**24).to(stream.embeds.device)


def _place_in_clip(stream: TokenStream) -> tuple[Tensor, Tensor]:
    """[L] int64 each on the CPU: number of the token's clip in its sample, and of the token in its clip."""
    inside = stream.clip >= 0
    clips = int(stream.clip.max()) + 1 if len(stream) else 0
    index = torch.arange(len(stream))
    first = torch.full((clips,), len(stream)).scatter_reduce_(0, stream.clip[inside], index[inside], reduce="amin")
    sample = stream.sample[first]
    clip_in_sample = torch.arange(clips) - torch.searchsorted(sample, sample)
    clip, place = torch.zeros_like(index), torch.zeros_like(index)
    clip[inside] = clip_in_sample[stream.clip[inside]]
    place[inside] = index[inside] - first[stream.clip[inside]]
    return clip, place


def _mix(x: Tensor) -> Tensor:
    """Scramble int64 so that neighbours are unrelated: shifts are made logical, products wrap."""
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))
