"""Random selection: tokens drawn by a seeded hash, in every frame and chunk by itself or over the whole clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from omnisift.budget import Budget
from omnisift.compressors.base import ScoredCompressor
from omnisift.compressors.groups import Scope
from omnisift.errors import CompressorError
from omnisift.tokens import TokenStream

_MIX = (-4658895280553007687, -7723592293110705685)
"""The two odd multipliers of the 64-bit SplitMix finaliser, as signed integers."""
_STEP = -7046029254386353131
"""2^64 divided by the golden ratio, as a signed integer: the same generator's increment."""


class RandomCompressor(ScoredCompressor):
    """Keep a random subset. The draw depends on the seed, the clip's number in its prompt and the token's place in the
    clip, so it is the same on every device, in every run and beside any batch neighbour.

    ``scope="frame"`` draws the same number from every frame and every chunk's sound (stratified, the stronger
    control); ``scope="clip"`` draws each modality's number from the whole clip, as SEATS does (arXiv 2605.20035).
    """

    name: ClassVar[str] = "random"
    idea: ClassVar[str] = "draws tokens by chance in every frame and chunk, by seed"
    source: ClassVar[str] = "baseline of the paper"

    def __init__(self, budget: Budget | float, seed: int = 0, scope: str = "frame") -> None:
        super().__init__(budget)
        if scope not in ("frame", "clip"):
            raise CompressorError(f"scope of 'random' is frame or clip, got {scope!r}")
        self.seed = seed
        self.row_seeds: Sequence[int] | None = None
        """One seed for each row of the batch, instead of ``seed``: for benchmarks, where rows are unrelated clips."""
        self.scope = Scope(scope)

    @property
    def label(self) -> str:
        """``random`` or ``random-clip``."""
        return self.name if self.scope is Scope.FRAME else f"{self.name}-{self.scope.value}"

    def score(self, stream: TokenStream) -> Tensor:
        """[L] float32, uniform in [0, 1)."""
        clip, place = _place_in_clip(stream)
        seeds = [self.seed] if self.row_seeds is None else list(self.row_seeds)
        state = _mix(torch.tensor(seeds, dtype=torch.int64) + _STEP)
        state = state if self.row_seeds is None else state[stream.sample]
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


def seed_rows(compressor: nn.Module, seeds: Sequence[int]) -> None:
    """Let every `RandomCompressor` inside ``compressor`` draw each row of a batch by its own seed."""
    for part in compressor.modules():
        if isinstance(part, RandomCompressor):
            part.row_seeds = seeds
