"""Recorded attention equals the weights of an eager host, for kernels that return none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.families import FAMILIES, Clip, Family
from tests.helpers.models import Audio, Video, language_model, prompt, thinker
from tests.models.test_attach import same, state

from omnisift.errors import UnsupportedModel
from omnisift.models import adapter_for
from omnisift.models.question_attention import QuestionAttention

ROW = [4, Video(frames=3, audio=60), 6]


DEEPER = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
}  # fmt: skip


@pytest.mark.parametrize("text", [{}, DEEPER], ids=["plain", "deeper"])
@torch.no_grad()
def test_rows_equal_those_of_eager_attention(text: dict[str, Any]) -> None:
    inputs = prompt(ROW, mask=False)
    rows = torch.tensor([inputs["input_ids"].shape[1] - 1, inputs["input_ids"].shape[1] - 4])
    eager = thinker(attention="eager", **text)
    attentions = eager(**inputs, output_attentions=True, use_cache=False).attentions
    expected = torch.stack([layer[0].mean(dim=0)[rows] for layer in attentions]).mean(dim=0)
    model = thinker(attention="sdpa", **text)
    listener = QuestionAttention(language_model(model))
    with listener.record(rows):
        model(**inputs, use_cache=False)
    torch.testing.assert_close(listener.weights(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(listener.weights().sum(dim=1), torch.ones(2))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_rows_equal_those_of_eager_attention_in_every_family(family: Family) -> None:
    """Of Qwen3.5 two layers of four have attention."""
    model, inputs = family.model(), family.inputs([5, Clip(4, 2, 3, 4), 7])
    rows = torch.tensor([inputs["input_ids"].shape[1] - 1, inputs["input_ids"].shape[1] - 6])
    with QuestionAttention(adapter_for(model).parts.language_model).record(rows) as listener:
        model(**inputs, use_cache=False)
    model.set_attn_implementation("eager")
    layers = model(**inputs, output_attentions=True, use_cache=False).attentions
    expected = torch.stack([layer[0].mean(dim=0)[rows] for layer in layers if layer is not None])
    assert len(expected) == (2 if family.stateful else model.config.get_text_config().num_hidden_layers)
    torch.testing.assert_close(listener.weights(), expected.mean(dim=0), atol=2e-5, rtol=1e-3)


@torch.no_grad()
def test_it_changes_nothing_and_leaves_no_hooks() -> None:
    model, inputs = thinker(), prompt([3, Audio(), 5], mask=False)
    before = model(**inputs, use_cache=False).logits
    hooks = state(model)
    with QuestionAttention(language_model(model)).record(torch.tensor([2])) as listener:
        during = model(**inputs, use_cache=False).logits
    assert torch.equal(before, during)
    assert same(hooks, state(model))
    assert (listener.weights()[0, 3:] == 0).all()  # causal


def test_other_models_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="Linear has no layers with q_proj"):
        QuestionAttention(torch.nn.Linear(2, 2))
