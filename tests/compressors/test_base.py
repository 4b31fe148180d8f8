"""What every method owes: exact counts, nothing else touched, and a price of one function for a new one."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.geometry import random_prompt
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors import COMPRESSORS, ScoredCompressor, make_compressor
from omnisift.errors import CompressorError
from omnisift.tokens import TokenStream
from omnisift.vgas import VGAS, VGASConfig

torch.manual_seed(0)
SELECTOR = VGAS(VGASConfig(width=16, hidden=16, heads=2)).eval()
BUDGETS = st.one_of(
    st.builds(Budget, retain=st.floats(0.01, 1)),
    st.builds(lambda v, a: Budget(retain_video=v, retain_audio=a), st.floats(0.01, 1), st.floats(0.01, 1)),
)


class Louder(ScoredCompressor):
    """The longest vectors stay."""

    name: ClassVar[str] = "louder"

    def score(self, stream: TokenStream) -> Tensor:
        return stream.embeds.norm(dim=-1)


def make(name: str, budget: Budget):
    return Louder(budget) if name == "louder" else make_compressor(name, budget, selector=SELECTOR).eval()


@pytest.mark.parametrize("name", [*COMPRESSORS, "louder"])
@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), budget=BUDGETS)
def test_counts_are_the_budgets(name: str, seed: int, budget: Budget):
    stream = random_prompt(seed).stream()
    with torch.no_grad():
        keep = make(name, budget)(stream).keep
    segment = segment_of(stream)
    assert keep[segment < 0].all()
    wanted = budget.counts(ChunkShapes.of(stream)).by_segment()
    kept = torch.bincount(segment[keep & (segment >= 0)], minlength=len(wanted))
    assert kept.tolist() == wanted.tolist()


@pytest.mark.parametrize("budget", [Budget(retain=1), Budget(retain_video=1, retain_audio=1)])
@pytest.mark.parametrize("name", [*COMPRESSORS, "louder"])
def test_retain_1_keeps_everything(name: str, budget: Budget):
    for seed in range(20):
        assert make(name, budget)(random_prompt(seed).stream()).keep.all()


def test_a_new_method_is_one_function():
    stream = random_prompt(1).stream()
    found = Louder(Budget(retain_video=0.5, retain_audio=0.5))(stream)
    norms = stream.embeds.norm(dim=-1)
    for number in range(3 * len(ChunkShapes.of(stream))):
        inside = segment_of(stream) == number
        if inside.any() and not found.keep[inside].all():
            assert norms[inside & found.keep].min() >= norms[inside & ~found.keep].max()
    assert torch.equal(found.scores, norms)


def test_a_need_that_is_not_met_is_named():
    class Attentive(Louder):
        needs: ClassVar[frozenset[str]] = frozenset({"audio_attention"})

    with pytest.raises(CompressorError, match="audio_attention"):
        Attentive(Budget(retain=0.5))(random_prompt(1).stream())


def test_names():
    assert sorted(COMPRESSORS) == ["omnisift", "random", "uniform"]
    for name, method in COMPRESSORS.items():
        assert type(make_compressor(name, Budget(retain=0.5), selector=SELECTOR)) is method
        assert method.name == name
    assert [name for name, method in COMPRESSORS.items() if method.trained] == ["omnisift"]


def test_unknown_names_and_missing_weights_say_what_to_do():
    with pytest.raises(CompressorError, match="no compressor named 'magic'; known: omnisift, random, uniform"):
        make_compressor("magic", Budget(retain=0.5))
    with pytest.raises(CompressorError, match="training-free compressor: random, uniform"):
        make_compressor("omnisift", Budget(retain=0.5))


def test_repr_shows_the_budget():
    assert "retain=0.5" in repr(make("uniform", Budget(retain=0.5)))
