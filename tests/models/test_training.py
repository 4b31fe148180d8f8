"""Training: labels are cut with the prompt, the loss is that of the cut logits, gradients reach selector and host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.models import WIDTH, Part, Video, prompt, thinker
from tests.models.hosts import HALF, Learned, Norms, half, keep_all, omnisift_half

import omnisift
from omnisift.compressors.base import Compressor
from omnisift.errors import UnsupportedCall

ROW: list[Part] = [5, Video(4, 2, 3, audio=90), 8]
BATCH: list[list[Part]] = [ROW, [9, Video(2, 2, 2, audio=30), 21], [40]]


def labels_of(inputs: dict[str, Any]) -> torch.Tensor:
    """Learn every word but the first of each row (padding would predict it); no placeholder, no padding."""
    real = inputs["attention_mask"].cumsum(dim=1) * inputs["attention_mask"]
    return torch.where((inputs["input_ids"] >= 20) & (real > 1), inputs["input_ids"], -100)


def loss_by_hand(logits: torch.Tensor, labels: torch.Tensor, keep: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Row by row: cut the labels, shift, mean over all that are learned."""
    total, count = torch.zeros(()), 0
    pad_left = bool(real[:, -1].all())
    for index in range(len(labels)):
        cut = labels[index][keep[index] & real[index]]
        row = logits[index, -len(cut) :] if pad_left else logits[index, : len(cut)]
        total = total + F.cross_entropy(row[:-1].float(), cut[1:], ignore_index=-100, reduction="sum")
        count += int((cut[1:] != -100).sum())
    return total / count


@pytest.mark.parametrize("pad", ["left", "right"])
@pytest.mark.parametrize("rows", [[ROW], BATCH], ids=["one", "batch"])
@pytest.mark.parametrize("compressor", [half(), Norms(HALF)], ids=["random", "by value"])
def test_labels_are_cut_and_the_loss_is_that_of_the_cut_logits(
    compressor: Compressor, rows: list[list[Part]], pad: str
) -> None:
    model, inputs = thinker().train(), prompt(*rows, pad=pad)
    labels = labels_of(inputs)
    with omnisift.attach(model, compressor) as attachment:
        output = model(**inputs, labels=labels)
        assert attachment.last is not None
        expected = loss_by_hand(output.logits, labels, attachment.last.keep, inputs["attention_mask"].bool())
        assert output.loss.isfinite()
        assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
        output.loss.backward()
        assert model.lm_head.weight.grad is not None
        as_tuple = model(**inputs, labels=labels, return_dict=False)
        assert torch.equal(as_tuple[0], output.loss)
        assert torch.equal(as_tuple[1], output.logits)
        assert next(iter(output.keys())) == "loss"
        # Gradient accumulation: the Trainer passes the number of items of all micro-batches.
        scaled = model(**inputs, labels=labels, num_items_in_batch=1000).loss.item()
        learned = float((labels != -100).sum())
        assert scaled == pytest.approx(output.loss.item() * learned / 1000, rel=1e-4)


def test_keeping_everything_leaves_the_loss_bit_equal() -> None:
    model, inputs = thinker().train(), prompt(*BATCH)
    labels = labels_of(inputs)
    full = model(**inputs, labels=labels)
    with omnisift.attach(model, keep_all()):
        got = model(**inputs, labels=labels)
    assert torch.equal(got.loss, full.loss)
    assert torch.equal(got.logits, full.logits)


def test_a_prompt_that_loses_nothing_does_not_use_the_previous_cut() -> None:
    model, inputs = thinker().train(), prompt([5, Video(1, 1, 1), 8])
    full = model(**inputs, labels=labels_of(inputs)).loss
    with omnisift.attach(model, half()):
        before = prompt(ROW)
        model(**before, labels=labels_of(before))
        assert torch.equal(model(**inputs, labels=labels_of(inputs)).loss, full)


def test_shifted_labels_are_refused() -> None:
    model, inputs = thinker().train(), prompt(ROW)
    labels = labels_of(inputs)
    with omnisift.attach(model, half()), pytest.raises(UnsupportedCall, match="shift_labels"):
        model(**inputs, labels=labels, shift_labels=labels)


def test_gradients_reach_every_weight_of_the_real_selector() -> None:
    model, inputs = thinker().train().requires_grad_(False), prompt(*BATCH)
    compressor = omnisift_half().train()
    with omnisift.attach(model, compressor):
        model(**inputs, labels=labels_of(inputs), use_cache=False).loss.backward()
    gradients = {name: weight.grad for name, weight in compressor.named_parameters()}
    assert gradients
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("frozen", [False, True], ids=["host trains", "host frozen"])
def test_gradients_reach_the_selector(frozen: bool, checkpointing: bool) -> None:
    model, inputs = thinker().train(), prompt(*BATCH)
    model.requires_grad_(not frozen)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(0)
    selector = Learned(HALF, WIDTH).train()
    with omnisift.attach(model, selector):
        model(**inputs, labels=labels_of(inputs), use_cache=False).loss.backward()
    gradient = selector.linear.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_checkpointing_changes_no_gradient() -> None:
    inputs = prompt(*BATCH)
    gradients = []
    for checkpointing in (False, True):
        model = thinker().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with omnisift.attach(model, half()):
            model(**inputs, labels=labels_of(inputs), use_cache=False).loss.backward()
        gradients.append(model.lm_head.weight.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)


@torch.no_grad()
def test_the_gate_does_not_change_the_forward() -> None:
    model, inputs = thinker(), prompt(*BATCH)
    selector = Learned(HALF, WIDTH)
    with omnisift.attach(model, selector) as attachment:
        logits = model(**inputs).logits
        assert attachment.last is not None
        keep = attachment.last.keep
    fixed = Norms(HALF)
    fixed.score = lambda stream: selector.score(stream)  # type: ignore[method-assign]
    with omnisift.attach(model, fixed) as attachment:
        assert (model(**inputs).logits - logits).abs().max() < 1e-5
        assert attachment.last is not None
        assert torch.equal(attachment.last.keep, keep)
