"""Random selection: tokens sampled by a seeded hash, in every frame and chunk separately or over the clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from omnisift.budget import Budget
from omnisift.compressors.base import ScoredCompressor
from omnisift.ops.groups import Scope
from omnisift.tokens import TokenStream

_MIX = (-4658895280553007687, -7723592293110705685)
"""The two odd multipliers of the 64-bit SplitMix finaliser, as signed integers."""
_STEP = -7046029254386353131
"""2^64 divided by the golden ratio, as a signed integer: the increment of the same generator."""


class RandomCompressor(ScoredCompressor):
    """Keep a random subset.

    The sample depends on the seed, the number of the clip in its prompt and the index of the token in the clip, so it
    is the same on every device, in every run and in any batch.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        seed: seed of the sample.
        scope: ``frame`` samples the same number from every frame and every chunk's audio (stratified, the stronger
            control); ``clip`` samples each modality's number from the clip, as SEATS does (arXiv 2605.20035).
    """

    name: ClassVar[str] = "random"
    idea: ClassVar[str] = "samples tokens at random from every frame and chunk, by seed"
    source: ClassVar[str] = "baseline of the paper"

    def __init__(self, budget: Budget | float, seed: int = 0, scope: str = "frame") -> None:
        super().__init__(budget)
        self.check_choice("scope", scope, ("frame", "clip"))
        self.seed = seed
        self.row_seeds: Sequence[int] | None = None
        """One seed per row of the batch, instead of ``seed``: for benchmarks, whose rows are unrelated clips."""
        self.scope = Scope(scope)

    @property
    def label(self) -> str:
        """``random`` or ``random-clip``."""
        return self.name if self.scope is Scope.FRAME else f"{self.name}-{self.scope.value}"

    def score(self, stream: TokenStream) -> Tensor:
        """Return a hash of each token as [L] float32, uniform in [0, 1). See `ScoredCompressor.score`."""
        clip, index = _index_in_clip(stream)
        seeds = [self.seed] if self.row_seeds is None else list(self.row_seeds)
        # SplitMix64, seeded in turn by seed, clip and token.
        state = _mix(torch.tensor(seeds, dtype=torch.int64) + _STEP)
        state = state if self.row_seeds is None else state[stream.sample]
        bits = _mix(_mix(state + clip * _STEP) + index * _STEP)
        # 24 high bits: all that float32 holds.
        return (((bits >> 40) & 0xFFFFFF).float() / 2**24).to(stream.embeds.device, non_blocking=True)


def _index_in_clip(stream: TokenStream) -> tuple[Tensor, Tensor]:
    """Number of each token's clip in its row, and of the token in its clip, [L] int64 on the CPU each."""
    inside = stream.clip >= 0
    clips = int(stream.clip.max()) + 1 if len(stream) else 0
    token = torch.arange(len(stream))
    first = torch.full((clips,), len(stream)).scatter_reduce_(0, stream.clip[inside], token[inside], reduce="amin")
    sample = stream.sample[first]
    clip_in_sample = torch.arange(clips) - torch.searchsorted(sample, sample)
    clip, index = torch.zeros_like(token), torch.zeros_like(token)
    clip[inside] = clip_in_sample[stream.clip[inside]]
    index[inside] = token[inside] - first[stream.clip[inside]]
    return clip, index


def _mix(x: Tensor) -> Tensor:
    """Scramble int64 values, so that neighbours become unrelated. Shifts are made logical, products wrap."""
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def seed_rows(compressor: nn.Module, seeds: Sequence[int]) -> None:
    """Give every `RandomCompressor` inside ``compressor`` one seed per row of the batch."""
    for part in compressor.modules():
        if isinstance(part, RandomCompressor):
            part.row_seeds = seeds
