"""Controls of the contract of all families: each fault must be seen, else the contract proves nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.contract import made
from tests.helpers.families import Family
from tests.helpers.family_contract import QUARTER, THREE, apart, expected_logits, host, read
from tests.helpers.models import WIDTH
from tests.helpers.rare_families import FAMILIES, MOST

import omnisift
from omnisift.errors import UnsupportedCall
from omnisift.models import Adapter, adapter_class
from omnisift.models.prompt_cut import PromptCut
from omnisift.models.side_inputs import Side, cut_side_inputs

most_families = pytest.mark.parametrize("family", MOST)
with_side_inputs = pytest.mark.parametrize(
    "family", [case for case in MOST if adapter_class(case.values[0].model_type).side_inputs]
)


@torch.no_grad()
@most_families
def test_one_more_token_is_seen_by_the_oracle(family: Family) -> None:
    model, inputs = host(family), family.inputs(*THREE)
    logits, attachment, cut, _ = read(model, inputs, made("random", QUARTER, WIDTH))
    assert attachment.last is not None
    keep = attachment.last.keep.clone()
    index = (~keep).nonzero()[0]
    keep[tuple(index)] = True  # one dropped token is shown to the host
    assert apart(logits, expected_logits(family, model, inputs, keep), cut) > 0.01


def _uncut(cut: PromptCut, arguments: dict[str, Any], rules: Any, gate: Any = None) -> dict[str, Any]:
    return {}


def _first_rows(cut: PromptCut, arguments: dict[str, Any], rules: Any, gate: Any = None) -> dict[str, Any]:
    """As many entries as there should be, but those of other tokens."""
    found, name = cut_side_inputs(cut, arguments, rules), next(name for name in reversed(rules))
    if rules[name] is Side.TOKENS:
        return {**found, name: arguments[name][:, : found[name].shape[1]]}
    return {**found, name: [full[: len(part)] for part, full in zip(found[name], arguments[name], strict=True)]}


@torch.no_grad()
@with_side_inputs
def test_side_inputs_that_are_not_cut_crash_the_host(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnisift.models.host_arguments.cut_side_inputs", _uncut)
    with pytest.raises((IndexError, RuntimeError)):
        read(host(family), family.inputs(*THREE), made("random", QUARTER, WIDTH))


@torch.no_grad()
@with_side_inputs
def test_as_many_side_inputs_of_other_tokens_are_seen(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = host(family), family.inputs(*THREE)
    monkeypatch.setattr("omnisift.models.host_arguments.cut_side_inputs", _first_rows)
    logits, attachment, cut, _ = read(model, inputs, made("random", QUARTER, WIDTH))
    assert attachment.last is not None
    assert apart(logits, expected_logits(family, model, inputs, attachment.last.keep), cut) > 0.1


@torch.no_grad()
@with_side_inputs
def test_a_missing_rule_is_refused(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapter_class(family.model_type)
    model, inputs = host(family), family.inputs(*THREE)
    for name in adapter.side_inputs:
        rules = {other: rule for other, rule in adapter.side_inputs.items() if other != name}
        with monkeypatch.context() as fault:
            fault.setattr(adapter, "side_inputs", rules)
            with omnisift.attach(model, made("random", QUARTER, WIDTH)), pytest.raises(UnsupportedCall, match=name):
                model(**inputs)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma4-both-ways", "gemma4_unified"])
def test_a_causal_mask_is_seen_where_frames_see_both_ways(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES[name]
    model, inputs = host(family), family.inputs(*THREE)
    monkeypatch.setattr(adapter_class(family.model_type), "attention_mask", Adapter.attention_mask)
    logits, attachment, cut, _ = read(model, inputs, made("random", QUARTER, WIDTH))
    assert attachment.last is not None
    assert apart(logits, expected_logits(family, model, inputs, attachment.last.keep), cut) > 0.1
