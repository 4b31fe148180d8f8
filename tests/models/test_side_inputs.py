"""Arguments of a language model that follow its tokens: cut by a rule, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.models import VIDEO, Video, language_model, prompt, thinker
from tests.models.hosts import half
from torch import Tensor

import omnisift
from omnisift.errors import UnsupportedCall
from omnisift.models import Side
from omnisift.models.prompt_cut import PromptCut
from omnisift.models.side_inputs import cut_side_inputs

MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
KEEP = torch.tensor([[1, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 1]]).bool()
MARKS = torch.tensor([[0, 0, 0, 1, 1, 0], [1, 1, 0, 1, 0, 1]]).bool()
RULES = {"visual_pos_masks": Side.TOKENS, "deep": Side.MARKED, "layers": Side.TOKENS}


def by_loop(cut: PromptCut, full: Tensor) -> Tensor:
    """[B, K, ...]: token by token."""
    result = torch.zeros(*cut.source.shape, *full.shape[2:], dtype=full.dtype)
    for row in range(len(full)):
        places = [place for place in range(full.shape[1]) if KEEP[row, place] and MASK[row, place]]
        for slot, place in zip(range(cut.width - len(places), cut.width), places, strict=True):
            result[row, slot] = full[row, place]
    return result


@pytest.mark.parametrize("kind", [list, tuple])
def test_entries_stay_with_their_tokens(kind: type) -> None:
    cut = PromptCut.plan(KEEP, MASK)
    layers = torch.randn(2, 6, 3, 4)
    deep = [torch.arange(6.0)[:, None] + 10 * number for number in range(2)]
    arguments = {"visual_pos_masks": MARKS, "deep": kind(deep), "layers": layers, "inputs_embeds": torch.zeros(2, 6, 5)}
    found = cut_side_inputs(cut, {**arguments, "scale": 2.0, "nothing": None, "grid": torch.ones(5, 3)}, RULES)
    assert found.keys() == {"visual_pos_masks", "deep", "layers"}
    assert torch.equal(found["layers"], by_loop(cut, layers))
    marks = found["visual_pos_masks"]
    assert marks.dtype == torch.bool
    assert torch.equal(marks, by_loop(cut, MARKS))
    # The entries of a marked token follow it: numbers of marks, counted over the flat batch.
    numbers = (MARKS.flatten().cumsum(0) - 1).view_as(MARKS)
    expected = by_loop(cut, numbers)[marks]
    for number, part in enumerate(found["deep"]):
        assert part[:, 0].tolist() == (expected + 10 * number).tolist()


@pytest.mark.parametrize(
    "value", [torch.zeros(2, 6), torch.zeros(6), torch.zeros(3, 2, 6), [torch.zeros(4, 5)], (torch.zeros(1),)]
)
def test_what_may_follow_the_prompt_needs_a_rule(value: Any) -> None:
    with pytest.raises(UnsupportedCall, match="got further"):
        cut_side_inputs(PromptCut.plan(KEEP, MASK), {"further": value}, RULES)


@torch.no_grad()
def test_an_unknown_argument_of_the_call_is_refused() -> None:
    model, inputs = thinker(), prompt([5, Video(4, 2, 3), 6])
    length = inputs["input_ids"].shape[1]

    def add(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "per_layer_inputs": torch.zeros(1, length, 2)}

    # Another hook of the language model stands for a new release of the host that hands more on.
    handle = language_model(model).register_forward_pre_hook(add, with_kwargs=True)
    try:
        with omnisift.attach(model, half()), pytest.raises(UnsupportedCall, match="per_layer_inputs"):
            model(**inputs)
    finally:
        handle.remove()
    with omnisift.attach(model, half()):
        types = 2 * (inputs["input_ids"] == VIDEO).long()
        assert model(**inputs, mm_token_type_ids=types).logits.shape[1] < length
