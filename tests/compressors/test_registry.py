"""Methods by name: options, pairs, registered methods, and one-line errors."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from tests.helpers.contract import METHODS, made, selector
from tests.helpers.prompts import steady_prompt
from torch import Tensor

from omnisift.budget import Budget
from omnisift.compressors import (
    COMPRESSORS,
    FULL,
    ScoredCompressor,
    ScoredVideoCompressor,
    make_compressor,
    needs_selector,
    reads_all_tokens,
    register,
)
from omnisift.compressors.paired import Paired
from omnisift.compressors.registry import parse_options
from omnisift.errors import CompressorError, UsageError
from omnisift.ops.groups import Scope
from omnisift.tokens import TokenStream

HALF = Budget(retain=0.5)


def label(text: str) -> str:
    return made(text, HALF).label


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("evs", {}),
        ("evs:mode=frame", {"mode": "frame"}),
        (" omnizip : rebounded = true , members=2 ", {"rebounded": True, "members": 2}),
        ("a:b=false,c=0.25,d=-3,e=1e-3", {"b": False, "c": 0.25, "d": -3, "e": 0.001}),
        ("a:b=True,c=x=y,d=²", {"b": "True", "c": "x=y", "d": "²"}),
    ],
)
def test_options_are_numbers_truths_or_text(text: str, result: dict[str, object]):
    assert parse_options(text) == result
    assert {name: type(value) for name, value in parse_options(text).items()} == {
        name: type(value) for name, value in result.items()
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("uniform", "uniform"),
        ("uniform:mode=pool", "uniform-pool"),
        ("random:scope=clip", "random-clip"),
        ("evs:mode=frame", "evs-frame"),
        ("stvp:mode=spatial,adaptive=true", "stvp-spatial-adaptive"),
        ("omnizip:rebounded=true,contextual=0.1,members=2", "omnizip-rebounded-c0.1-g2"),
        ("omnipack:attention=true", "omnipack-I-attention"),
        ("visionzip:contextual=0", "visionzip-c0"),
        ("routed:scope=clip,swing=0.25", "routed-clip-swing0.25"),
        ("stvp:mode=temporal + uniform:mode=pool", "stvp-temporal+uniform-pool"),
        ("random:scope=clip+omnisift", "random-clip+omnisift"),
    ],
)
def test_options_reach_the_method_and_its_label(text: str, wanted: str):
    assert label(text) == wanted


def test_no_two_configurations_share_a_label():
    labels = [label(text) for text in METHODS]
    assert len(set(labels)) == len(labels)


def test_seed_and_selector_go_to_those_that_take_them():
    stream, weights = steady_prompt(4, 9, 60).stream(), selector(16)

    def draw(text: str, seed: int) -> Tensor:
        return make_compressor(text, HALF, seed=seed)(stream).keep

    for text in ("random", "stvp+random", "random+uniform", "random:scope=clip"):
        assert torch.equal(draw(text, 1), draw(text, 1))
        assert not torch.equal(draw(text, 1), draw(text, 2))
    assert torch.equal(draw("uniform", 1), draw("uniform", 2))
    for text in ("omnisift", "random+omnisift", "stvp+omnisift"):
        modules = make_compressor(text, HALF, selector=weights).modules()
        assert sum(module is weights for module in modules) == 1


WRONG = {
    "magic": "no compressor named 'magic'; known: a_pack, attended, divprune, dycoke, evs, gleanvid, joint, omnifocus,",
    "": "no compressor named ''",
    "Stvp": "no compressor named 'Stvp'; did you mean 'stvp'? (`omnisift methods` lists all)",
    "OmniSIFT": "did you mean 'omnisift'?",
    "omnisfit": "did you mean 'omnisift'?",
    "v-cast": "no compressor named 'v-cast'; did you mean 'v_cast'?",
    "none": "'none' compresses nothing and can't be made or paired: pass compressor=None",
    "full": "'full' compresses nothing",
    "stvp+none": "'none' compresses nothing",
    "stvp+": "no compressor named ''",
    "+stvp": "no compressor named ''",
    "paired": "no compressor named 'paired'",
    "stvp+magic": "no compressor named 'magic'",
    "stvp+random+omnisift": "'stvp+random+omnisift' pairs more than two methods: give one for video and one for audio",
    "random+evs": "'evs' selects video tokens only: put a method for both modalities after the plus",
    "stvp+stvp:mode=spatial": "'stvp' selects video tokens only",
    "evs:speed=3": "compressor 'evs' has no option 'speed'; known: mode",
    "stvp:mode=spatial,magic=1": "'stvp' has no option 'magic'; known: adaptive, mode",
    "evs:Mode=frame": "compressor 'evs' has no option 'Mode'; did you mean 'mode'?",
    "tome:rounds=2": "compressor 'tome' has no option 'rounds'; known: none",
    "random:seed=3": "'random' has no option 'seed'; known: scope",
    "evs:audio=random": "'evs' has no option 'audio'; known: mode",
    "omnisift:score_dtype=1": "'omnisift' has no option 'score_dtype'; known: estimator",
    "random:budget=1": "'random' has no option 'budget'",
    "random+uniform:scope=clip": "'uniform' has no option 'scope'; known: mode",
    "evs:": "an option is written name=value, got '' in 'evs:'",
    "evs:frame": "an option is written name=value, got 'frame'",
    "evs:mode=": "an option is written name=value, got 'mode='",
    "evs:=frame": "an option is written name=value, got '=frame'",
    "evs:mode=frame,": "an option is written name=value, got ''",
    "uniform:mode=stripes": "mode of 'uniform' is stride or pool, got 'stripes'",
    "random:scope=chunk": "scope of 'random' is frame or clip, got 'chunk'",
    "evs:mode=3": "mode of 'evs' is clip or frame, got 3",
    "stvp:mode=true": "mode of 'stvp' is both, spatial or temporal, got True",
    "stvp:adaptive=1": "adaptive of 'stvp' is true or false, got 1",
    "omnipack:attention=yes": "attention of 'omnipack' is true or false, got 'yes'",
    "omnizip:rebounded=1": "rebounded of 'omnizip' is true or false, got 1",
    "omnizip:members=1.5": "members of 'omnizip' is an integer in [0, inf), got 1.5",
    "omnizip:members=-1": "got -1",
    "omnizip:contextual=1": "contextual of 'omnizip' is a number in [0, 1), got",
    "visionzip:contextual=nan": "contextual of 'visionzip' is a number in [0, 1), got nan",
    "routed:swing=2": "swing of 'routed' is a number in [0, 1], got 2",
    "routed:scope=frame": "scope of 'routed' is chunk or clip, got 'frame'",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_in_one_line(text: str):
    with pytest.raises(CompressorError) as caught:
        made(text, HALF)
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["omnisift", "stvp+omnisift", "random+omnisift", "omnisift+random"])
def test_missing_weights_say_what_to_do(text: str):
    message = (
        r"'omnisift' needs selector weights and none were given: .*training-free compressor such as stvp or random"
    )
    with pytest.raises(CompressorError, match=message):
        make_compressor(text, HALF)


# --- names of one's own ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _names_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("loudest", "brightest"):
        monkeypatch.setitem(COMPRESSORS, name, COMPRESSORS["uniform"])  # so that it is gone afterwards
        del COMPRESSORS[name]


class Loudest(ScoredCompressor):
    name: ClassVar[str] = "loudest"

    def __init__(self, budget: Budget, scope: str = "frame") -> None:
        super().__init__(budget)
        self.scope = Scope(scope)

    def score(self, stream: TokenStream) -> Tensor:
        return stream.embeds.norm(dim=-1)


class Brightest(ScoredVideoCompressor):
    name: ClassVar[str] = "brightest"

    def score(self, stream: TokenStream) -> Tensor:
        return stream.embeds[:, 0]


def test_a_registered_method_is_made_and_paired_by_name():
    with pytest.raises(CompressorError, match="no compressor named 'loudest'"):
        make_compressor("loudest", HALF)
    assert register(Loudest) is Loudest
    assert register(Brightest) is Brightest
    assert type(make_compressor("loudest", HALF)) is Loudest
    assert make_compressor("loudest:scope=clip", HALF).scope is Scope.CLIP
    for text, kind in (("loudest+uniform", Paired), ("stvp+loudest", None), ("brightest+loudest", Brightest)):
        pair = make_compressor(text, HALF)
        assert kind is None or type(pair) is kind
        assert pair.label == text
    with pytest.raises(CompressorError, match=r"'loudest' has no option 'speed'; known: scope"):
        make_compressor("loudest:speed=1", HALF)
    with pytest.raises(CompressorError, match="'brightest' selects video tokens only"):
        make_compressor("loudest+brightest", HALF)
    with pytest.raises(CompressorError, match=r"known: a_pack, attended, brightest, .*loudest"):
        make_compressor("magic", HALF)


def test_a_taken_name_is_refused_and_the_same_class_twice_is_not():
    register(Loudest)
    assert register(Loudest) is Loudest

    class Other(Loudest):
        pass

    with pytest.raises(ValueError, match="a compressor named 'loudest' exists already: choose another name"):
        register(Other)

    class Random(Loudest):
        name: ClassVar[str] = "random"

    before = dict(COMPRESSORS)
    with pytest.raises(ValueError, match="'random' exists already"):
        register(Random)
    assert before == COMPRESSORS


def test_the_video_half_of_a_pair_gets_its_seed_too():
    class Draws(Brightest):
        name: ClassVar[str] = "draws"

        def __init__(self, budget, audio=None, seed=0):
            super().__init__(budget, audio=audio)
            self.seed = seed

    register(Draws)
    try:
        pair = make_compressor("draws+random", HALF, seed=7)
        assert (pair.seed, pair.audio.seed) == (7, 7)
    finally:
        COMPRESSORS.pop("draws")


def test_an_option_given_twice_is_refused():
    with pytest.raises(CompressorError, match="option 'mode' is given twice"):
        make_compressor("evs:mode=clip,mode=frame", HALF)


def test_a_number_is_a_budget():
    assert make_compressor("v_cast", 0.25).budget == Budget(retain=0.25)
    assert make_compressor("stvp+random", 0.5).audio.budget == HALF
    for method in COMPRESSORS.values():
        assert method(0.5).budget == HALF


@pytest.mark.parametrize("name", [None, "none", "full", "None", " full ", "all tokens", FULL])
def test_the_names_of_all_tokens(name: str | None):
    assert reads_all_tokens(name)


def test_a_method_does_not_read_all_tokens_and_needs_its_selector():
    assert not any(reads_all_tokens(name) for name in (*COMPRESSORS, "stvp+random", ""))
    assert [name for name in METHODS if needs_selector(name)] == [name for name in METHODS if "omnisift" in name]


@pytest.mark.parametrize("selector", ["folder", 3, [1]])
@pytest.mark.parametrize("name", ["auto", "omnisift", "stvp+omnisift"])
def test_a_selector_that_is_none_is_refused(name, selector):
    with pytest.raises(UsageError, match=r"the selector of a compressor is a VGAS, got (str|int|list)"):
        make_compressor(name, HALF, selector=selector)
