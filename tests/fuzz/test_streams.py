"""All methods on embeddings with NaN, infinity, zeros, equal and huge values, in every dtype, on unusual prompts.

Counts are exact, text stays, and a second call keeps the same tokens, whatever the values are.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest
import torch
from tests.fuzz.conftest import Fuzz
from tests.helpers.contract import METHODS, MORE, check_counts, made, out_of_reach
from tests.helpers.prompts import in_one_batch, random_prompt, steady_prompt, with_attention
from torch import Tensor

from omnisift.budget import Budget
from omnisift.errors import UnreachableBudget
from omnisift.tokens import TokenStream

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]
ALL = [*METHODS, *(name for name in MORE if name not in METHODS)]
NAN, INF = float("nan"), float("inf")


def _some(values: Tensor, rng: random.Random, value: float) -> Tensor:
    """A few tokens, or single numbers of tokens, become ``value``."""
    values = values.clone()
    for _ in range(rng.choice((1, 3, len(values)))):
        row = rng.randrange(len(values))
        values[row, slice(None) if rng.random() < 0.5 else rng.randrange(values.shape[1])] = value
    return values


VALUES: dict[str, Callable[[Tensor, random.Random], Tensor]] = {
    "as they are": lambda x, _: x,
    "nan": lambda x, _: torch.full_like(x, NAN),
    "some nan": lambda x, rng: _some(x, rng, NAN),
    "infinite": lambda x, rng: torch.full_like(x, rng.choice((INF, -INF))),
    "some infinite": lambda x, rng: _some(_some(x, rng, INF), rng, -INF),
    "nan and infinite": lambda x, rng: _some(_some(x, rng, NAN), rng, INF),
    "zero": lambda x, _: torch.zeros_like(x),
    "some zero": lambda x, rng: _some(x, rng, 0.0),
    "equal": lambda x, _: x[:1].expand_as(x).contiguous(),
    "huge": lambda x, _: x * torch.finfo(x.dtype).max / 8,
    "tiny": lambda x, _: x * torch.finfo(x.dtype).tiny,
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def prompt(rng: random.Random) -> TokenStream:
    """One token, no sound, two clips, several rows and other shapes."""
    seed = rng.randrange(10**6)
    made_prompts = {
        "random": lambda: random_prompt(seed),
        "two clips": lambda: random_prompt(seed, samples=1, clips=2),
        "rows": lambda: in_one_batch([steady_prompt(3, 4, 60, seed=seed), steady_prompt(2, 5, 0, seed=seed + 1)]),
        "no sound": lambda: steady_prompt(rng.randrange(1, 9), rng.randrange(1, 9), 0, seed=seed),
        "one token": lambda: steady_prompt(1, 1, 0, seed=seed),
        "one of each": lambda: steady_prompt(1, 1, 1, seed=seed),
        "long": lambda: steady_prompt(rng.randrange(8, 20), rng.randrange(1, 6), rng.randrange(500), seed=seed),
    }
    return with_attention(made_prompts[rng.choice(sorted(made_prompts))]().stream())


def changed(stream: TokenStream, rng: random.Random) -> tuple[str, TokenStream]:
    kind, dtype = rng.choice(sorted(VALUES)), rng.choice(DTYPES)
    embeds = VALUES[kind](stream.embeds.to(dtype), rng) if len(stream) else stream.embeds
    extras = dict(stream.extras)
    if rng.random() < 0.3 and len(stream):
        value = rng.choice((NAN, INF, 0.0))
        extras = {name: _some(extra[:, None].float(), rng, value)[:, 0] for name, extra in extras.items()}
    return f"{kind} {dtype}", dataclasses.replace(stream, embeds=embeds, extras=extras)


def budget(rng: random.Random) -> Budget:
    share = lambda: rng.choice((1.0, 0.5, 0.25, 0.01, rng.uniform(0.01, 1.0)))  # noqa: E731
    if rng.random() < 0.3:
        return Budget(tokens=rng.choice((1, 40, 100, 300, rng.randrange(1, 2000))))
    return Budget(retain=share()) if rng.random() < 0.5 else Budget(retain_video=share(), retain_audio=share())


def same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.nan_to_num(nan=-77.0), other.nan_to_num(nan=-77.0))


def test_methods_on_hostile_values(fuzz: Fuzz) -> None:
    for seed in fuzz:
        rng = random.Random(seed)
        kind, stream = changed(prompt(rng), rng)
        wanted, before = budget(rng), stream.embeds.clone()
        for name in rng.sample(ALL, 12):
            with fuzz.case(f"seed {seed} {name} {kind} {wanted}"):
                method = made(name, wanted)
                try:
                    first, second = method(stream), method(stream)
                except UnreachableBudget:
                    assert out_of_reach(name, stream, wanted)
                    continue
                check_counts(name, stream, first.keep, wanted)
                assert torch.equal(first.keep, second.keep)
                assert first.keep[stream.chunk < 0].all(), "text was dropped"
                assert same(first.embeds, second.embeds)
                assert first.embeds is None or len(first.embeds) == int(first.keep.sum())
                assert same(before, stream.embeds), "the stream was written to"
