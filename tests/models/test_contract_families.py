"""What `attach` promises, for every family: prompts x methods against the untouched host.

The fast tests take one prompt and one method of each family, and of relatives logits and cached steps alone; the slow
tests take all of them. With OMNISIFT_FAMILIES=FILE the results are written as JSON, from which
benchmarks/figures/models_table.py makes the table of docs/models.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from tests.helpers.contract import METHODS
from tests.helpers.families import Clip, Family, Row
from tests.helpers.family_contract import (
    ALL,
    THREE,
    apart,
    compressor,
    expected_logits,
    host,
    note,
    read,
    write_found,
)
from tests.helpers.models import FIRST_WORD, Image
from tests.helpers.rare_families import FAMILIES, MOST
from torch import Tensor

import omnisift
from omnisift.budget import Budget
from omnisift.errors import UnreachableBudget
from omnisift.models import ADAPTERS, adapter_class
from omnisift.models.cached_prompt import cache_argument

STEPS = 5
KINDS: dict[str, tuple[list[Row], str]] = {
    "one prompt": (THREE[:1], "left"),
    "padded left": (THREE, "left"),
    "padded right": (THREE, "right"),
    "two clips": ([[3, Clip(4, 2, 2, 4), 4, Clip(2, 2, 3, 2), 6]], "left"),
    "image between": ([[4, Clip(3, 2, 4), 3, Image(2, 3), 2, Clip(2, 2, 2), 9]], "left"),
    "no audio": ([[5, Clip(4, 2, 3), 6], [7, Clip(2, 3, 3), 4]], "left"),
    "odd frames": ([[5, Clip(5, 2, 3, 5), 6]], "left"),
}
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
most_families = pytest.mark.parametrize("family", MOST)
KIND_CASES = [pytest.param(kind, marks=() if kind == "padded left" else pytest.mark.slow, id=kind) for kind in KINDS]
each_kind = pytest.mark.parametrize("kind", KIND_CASES)
generated_kinds = pytest.mark.parametrize("kind", [case for case in KIND_CASES if case.id != "padded right"])
each_method = pytest.mark.parametrize(
    "method", ["scored", *(pytest.param(name, marks=pytest.mark.slow) for name in ("merging", "clip-wide"))]
)


@pytest.fixture(autouse=True, scope="module")
def written() -> Iterator[None]:
    """Write what was found, if asked to."""
    yield
    if path := os.environ.get("OMNISIFT_FAMILIES"):
        write_found(path)


def is_refused_by_the_host(family: Family, kind: str) -> bool:
    """Whether the host alone, without a compressor, fails on the prompts of this kind."""
    if family.mixes or kind != "image between":
        return False
    with pytest.raises(ValueError, match=r"do not match|placeholder tokens"), torch.no_grad():
        host(family)(**family.inputs(*KINDS[kind][0]))
    return True


def continued(inputs: dict[str, Any], new: Tensor) -> dict[str, Any]:
    """The prompt followed by text."""
    longer = {**inputs, "input_ids": torch.cat([inputs["input_ids"], new], dim=1)}
    longer["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
    for name in ("mm_token_type_ids", "moe_mm_token_type_ids"):
        if name in inputs:
            longer[name] = torch.cat([inputs[name], torch.zeros_like(new).int()], dim=1)
    return longer


# --- the matrix: families x prompts x methods ---------------------------------------------------------------------


@torch.no_grad()
@each_family
@each_kind
@each_method
def test_logits_are_those_of_the_host_that_sees_kept_tokens_only(family: Family, kind: str, method: str) -> None:
    if is_refused_by_the_host(family, kind):
        return
    model, (rows, pad) = host(family), KINDS[kind]
    inputs = family.inputs(*rows, pad=pad)
    logits, attachment, cut, merged = read(model, inputs, compressor(family, method))
    last = attachment.last
    assert last is not None
    assert 0.2 < last.retained_ratio < 0.4
    assert bool(last.n_audio) == bool(family.audio_rate and any(p.sound for r in rows for p in r if type(p) is Clip))
    note(family, "logits", apart(logits, expected_logits(family, model, inputs, last.keep, merged), cut))


@torch.no_grad()
@each_family
@generated_kinds
@each_method
def test_each_cached_step_equals_a_pass_without_cache(family: Family, kind: str, method: str) -> None:
    if is_refused_by_the_host(family, kind):
        return
    model, inputs = host(family), family.inputs(*KINDS[kind][0])
    with omnisift.attach(model, compressor(family, method)):
        output = model.generate(
            **inputs, max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        new = output.sequences[:, inputs["input_ids"].shape[1] :]
        for step, logits in enumerate(output.logits):
            again = model(**continued(inputs, new[:, :step]), use_cache=False).logits[:, -1]
            note(family, "cached steps", float((logits - again).abs().max()))
            assert torch.equal(again[:, FIRST_WORD:].argmax(dim=-1) + FIRST_WORD, new[:, step])


@torch.no_grad()
@most_families
def test_a_loop_and_a_second_turn_without_positions_continue_the_prompt(family: Family) -> None:
    model, inputs = host(family), family.inputs(*THREE[:1])
    words = torch.arange(FIRST_WORD, FIRST_WORD + 7)[None]
    with omnisift.attach(model, compressor(family, "scored")):
        cache, done = model(**inputs, use_cache=True).past_key_values, 0
        for new in (1, 1, 4, 1):
            part = words[:, done : done + new]
            logits = model(input_ids=part, **cache_argument(model, cache), use_cache=True).logits
            done += new
            again = model(**continued(inputs, words[:, :done]), use_cache=False).logits[:, -new:]
            note(family, "own loop", float((logits - again).abs().max()))


@torch.no_grad()
@most_families
@each_method
def test_rows_of_a_batch_equal_single_prompts(family: Family, method: str) -> None:
    model = host(family)
    with omnisift.attach(model, compressor(family, method)) as attachment:
        inputs = family.inputs(*THREE)
        logits = model(**inputs, use_cache=False).logits
        last = attachment.last
        assert last is not None
        answers = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[:, -STEPS:]
        for number, row in enumerate(THREE):
            single = family.inputs(row)
            alone = model(**single, use_cache=False).logits[0]
            assert attachment.last is not None
            assert torch.equal(last.keep[number, inputs["attention_mask"][number].bool()], attachment.last.keep[0])
            note(family, "rows of a batch", float((logits[number, -len(alone) :] - alone).abs().max()))
            answer = model.generate(**single, max_new_tokens=STEPS, do_sample=False)[0, -STEPS:]
            assert torch.equal(answer, answers[number])


@torch.no_grad()
@most_families
@pytest.mark.parametrize("method", ["scored", pytest.param("merging", marks=pytest.mark.slow)])
def test_keeping_everything_changes_no_bit_not_even_through_the_cut(
    family: Family, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = host(family)
    for rows in (THREE[:1], *([KINDS["image between"][0]] if family.mixes else []), THREE):
        inputs = family.inputs(*rows)
        full, real = model(**inputs, use_cache=False).logits, inputs["attention_mask"].bool()
        with omnisift.attach(model, compressor(family, method, ALL)) as attachment:
            assert torch.equal(model(**inputs, use_cache=False).logits[real], full[real])
            assert attachment.cut is None
            with monkeypatch.context() as forced:
                forced.setattr("omnisift.models.attachment._keeps_everything", lambda keep: False)
                assert torch.equal(model(**inputs, use_cache=False).logits[real], full[real])
            assert attachment.cut is not None
        note(family, "everything kept", 0.0)


# --- training, caches, beams ---------------------------------------------------------------------------------------


@most_families
@each_kind
def test_the_loss_is_that_of_the_kept_tokens_and_gradients_reach_the_same_parameters(family: Family, kind: str) -> None:
    if is_refused_by_the_host(family, kind):
        return
    rows, pad = KINDS[kind]
    model, inputs = host(family), family.inputs(*rows, pad=pad)
    real = inputs["attention_mask"].bool()
    labels = inputs["input_ids"].masked_fill(~real | (inputs["input_ids"] < FIRST_WORD), -100)
    labels[torch.arange(len(rows)), real.long().argmax(dim=1)] = -100  # the host lets the last padding predict it

    def without_gradient() -> tuple[float, set[str]]:
        model.zero_grad(set_to_none=True)
        loss = model(**inputs, labels=labels, use_cache=False).loss
        loss.backward()
        return float(loss.detach()), {name for name, parameter in model.named_parameters() if parameter.grad is None}

    unused = without_gradient()[1]
    with omnisift.attach(model, compressor(family, "scored")) as attachment:
        loss, left_out = without_gradient()
        cut, last = attachment.cut, attachment.last
    assert left_out == unused
    assert cut is not None
    assert last is not None
    with torch.no_grad():
        full = expected_logits(family, model, inputs, last.keep).log_softmax(dim=-1)
    losses = []
    for row in range(len(rows)):
        places = [place for place in range(full.shape[1]) if last.keep[row, place] and real[row, place]]
        for before, after in pairwise(places):
            if labels[row, after] >= 0:
                losses.append(-float(full[row, before, labels[row, after]]))
    note(family, "loss", abs(loss - sum(losses) / len(losses)))


@torch.no_grad()
@most_families
@pytest.mark.parametrize("method", ["scored", pytest.param("merging", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["one prompt", "padded left", pytest.param("two clips", marks=pytest.mark.slow)])
def test_static_caches_and_beams_give_the_same_answers(family: Family, method: str, kind: str) -> None:
    model, inputs = host(family), family.inputs(*KINDS[kind][0])
    options = {**inputs, "max_new_tokens": STEPS, "do_sample": False}

    def beams_agree() -> bool:
        one, other = (
            model.generate(**options, num_beams=3, use_cache=use, return_dict_in_generate=True, output_scores=True)
            for use in (True, False)
        )
        pairs = zip(one.scores, other.scores, strict=True)
        return torch.equal(one.sequences, other.sequences) and all(
            torch.allclose(first, second, rtol=0, atol=family.tolerance) for first, second in pairs
        )

    # With nothing attached, the states of Qwen3.5 do not follow its beams up to 5.20, and where a row has two sounds
    # `generate` hands those of one beam to another.
    # The placeholders of GLM's videos are none of those that it counts for beams, and without a cache `generate` does
    # not tell ERNIE the experts of new tokens.
    if family.beams:
        host_agrees = beams_agree()
        assert host_agrees or family.stateful or (family.audio_rate and kind == "two clips")
    else:
        host_agrees = False
        with pytest.raises((IndexError, RuntimeError, ValueError), match=r"non-empty list|shape of the mask"):
            beams_agree()
    with omnisift.attach(model, compressor(family, method)):
        answers = model.generate(**options)
        if host_agrees:
            assert beams_agree()
            note(family, "beams", 0.0)
        assert torch.equal(answers, model.generate(**options, cache_implementation="static"))
        note(family, "static cache", 0.0)


@torch.no_grad()
@most_families
def test_detaching_leaves_nothing(family: Family) -> None:
    model, inputs = host(family), family.inputs(*THREE)

    def state() -> list[tuple[str, int, int, list[str]]]:
        return [
            (name, len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module)))
            for name, module in model.named_modules()
        ]

    before, full = state(), model(**inputs, use_cache=False).logits
    with omnisift.attach(model, compressor(family, "scored")):
        model(**inputs)
        model.generate(**inputs, max_new_tokens=2)
    assert state() == before
    assert torch.equal(model(**inputs, use_cache=False).logits, full)


# --- all methods on one family --------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_one_family(name: str) -> None:
    family = FAMILIES["qwen3_omni_moe_thinker"]
    model, inputs, method = host(family), family.inputs(*THREE), compressor(family, name, Budget(retain=0.5))
    try:
        logits, attachment, cut, merged = read(model, inputs, method)
    except UnreachableBudget:
        return
    assert attachment.last is not None
    full = expected_logits(family, model, inputs, attachment.last.keep, merged)
    note(family, "all methods", apart(logits, full, cut))


def test_every_adapter_has_a_family_here() -> None:
    here = {adapter for adapter in ADAPTERS if Version(transformers.__version__) >= Version(adapter.release)}
    assert {adapter_class(family.model_type) for family in FAMILIES.values()} == here
