"""Attaching and detaching: nothing is left on the model or shared, and wrong use raises a typed error."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.helpers.models import Video, language_model, prompt, thinker
from tests.models.hosts import HALF, NeedsUnknown, Norms, half
from torch import nn

import omnisift
from omnisift.errors import CompressorError, ModelError, UnsupportedCall, UnsupportedModel
from omnisift.tokens import Selection, TokenStream

CLIP = prompt([5, Video(4, audio=60), 6])


def state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Attributes, hooks and children of each module."""
    return {name: copy.copy(vars(module)) | _hooks(module) for name, module in model.named_modules()}


def _hooks(module: nn.Module) -> dict[str, Any]:
    return {name: dict(value) for name, value in vars(module).items() if "hooks" in name and isinstance(value, dict)}


def same(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> bool:
    if before.keys() != after.keys():
        return False
    return all(
        first.keys() == second.keys() and all(first[k] is second[k] or _equal(first[k], second[k]) for k in first)
        for first, second in zip(before.values(), after.values(), strict=True)
    )


def _equal(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else bool(first == second)


@torch.no_grad()
def test_detaching_leaves_hooks_attributes_and_weights_as_they_were() -> None:
    model = thinker()
    model(**CLIP)  # the host itself remembers rope_deltas of its latest prompt
    before, weights = state(model), {k: v.clone() for k, v in model.state_dict().items()}
    with omnisift.attach(model, half()):
        assert not same(before, state(model))
        model(**CLIP)
        model.generate(**CLIP, max_new_tokens=3)
        assert model.state_dict().keys() == weights.keys()
    model(**CLIP)
    assert same(before, state(model))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_without_a_block_it_lasts_until_detach_which_may_be_called_twice() -> None:
    model = thinker()
    full = model(**CLIP).logits
    attachment = omnisift.attach(model, half())
    assert model(**CLIP).logits.shape[1] < full.shape[1]
    attachment.detach()
    attachment.detach()
    assert torch.equal(model(**CLIP).logits, full)


def test_an_error_inside_the_block_still_detaches() -> None:
    model = thinker()
    before = state(model)
    with pytest.raises(RuntimeError, match="from the block"), omnisift.attach(model, half()):
        raise RuntimeError("from the block")
    assert same(before, state(model))


@torch.no_grad()
def test_an_error_in_an_encoder_leaves_no_prompt_in_the_attachment() -> None:
    model = thinker()
    with omnisift.attach(model, half()) as attachment:
        with pytest.raises(IndexError, match="out of bounds"):
            model(**{**CLIP, "pixel_values_videos": CLIP["pixel_values_videos"][:-4]})
        assert attachment.last is None
        assert model(**prompt([7])).logits.shape[1] == 7


class Wrapper(nn.Module):
    """Calls ``forward`` of the model inside, which skips its hooks, as PEFT does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.wrapped = model

    @property
    def config(self) -> Any:
        return self.wrapped.config

    def get_base_model(self) -> nn.Module:
        return self.wrapped

    def forward(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        return self.wrapped.forward(input_ids=input_ids, **kwargs)


def test_a_wrapper_that_calls_forward_directly_is_compressed_with_its_labels() -> None:
    model = thinker()
    labels = CLIP["input_ids"].where(CLIP["input_ids"] >= 20, -100)
    with omnisift.attach(model, half()):
        expected = model(**CLIP, labels=labels)
    wrapper = Wrapper(model)
    before = state(wrapper)
    with omnisift.attach(wrapper, half()):
        got = wrapper(**CLIP, labels=labels)
        assert torch.equal(got.logits, expected.logits)
        assert torch.equal(got.loss, expected.loss)
        with pytest.raises(ModelError, match="detach"):
            omnisift.attach(model, half())
    after = state(wrapper)
    assert same({"": before[""]}, {"": after[""]})


@torch.no_grad()
def test_a_prompt_that_skips_the_hooks_is_never_read_uncompressed() -> None:
    model = thinker()
    with omnisift.attach(model, half()):
        old_layout = not hasattr(model.model, "language_model")
        if old_layout:
            with pytest.raises(UnsupportedCall, match="wrapper"):
                model.forward(**CLIP)
        else:
            assert model.forward(**CLIP).logits.shape[1] < CLIP["input_ids"].shape[1]
        with pytest.raises(UnsupportedCall, match="wrapper"):
            language_model(model)(inputs_embeds=torch.randn(1, 5, 32))


def test_attaching_twice_is_an_error_until_the_first_is_detached() -> None:
    model = thinker()
    first = omnisift.attach(model, half())
    with pytest.raises(ModelError, match="detach"):
        omnisift.attach(model, half())
    first.detach()
    omnisift.attach(model, half()).detach()


@torch.no_grad()
def test_two_models_of_one_process_are_independent() -> None:
    first, second = thinker(0), thinker(0)
    full = second(**CLIP).logits
    with omnisift.attach(first, half()) as a:
        assert torch.equal(second(**CLIP).logits, full)
        with omnisift.attach(second, Norms(HALF)) as b:
            first(**CLIP)
            assert b.last is None
            second(**CLIP)
            assert a.last is not None
            assert b.last is not None
            assert not torch.equal(a.last.keep, b.last.keep)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), thinker().visual if hasattr(thinker(), "visual") else nn.ReLU()])
def test_an_unknown_model_is_named_with_the_known_ones(model: nn.Module) -> None:
    with pytest.raises(UnsupportedModel, match=r"qwen2_5_omni.*add-a-model"):
        omnisift.attach(model, half())


def test_a_part_without_a_language_head_is_refused() -> None:
    part = language_model(thinker())
    part.config.model_type = "qwen2_5_omni_thinker"
    with pytest.raises(UnsupportedModel, match="language head"):
        omnisift.attach(part, half())


def test_a_need_that_the_adapter_cannot_meet_is_named() -> None:
    with pytest.raises(CompressorError, match="unknown_extra"):
        omnisift.attach(thinker(), NeedsUnknown(HALF))


class _Broken(Norms):
    def __init__(self, selection: Any) -> None:
        super().__init__(HALF)
        self.selection = selection

    def forward(self, stream: TokenStream) -> Selection:
        return self.selection(stream)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (lambda s: Selection(torch.zeros(len(s), dtype=torch.bool)), "outside chunks"),
        (lambda s: Selection(torch.ones(3, dtype=torch.bool)), "keep must be"),
        (lambda s: Selection(torch.ones(len(s), dtype=torch.bool), embeds=s.embeds[:2]), "one each"),
    ],
)
def test_a_compressor_that_breaks_the_contract_is_refused(selection: Any, message: str) -> None:
    model = thinker()
    with omnisift.attach(model, _Broken(selection)), pytest.raises(CompressorError, match=message):
        model(**CLIP)


@torch.no_grad()
def test_the_record_counts_what_was_kept() -> None:
    model = thinker()
    inputs = prompt([5, Video(4, 2, 3, audio=60), 6], [4, Video(2, 2, 3, audio=40), 5])
    with omnisift.attach(model, half()) as attachment:
        logits = model(**inputs).logits
    last = attachment.last
    assert last is not None
    assert (last.n_video_rows, last.n_audio_rows) == ([24, 12], [60, 40])
    assert (last.n_video, last.n_audio) == (36, 100)
    assert last.kept_video_rows == [12, 6]
    assert last.kept_audio == sum(last.kept_audio_rows)
    assert logits.shape[1] == int((last.keep & inputs["attention_mask"].bool()).sum(1).max())
    assert last.scores is not None
    assert last.scores.shape == last.keep.shape == inputs["input_ids"].shape
    assert last.retained_ratio == pytest.approx(0.5, abs=0.02)


@torch.no_grad()
def test_the_record_of_a_prompt_without_video_is_none() -> None:
    model = thinker()
    with omnisift.attach(model, half()) as attachment:
        model(**CLIP)
        model(**prompt([9]))
        assert attachment.last is None
