"""Estimators inside a real host: the gradient reaches the selector, and a hard fade is as good as a cut."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.models import WIDTH, Video, prompt, thinker

import omnisift
from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.estimators import ESTIMATORS
from omnisift.models.attachment import Attachment
from omnisift.vgas import VGAS, VGASConfig

BUDGET = Budget(retain_video=0.5, retain_audio=0.4)
BATCH = ([3, Video(audio=90), 4], [5, Video(frames=3, audio=60), 2], [2, Video(frames=2, audio=50), 6])


def selector(seed: int = 0) -> VGAS:
    torch.manual_seed(seed)
    return VGAS(VGASConfig(input_size=WIDTH, hidden_size=16, num_attention_heads=2))


def learning(name: str, vgas: VGAS) -> tuple[Attachment, torch.Tensor]:
    model, inputs = thinker(), prompt(*BATCH)
    compressor = make_compressor(f"omnisift:estimator={name}", BUDGET, selector=vgas).train()
    torch.manual_seed(1)
    with omnisift.attach(model, compressor) as attachment:
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        loss = model(**inputs, labels=labels, use_cache=False).loss
    return attachment, loss


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_selector_gets_a_gradient(name: str) -> None:
    vgas = selector()
    attachment, loss = learning(name, vgas)
    assert attachment.selection is not None
    log_prob = attachment.selection.log_prob
    if log_prob is not None:
        assert log_prob.shape == (len(BATCH),)
        assert (log_prob < 0).all()
        loss = (log_prob * torch.tensor([1.0, -1.0, 0.5])).sum()
    loss.backward()
    norm = sum(float(p.grad.norm()) for p in vgas.parameters() if p.grad is not None)
    assert norm > 0
    assert torch.isfinite(torch.tensor(norm))


def test_fading_estimators_keep_the_audio_and_cut_the_video() -> None:
    attachment, _ = learning("bias", selector())
    assert attachment.last is not None
    assert attachment.last.kept_audio == attachment.last.n_audio
    assert attachment.last.kept_video < attachment.last.n_video


@torch.no_grad()
def test_a_hard_fade_answers_as_the_cut_does() -> None:
    """Batch with padding: the last token's logits of a fade at the end of training and of the hard prompt."""
    model, inputs, vgas = thinker(), prompt(*BATCH), selector()
    vgas.score_head[2].weight *= 1e4  # scores so far apart that even the soft mask is hard
    hard = make_compressor("omnisift", BUDGET, selector=vgas).eval()
    with omnisift.attach(model, hard):
        expected = model(**inputs).logits[:, -1]
    soft = make_compressor("omnisift:estimator=bias", BUDGET, selector=vgas).train()
    soft.estimator.progress = 1.0
    with omnisift.attach(model, soft), torch.enable_grad():
        faded = model(**inputs, use_cache=False).logits[:, -1]
    torch.testing.assert_close(faded, expected, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_merging_changes_kept_audio_only_and_fades_out() -> None:
    model, inputs, vgas = thinker(), prompt(*BATCH), selector()
    logits = []
    for progress in (0.0, 1.0):
        compressor = make_compressor("omnisift:estimator=merge", BUDGET, selector=vgas).train()
        compressor.estimator.progress = progress
        with omnisift.attach(model, compressor) as attachment, torch.enable_grad():
            logits.append(model(**inputs, use_cache=False).logits[:, -1])
            keep = attachment.last.keep
    with omnisift.attach(model, make_compressor("omnisift", BUDGET, selector=vgas).eval()) as attachment:
        logits.append(model(**inputs).logits[:, -1])
        assert torch.equal(attachment.last.keep, keep)
    early, late, hard = logits
    assert (late - hard).abs().max() < (early - hard).abs().max() / 5


def test_without_a_gradient_no_estimator_runs() -> None:
    model, inputs, vgas = thinker(), prompt(*BATCH), selector()
    compressor = make_compressor("omnisift:estimator=reinforce", BUDGET, selector=vgas).train()
    with omnisift.attach(model, compressor) as attachment, torch.no_grad():
        first = (model(**inputs).logits, attachment.last.keep)
        assert attachment.selection is None
        again = (model(**inputs).logits, attachment.last.keep)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
