"""Answers from a shared cache equal those of ordinary calls: same logits, same kept tokens, same words."""

from contextlib import nullcontext

import pytest
import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.lab.benchmark.prompts import answer, prepare, write
from omnisift.models import attach
from omnisift.pipeline.prompt import build_inputs


@pytest.mark.parametrize("retain", [0.35, 0.15])
@pytest.mark.parametrize("name", [None, "omnisift", "random", "uniform"])
def test_equals_ordinary_calls(world, name, retain):
    """Each question as a whole prompt, from pixels and mel, through ``model(**inputs)`` with the method attached."""
    host, budget = world.host, Budget(retain_video=retain, retain_audio=retain)
    method = make_compressor(name, budget, selector=world.selector, seed=5).eval() if name else None
    prompts = prepare(host.thinker, host.processor, world.media, [q.text for q in world.asked])
    logits, compression = answer(host.thinker, prompts, method)
    assert len({len(q.text.split()) for q in world.asked}) > 1, "questions of unequal length"
    for row, question in enumerate(world.asked):
        inputs = build_inputs(host.processor, world.media, question.text)
        with torch.inference_mode(), attach(host.thinker, method) if method else nullcontext() as attachment:
            want = host.thinker(**inputs).logits[0, -1]
        assert (logits[row] - want).abs().max() < 1e-5 * want.abs().max()
        if method is not None:
            shared = compression.keep.shape[1]
            assert torch.equal(attachment.last.keep[0, :shared], compression.keep[0])
            assert attachment.last.keep[0, shared:].all()
            assert 0 < compression.kept_video < compression.n_video
    assert (logits[0] - logits[1]).abs().max() > 1e-3, "the questions differ"


def test_writing_in_a_batch_equals_writing_alone(world):
    """Unequal requests in one batch; the first written words are those of single calls."""
    host = world.host
    method = make_compressor("omnisift", Budget(retain_video=0.25, retain_audio=0.25), selector=world.selector)
    asks = [(world.media, "Describe the clip."), (world.media, "What happens in the clip?")]
    for compressor in (None, method.eval()):
        batch = write(host.thinker, host.processor, asks, compressor, max_new_tokens=6)
        assert batch == [write(host.thinker, host.processor, [ask], compressor, max_new_tokens=6)[0] for ask in asks]


def test_the_model_is_left_alone(world):
    model = world.host.thinker
    before = [len(module._forward_pre_hooks) for module in model.modules()]
    prepare(model, world.host.processor, world.media, ["What is this?"])
    assert [len(module._forward_pre_hooks) for module in model.modules()] == before
