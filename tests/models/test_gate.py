"""The straight-through gate in families whose tokens bring more than an embedding."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from tests.helpers.families import FAMILIES
from tests.helpers.family_contract import THREE, expected_logits
from torch import Tensor

import omnisift
from omnisift.budget import Budget
from omnisift.compressors.base import Compressor
from omnisift.models import adapter_for
from omnisift.tokens import Modality, Selection, TokenStream


class Gated(Compressor):
    """Keeps every second token of the clips, or all of them, with a factor for each token."""

    name: ClassVar[str] = "gated"

    def __init__(self, retain: float, gate: Tensor) -> None:
        super().__init__(Budget(retain=retain))
        self.gate = gate

    def select(self, stream: TokenStream, counts: Any) -> Selection:
        keep = torch.ones(len(stream), dtype=torch.bool)
        if not self.budget.keeps_all:
            keep = (stream.chunk < 0) | (torch.arange(len(stream)) % 2 == 0)
        return Selection(keep, gate=self.gate)


@pytest.mark.parametrize("retain", [0.5, 1.0])
@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_vl_moe", "qwen3_omni_moe_thinker", "qwen2_5_vl"])
def test_it_carries_the_gradient_of_all_that_a_token_brings(name: str, retain: float) -> None:
    """That of factors of embeddings and deepstack features in the untouched host."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.inputs(*THREE[:2])
    rows, length = inputs["input_ids"].shape
    gate = torch.ones(rows * length, requires_grad=True)
    with omnisift.attach(model, Gated(retain, gate).train()) as attachment:
        logits = model(**inputs, use_cache=False).logits
    with omnisift.attach(model, Gated(retain, gate).eval()), torch.no_grad():
        assert torch.equal(model(**inputs, use_cache=False).logits, logits)
    assert attachment.last is not None
    keep, cut = attachment.last.keep & inputs["attention_mask"].bool(), attachment.cut
    weights = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(0))
    mine = logits[keep] if cut is None else logits[cut.mask]
    (found,) = torch.autograd.grad((mine * weights).sum(), gate)

    def multiply(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        factor, marks = gate.view(rows, length), kwargs.get("visual_pos_masks")
        kwargs = {**kwargs, "inputs_embeds": kwargs["inputs_embeds"] * factor[..., None]}
        if marks is not None:
            deep = kwargs["deepstack_visual_embeds"]
            kwargs["deepstack_visual_embeds"] = [part * factor[marks][:, None] for part in deep]
        return args, kwargs

    handle = adapter_for(model).parts.language_model.register_forward_pre_hook(multiply, with_kwargs=True)
    full = expected_logits(family, model, inputs, attachment.last.keep)
    handle.remove()
    (expected,) = torch.autograd.grad((full[keep] * weights).sum(), gate)
    video = (attachment.last.modality == Modality.VIDEO).flatten() & keep.flatten()
    size = expected[video].abs().max()
    assert size > 0.1
    assert (found - expected)[video].abs().max() < 1e-4 * size
