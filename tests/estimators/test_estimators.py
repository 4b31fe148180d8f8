"""Estimators: what they keep, and that each gradient is the one that its docstring promises."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.estimators import ESTIMATORS, Choice, make_estimator
from omnisift.estimators.base import annealed, soft_bias
from omnisift.estimators.gumbel import relaxed_subset
from omnisift.estimators.perturbed import Perturbed
from omnisift.estimators.reinforce import leave_one_out, log_probability
from omnisift.ops.topk import row_topk

GROUPS, TOKENS, WIDTH = 3, 7, 4
COUNT = torch.tensor([3, 2, 4])


def logits(seed: int = 0) -> Tensor:
    values = torch.randn(GROUPS, TOKENS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def readout(choice: Choice) -> Tensor:
    """A smooth function of all that a language model would see of a choice: one attention head over the tokens."""
    random = torch.Generator().manual_seed(9)
    tokens = torch.randn(GROUPS, TOKENS, WIDTH, generator=random, dtype=torch.float64)
    query = torch.randn(GROUPS, 1, WIDTH, generator=random, dtype=torch.float64)
    if choice.mix is not None:
        tokens = choice.mix @ tokens
    if choice.gate is not None:
        tokens = tokens * choice.gate[..., None]
    weights = (query @ tokens.transpose(1, 2)).squeeze(1)
    if choice.bias is not None:
        weights = weights + choice.bias
    weights = weights.masked_fill(~choice.keep, -torch.inf).softmax(dim=1)
    return ((weights[..., None] * tokens).sum(dim=1) ** 2).sum()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_counts_padding_and_gradients(name: str) -> None:
    valid = torch.ones(GROUPS, TOKENS, dtype=torch.bool)
    valid[1, 4:] = False
    torch.manual_seed(0)
    values, estimator = logits(), make_estimator(name)
    choice = estimator.choose(values, COUNT, valid)
    assert not choice.keep[~valid].any()
    if choice.bias is None:
        assert choice.keep.sum(dim=1).tolist() == COUNT.tolist()
    else:
        assert torch.equal(choice.keep, valid)  # all stay, faded
        assert (choice.bias <= 1e-9).all()
    loss = readout(choice) if choice.log_prob is None else choice.log_prob.sum()
    (gradient,) = torch.autograd.grad(loss, values)
    assert torch.isfinite(gradient).all()
    assert gradient[valid].abs().sum() > 0
    assert (gradient[~valid] == 0).all()


@pytest.mark.parametrize("name", ["merge", "bias", "gumbel"])
@pytest.mark.parametrize("progress", [0.0, 0.4])
def test_relaxed_objectives_against_finite_differences(name: str, progress: float) -> None:
    estimator = make_estimator(name)
    estimator.progress = progress

    def objective(values: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same draw, so that the relaxed objective is one function
        return readout(estimator.choose(values, COUNT))

    assert torch.autograd.gradcheck(objective, (logits(),), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["merge", "bias", "gumbel"])
def test_dropped_tokens_have_a_gradient_and_with_straight_through_none(name: str) -> None:
    values = logits()
    hard = row_topk(values, COUNT)
    torch.manual_seed(0)
    (soft,) = torch.autograd.grad(readout(make_estimator(name).choose(values, COUNT)), values)
    assert (soft[~hard].abs() > 1e-9).any()
    (gradient,) = torch.autograd.grad(readout(make_estimator("straight_through").choose(values, COUNT)), values)
    assert (gradient[~hard] == 0).all()
    assert (gradient[hard] != 0).any()


def test_the_straight_through_gradient_is_that_of_rescaling() -> None:
    values = logits()
    keep = row_topk(values, COUNT)
    (result,) = torch.autograd.grad(readout(make_estimator("straight_through").choose(values, COUNT)), values)
    scale = torch.ones_like(values).requires_grad_()
    (effect,) = torch.autograd.grad(readout(Choice(keep, gate=scale * keep)), scale)
    score = torch.sigmoid(values)
    torch.testing.assert_close(result, effect * keep * score * (1 - score))


def test_perturbed_is_unbiased_for_the_mean_of_its_choices() -> None:
    class Many(Perturbed):
        draws = 60_000

    weight = torch.randn(1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start, count = torch.tensor([[0.3, -0.2, 0.1, 0.6]], dtype=torch.float64), torch.tensor([2])
    noise = torch.randn(400_000, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def mean(values: Tensor) -> Tensor:
        return (row_topk(values + noise, count.expand(len(noise))).double().mean(dim=0) * weight[0]).sum()

    numeric = torch.stack([(mean(start[0] + h) - mean(start[0] - h)) / 0.4 for h in 0.2 * torch.eye(4).double()])
    values = start.clone().requires_grad_()
    torch.manual_seed(0)
    bias = Many().choose(values, count).bias
    assert bias is not None
    mask = (torch.exp(bias) - 1e-4) / (1 - 1e-4)
    (result,) = torch.autograd.grad((mask * weight).sum(), values)
    torch.testing.assert_close(result[0], numeric, atol=0.03, rtol=0.05)


def test_reinforce_against_the_exact_gradient_of_the_expected_loss() -> None:
    """All ordered choices of 2 of 4, each with a loss of its own."""
    pairs = list(itertools.permutations(range(4), 2))
    loss = dict(zip(pairs, torch.randn(12).tolist(), strict=True))
    values = torch.tensor([0.5, -0.3, 0.2, 0.0], dtype=torch.float64, requires_grad=True)

    def probability(pair: tuple[int, int]) -> Tensor:
        first = values.softmax(dim=0)[pair[0]]
        rest = [i for i in range(4) if i != pair[0]]
        return first * values[rest].softmax(dim=0)[rest.index(pair[1])]

    exact = torch.autograd.grad(sum(probability(pair) * value for pair, value in loss.items()), values)[0]
    by_reinforce = torch.zeros(4, dtype=torch.float64)
    for pair, value in loss.items():
        keys = torch.full((1, 4), -1.0, dtype=torch.float64)
        keys[0, pair[0]], keys[0, pair[1]] = 2.0, 1.0
        log_prob = log_probability(values[None], keys, keys > 0)[0]
        torch.testing.assert_close(log_prob.exp(), probability(pair))
        by_reinforce += probability(pair).detach() * value * torch.autograd.grad(log_prob, values)[0]
    torch.testing.assert_close(by_reinforce, exact)


def test_leave_one_out_changes_no_expectation_and_vanishes_for_equal_losses() -> None:
    losses = torch.tensor([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]])
    assert leave_one_out(losses)[:, 0].tolist() == pytest.approx([-3.0, -1.5, 4.5])
    assert leave_one_out(losses)[:, 1].tolist() == [0.0, 0.0, 0.0]


def test_soft_masks_harden_into_the_hard_choice() -> None:
    values = logits()
    hard = row_topk(values, COUNT)
    for name in ("bias", "merge"):
        estimator = make_estimator(name)
        estimator.progress = 1.0
        choice = estimator.choose(values.detach() * 10, COUNT)
        if choice.bias is not None:
            assert torch.equal(choice.bias > -1.0, hard)
        if choice.mix is not None:
            own = torch.diagonal(choice.mix, dim1=1, dim2=2)
            assert (own[hard] > 0.8).all()
    assert annealed(0.0, 1.0, 0.1) == 1.0
    assert annealed(0.8, 1.0, 0.1) == annealed(1.0, 1.0, 0.1) == pytest.approx(0.1)


def test_a_soft_subset_has_the_size_of_the_hard_one() -> None:
    keys = logits().detach()
    soft = relaxed_subset(keys, COUNT, torch.ones_like(keys, dtype=torch.bool), 0.01)
    torch.testing.assert_close(soft.sum(dim=1), COUNT.double(), atol=0.05, rtol=0)
    assert torch.equal(soft > 0.5, row_topk(keys, COUNT))


def test_bias_counts_differences_only_and_nothing_kept_means_nothing_seen() -> None:
    values, estimator = logits().detach(), make_estimator("bias")
    torch.testing.assert_close(estimator.choose(values, COUNT).bias, estimator.choose(values + 5, COUNT).bias)
    none = estimator.choose(values, torch.zeros(GROUPS, dtype=torch.int64)).bias
    torch.testing.assert_close(none, soft_bias(torch.zeros_like(values)))
    complete = estimator.choose(values, torch.full((GROUPS,), TOKENS)).bias
    assert (complete > -0.01).all()


def test_an_unknown_name_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^no estimator named 'magic'; known: bias, gumbel, merge, perturbed, "):
        make_estimator("magic")
    with pytest.raises(UsageError, match=r"^no estimator named 'Straight-Through'; did you mean 'straight_through'\?$"):
        make_estimator("Straight-Through")


def test_the_earlier_name_of_the_papers_estimator_works() -> None:
    assert make_estimator("literal").name == "straight_through"
    assert "literal" not in ESTIMATORS
