"""The training loop: its schedule, its groups, and a run that stops and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from omnisift.training.loop import Checkpoint, ParameterGroup, linear_schedule, train_steps


def run(steps: int, folder: Path | None = None, stop: int = 100) -> tuple[nn.Linear, list[float]]:
    torch.manual_seed(0)
    model, data = nn.Linear(4, 1), torch.randn(20, 8, 4)

    def loss_of(step: int) -> Tensor:
        if step == stop:
            raise KeyboardInterrupt
        result: Tensor = (model(data[step]) - 3).square().mean()
        return result

    checkpoint = None if folder is None else Checkpoint(folder / "state.pt", model, every=4)
    groups = [ParameterGroup([model.weight], 1e-2), ParameterGroup([model.bias], 0.0, 0.0)]
    return model, train_steps(loss_of, groups, steps, linear_schedule(steps, 5), checkpoint=checkpoint)


def test_the_rate_rises_stays_and_falls() -> None:
    rate = linear_schedule(100, 20, decay=0.5, floor=0.05)
    assert [rate(2.0, step) for step in (0, 19, 50, 75, 99)] == pytest.approx([0.1, 2.0, 2.0, 1.0, 0.1])


def test_every_group_has_its_rate() -> None:
    torch.manual_seed(0)
    before = nn.Linear(4, 1)
    model, losses = run(10)
    assert not torch.equal(model.weight, before.weight)
    assert torch.equal(model.bias, before.bias), "its rate is 0"
    assert len(losses) == 10


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    expected, losses = run(10)
    with pytest.raises(KeyboardInterrupt):
        run(10, tmp_path, stop=7)
    model, rest = run(10, tmp_path)
    assert rest == losses[4:], "the steps after the last checkpoint"
    assert torch.equal(model.weight, expected.weight)
    assert run(10, tmp_path)[1] == [], "a finished run has nothing to do"
