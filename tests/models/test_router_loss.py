"""The load-balancing loss of a mixture of experts, of the kept tokens alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.helpers.contract import made
from tests.helpers.families import FAMILIES, Family
from tests.helpers.family_contract import ALL, QUARTER, THREE, compressor, host
from tests.helpers.models import WIDTH
from torch import Tensor

import omnisift
from omnisift.errors import UnsupportedCall
from omnisift.models import adapter_for
from omnisift.training.finetune.compressed_model import CompressedModel

MIXTURES = [family for family in FAMILIES.values() if "moe" in family.model_type]
each_mixture = pytest.mark.parametrize("family", MIXTURES, ids=str)
WEIGHT = 0.5


@pytest.fixture(autouse=True)
def weight() -> Iterator[None]:
    """A weight of the loss that shows in the sum."""
    with heavier(*map(host, MIXTURES)):
        yield


@contextmanager
def heavier(*models: Any) -> Iterator[None]:
    before = [model.config.get_text_config().router_aux_loss_coef for model in models]
    for model in models:
        model.config.get_text_config().router_aux_loss_coef = WEIGHT
        model.router_aux_loss_coef = WEIGHT
    yield
    for model, value in zip(models, before, strict=True):
        model.config.get_text_config().router_aux_loss_coef = model.router_aux_loss_coef = value


def labelled(family: Family, pad: str) -> dict[str, Any]:
    inputs = family.inputs(*THREE, pad=pad)
    real = inputs["attention_mask"].cumsum(dim=1) * inputs["attention_mask"]
    labels = torch.where((inputs["input_ids"] >= 20) & (real > 1), inputs["input_ids"], -100)
    return {**inputs, "labels": labels}


def loss_by_hand(router_logits: Any, tokens: list[int], model: Any) -> Tensor:
    """Token by token: how often each expert is chosen, times how probable it is."""
    text = model.config.get_text_config()
    chosen, probable = torch.zeros(text.num_experts), torch.zeros(text.num_experts)
    for layer in router_logits:
        for token in tokens:
            probabilities = layer[token].float().softmax(dim=0)
            probable = probable + probabilities
            for expert in probabilities.topk(text.num_experts_per_tok).indices:
                chosen[expert] += 1
    count = len(tokens) * len(router_logits)
    return text.num_experts * (chosen / count * probable / count).sum()


def kept_tokens(mask: Tensor) -> list[int]:
    """Indices in the flat batch."""
    return [index for index, is_kept in enumerate(mask.flatten().tolist()) if is_kept]


@each_mixture
@pytest.mark.parametrize("pad", ["left", "right"])
def test_it_is_that_of_the_kept_tokens(family: Family, pad: str) -> None:
    """The router logits of the oracle are those of the untouched host whose mask hides dropped tokens."""
    model, inputs = host(family), labelled(family, pad)
    gate = next(p for name, p in model.named_parameters() if name.endswith("layers.0.mlp.gate.weight"))
    with omnisift.attach(model, compressor(family, "scored")) as attachment:
        plain = model(**inputs).loss
        output = model(**inputs, output_router_logits=True)
    assert attachment.cut is not None
    assert attachment.cut.padded
    (found,) = torch.autograd.grad(output.aux_loss, gate, retain_graph=True)
    if family.stateful:  # whose masks can't hide a token
        router_logits, tokens = output.router_logits, kept_tokens(attachment.cut.mask)
    else:
        router_logits, tokens = routed_by_the_host(family, model, inputs, attachment.cut.kept)
    expected = loss_by_hand(router_logits, tokens, model)
    (gradient,) = torch.autograd.grad(expected, gate)
    assert output.aux_loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.allclose(found, gradient, atol=1e-6)
    assert output.loss.item() == pytest.approx(plain.item() + WEIGHT * expected.item(), abs=1e-5)


def routed_by_the_host(family: Family, model: Any, inputs: dict[str, Any], kept: Tensor) -> tuple[Any, list[int]]:
    length = kept.shape[1]
    seen = torch.ones(length, length).tril().bool() & kept[:, None, :]
    seen |= torch.eye(length).bool()
    mask = torch.zeros(len(kept), 1, length, length).masked_fill(~seen[:, None], torch.finfo(torch.float32).min)
    given = {name: value for name, value in inputs.items() if name not in ("labels", "attention_mask")}
    core = adapter_for(model).parts.core
    positions = family.positions(model, inputs)
    output = core(**given, attention_mask=mask, position_ids=positions, use_cache=False, output_router_logits=True)
    return output.router_logits, kept_tokens(kept)


@each_mixture
def test_where_nothing_is_dropped_it_is_the_hosts_to_the_bit(family: Family) -> None:
    model, inputs = host(family), labelled(family, "left")
    full = model(**inputs, output_router_logits=True)
    with omnisift.attach(model, compressor(family, "scored", ALL)):
        found = model(**inputs, output_router_logits=True)
    assert torch.equal(found.aux_loss, full.aux_loss)
    assert torch.equal(found.loss, full.loss)


@each_mixture
def test_calls_without_labels_and_by_configuration(family: Family) -> None:
    model, inputs = host(family), labelled(family, "left")
    labels = inputs.pop("labels")
    text = model.config.get_text_config()
    with omnisift.attach(model, compressor(family, "scored")):
        asked = model(**inputs, labels=labels, output_router_logits=True)
        without = model(**inputs, output_router_logits=True)
        assert without.loss is None
        text.output_router_logits = True
        try:
            assert torch.equal(model(**inputs, labels=labels).loss, asked.loss)
            assert model(**inputs, output_router_logits=False).aux_loss is None
        finally:
            text.output_router_logits = False
        with pytest.raises(UnsupportedCall, match="leave return_dict out"):
            model(**inputs, labels=labels, output_router_logits=True, return_dict=False)
        assert model(**inputs, labels=labels).aux_loss is None
    assert torch.equal(without.aux_loss, asked.aux_loss)


@each_mixture
def test_training_adds_it_where_the_configuration_asks(family: Family) -> None:
    model, inputs = family.model(), labelled(family, "left")
    text = model.config.get_text_config()
    with heavier(model):
        method = made("random", QUARTER, WIDTH).train()
        plain = CompressedModel(model, method)
        without = plain(**inputs).loss
        text.output_router_logits = True
        found = plain(**inputs)
        aux_loss = model(**{name: value for name, value in inputs.items() if name != "labels"}).aux_loss
        assert found.loss.item() == pytest.approx((without + WEIGHT * aux_loss).item(), abs=1e-5)
        # Over several passes of a step it counts by the share of their labels.
        halved = plain(**inputs, num_items_in_batch=2 * int(found.counts.sum())).loss
        assert halved.item() == pytest.approx(found.loss.item() / 2, abs=1e-5)
        words = family.inputs([9], [12])
        output = plain(**words, labels=words["input_ids"])
        assert output.loss.isfinite()
