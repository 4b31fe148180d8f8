"""The base class: a method is one function, counts are exact, ties are defined, and methods have names.

The contract of all methods is tested in test_contract.py.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.contract import made, selector
from tests.helpers.prompts import random_prompt
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors import COMPRESSORS, ScoredCompressor, make_compressor
from omnisift.errors import CompressorError
from omnisift.tokens import TokenStream

HALF = Budget(retain=0.5)
BUDGETS = st.one_of(
    st.builds(Budget, retain=st.floats(0.01, 1)),
    st.builds(lambda v, a: Budget(retain_video=v, retain_audio=a), st.floats(0.01, 1), st.floats(0.01, 1)),
)
ALL = [
    "omnisift", "resift", "random", "uniform", "salient", "stvp", "dycoke", "evs", "vidcom2", "v_cast", "gleanvid",
    "a_pack", "divprune", "omnifocus", "omnipack", "tome", "omnizip", "visionzip", "seats", "attended", "routed",
    "joint",
]  # fmt: skip


class Louder(ScoredCompressor):
    """The longest vectors stay."""

    name: ClassVar[str] = "louder"

    def score(self, stream: TokenStream) -> Tensor:
        return stream.embeds.norm(dim=-1)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), budget=BUDGETS)
def test_counts_are_the_budgets(seed: int, budget: Budget):
    stream = random_prompt(seed).stream()
    keep = Louder(budget)(stream).keep
    segment = segment_of(stream)
    assert keep[segment < 0].all()
    wanted = budget.counts(ChunkShapes.of(stream)).by_segment()
    kept = torch.bincount(segment[keep & (segment >= 0)], minlength=len(wanted))
    assert kept.tolist() == wanted.tolist()


@pytest.mark.parametrize("budget", [Budget(retain=1), Budget(retain_video=1, retain_audio=1)])
def test_retain_1_keeps_everything(budget: Budget):
    for seed in range(20):
        assert Louder(budget)(random_prompt(seed).stream()).keep.all()


def test_a_new_method_is_one_function():
    stream = random_prompt(1).stream()
    result = Louder(Budget(retain_video=0.5, retain_audio=0.5))(stream)
    norms = stream.embeds.norm(dim=-1)
    for number in range(3 * len(ChunkShapes.of(stream))):
        inside = segment_of(stream) == number
        if inside.any() and not result.keep[inside].all():
            assert norms[inside & result.keep].min() >= norms[inside & ~result.keep].max()
    assert torch.equal(result.scores, norms)


def test_a_need_that_is_not_met_is_named():
    class Attentive(Louder):
        needs: ClassVar[frozenset[str]] = frozenset({"audio_attention"})

    with pytest.raises(CompressorError, match="audio_attention"):
        Attentive(Budget(retain=0.5))(random_prompt(1).stream())


def test_names():
    assert list(COMPRESSORS) == ALL
    for name, method in COMPRESSORS.items():
        assert type(make_compressor(name, HALF, selector=selector(16))) is method
        assert method.name == name
    assert [name for name, method in COMPRESSORS.items() if method.trained] == ["omnisift"]


def test_unknown_names_and_missing_weights_say_what_to_do():
    with pytest.raises(CompressorError) as caught:
        make_compressor("magic", HALF)
    assert str(caught.value) == f"no compressor named 'magic'; known: {', '.join(sorted(ALL))}"
    with pytest.raises(CompressorError, match="choose a training-free compressor such as stvp or random"):
        make_compressor("omnisift", HALF)


def test_repr_is_one_short_line():
    assert repr(made("uniform", HALF)) == "UniformCompressor(Budget(retain=0.5))"
    assert repr(made("omnisift", HALF)) == "OmniSiftCompressor(Budget(retain=0.5))"
    pair = repr(made("random:scope=clip+omnisift", HALF))
    assert pair == "Paired(Budget(retain=0.5), label='random-clip+omnisift')"
