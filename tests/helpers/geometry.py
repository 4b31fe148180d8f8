"""Random prompts with unusual layouts, as flat tensors, for property tests of the core."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.chunks import build_stream
from omnisift.tokens import TokenStream

TEXT, VIDEO, AUDIO = 0, 1, 2


@dataclass
class Prompt:
    """One flat batch before clips and chunks are found."""

    embeds: Tensor
    modality: Tensor
    temporal: Tensor
    sample: Tensor

    def stream(self) -> TokenStream:
        position = self.temporal.expand(3, -1)
        return build_stream(self.embeds, self.modality, position, self.sample, seconds_per_position=0.04)


def random_prompt(seed: int, width: int = 16, samples: int = 3, clips: int = 2, plain: bool = True) -> Prompt:
    """Up to ``samples`` rows of up to ``clips`` clips each, with text, padding and (if ``plain``) plain audio
    between."""
    rng = random.Random(seed)
    tokens: list[tuple[int, int, int]] = []
    for row in range(rng.randint(1, samples)):
        tokens += [(TEXT, 1, row)] * rng.randint(0, 3)  # left padding: the host gives it position 1
        now = 0
        for _ in range(rng.randint(0 if plain else 1, clips)):
            now = _text(tokens, row, now, rng.randint(1, 2))
            if plain and rng.random() < 0.2:
                tokens += [(AUDIO, now + i, row) for i in range(rng.randint(1, 6))]
                now = _text(tokens, row, now + 6, 1)
            now = _clip(tokens, row, now, rng)
        _text(tokens, row, now, rng.randint(0, 2))
    if not tokens:
        tokens = [(TEXT, 0, 0)]
    modality, temporal, sample = (torch.tensor(column) for column in zip(*tokens, strict=True))
    embeds = torch.randn(len(tokens), width, generator=torch.Generator().manual_seed(seed))
    return Prompt(embeds, modality.to(torch.int8), temporal, sample)


def _text(tokens: list[tuple[int, int, int]], row: int, now: int, count: int) -> int:
    tokens += [(TEXT, now + i, row) for i in range(count)]
    return now + count


def _clip(tokens: list[tuple[int, int, int]], row: int, now: int, rng: random.Random) -> int:
    """Frames of equal (or, sometimes, unequal) size at equal distances; audio that may start or end early or late, or
    be a single token; interleaved in windows as in the host, or all audio after all video."""
    step = rng.choice([1, 2, 3, 7, 25])
    size = rng.choice([1, 2, 4, 9, 16])
    unequal = rng.random() < 0.2
    start = now + rng.choice([0, 0, 0, 2])
    sizes = [rng.randint(1, 12) if unequal else size for _ in range(rng.randint(1, 7))]
    frames = [(VIDEO, start + i * step) for i, n in enumerate(sizes) for _ in range(n)]
    begin = now + rng.choice([0, 0, 0, 3, step])
    count = rng.choice([0, 0, 1, rng.randint(2, 12), step * len(sizes), step * len(sizes) + 4])
    audio = [(AUDIO, begin + i) for i in range(min(count, 60))]
    window = rng.choice([2 * step, 5, 10**6])
    placed = sorted(frames + audio, key=lambda token: ((token[1] - now) // window, token[0]))
    tokens += [(kind, time, row) for kind, time in placed]
    return max(time for _, time in placed) + 1
