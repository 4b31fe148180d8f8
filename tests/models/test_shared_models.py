"""Models that are copied, pickled, compiled, or used by several threads while a compressor is attached."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tests.helpers.models import Video, full_model, language_model, prompt, thinker

import omnisift
from omnisift.errors import ModelError
from omnisift.models.attachment import is_attached

INPUTS = prompt([5, Video(4, 2, 3, audio=60), 6])

# --- copies ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_copy_of_an_attached_model_is_not_compressed() -> None:
    model = thinker()
    full = INPUTS["input_ids"].shape[1]
    with omnisift.attach(model, "random") as attachment:
        twin = copy.deepcopy(model)
        assert twin(**INPUTS).logits.shape[1] == full
        assert attachment.last is None
        assert not is_attached(language_model(twin))
        cut = model(**INPUTS).logits
    assert cut.shape[1] < full
    # The copy takes a compressor of its own.
    with omnisift.attach(twin, "random"):
        assert torch.equal(twin(**INPUTS).logits, cut)
    assert twin(**INPUTS).logits.shape[1] == model(**INPUTS).logits.shape[1] == full


@torch.no_grad()
def test_copies_of_hosts_with_probes_and_speech_stay_out_of_the_way() -> None:
    model = full_model()
    inputs = prompt([5, Video(4, audio=90), 6])
    with omnisift.attach(model, "attended", retain=0.25) as attachment:
        twin = copy.deepcopy(model)
        expected = model.thinker(**inputs).logits
        last = attachment.last
        assert twin.thinker(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]
        assert attachment.last is last
        assert torch.equal(model.thinker(**inputs).logits, expected)


@torch.no_grad()
def test_a_pickled_model_comes_back_without_its_compressor() -> None:
    model = thinker()
    linear = torch.nn.Linear(2, 2)
    with omnisift.attach(model, "random") as attachment:
        hook = attachment._handles[0]
        linear.register_forward_pre_hook(hook, with_kwargs=True)
        twin = pickle.loads(pickle.dumps(linear))
    assert torch.equal(twin(torch.ones(2)), linear(torch.ones(2)))


# --- torch.compile ---------------------------------------------------------------------------------------------------


@pytest.fixture
def compiler() -> Iterator[Callable[[Any], Any]]:
    torch.compiler.reset()
    yield lambda module: torch.compile(module, backend="eager")
    torch.compiler.reset()


@pytest.mark.slow
@torch.no_grad()
def test_compiled_hosts_are_compressed(compiler: Callable[[Any], Any]) -> None:
    model = thinker()
    full = model(**INPUTS).logits
    with omnisift.attach(model, "random"):
        cut = model(**INPUTS).logits
        # Attached first, compiled then.
        assert torch.allclose(compiler(model)(**INPUTS).logits, cut, atol=1e-5)
    compiled = compiler(model)
    assert torch.allclose(compiled(**INPUTS).logits, full, atol=1e-5)
    # Compiled and called first, attached then; and after that without a compressor again.
    with omnisift.attach(compiled, "random"):
        assert torch.allclose(compiled(**INPUTS).logits, cut, atol=1e-5)
        assert compiled.generate(**INPUTS, max_new_tokens=2).shape[1] == full.shape[1] + 2
    assert torch.allclose(compiled(**INPUTS).logits, full, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_language_models_are_compressed(compiler: Callable[[Any], Any], in_place: bool) -> None:
    model = thinker()
    with omnisift.attach(model, "random"):
        cut = model(**INPUTS).logits
    parent = model.model if hasattr(model.model, "language_model") else model
    name = "language_model" if parent is not model else "model"
    part = getattr(parent, name)
    if in_place:
        part.compile(backend="eager")
    else:
        setattr(parent, name, compiler(part))
    full = model(**INPUTS).logits
    for _ in range(2):
        with omnisift.attach(model, "random"):
            assert torch.allclose(model(**INPUTS).logits, cut, atol=1e-5)
        assert torch.allclose(model(**INPUTS).logits, full, atol=1e-5)


@torch.no_grad()
def test_code_that_was_compiled_before_is_told(compiler: Callable[[Any], Any]) -> None:
    model = thinker()
    compiled = compiler(model)
    full = compiled(**INPUTS).logits
    with pytest.warns(UserWarning, match="compile it after attach"), omnisift.attach(model, "random") as attachment:
        assert compiled(**INPUTS).logits.shape == full.shape
    assert attachment.last is None


# --- threads ---------------------------------------------------------------------------------------------------------


def test_attach_in_another_thread_says_so() -> None:
    model = thinker()
    words = r"attached in thread 'MainThread': attach in one thread at a time"
    with ThreadPoolExecutor(1) as pool, omnisift.attach(model, "random"), pytest.raises(ModelError, match=words):
        pool.submit(omnisift.attach, model, "random").result()


def test_of_many_threads_one_attaches() -> None:
    model = thinker()
    barrier = threading.Barrier(8)

    def attach() -> Any:
        barrier.wait()
        try:
            return omnisift.attach(model, "random")
        except ModelError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        results = [future.result() for future in [pool.submit(attach) for _ in range(8)]]
    attachments = [result for result in results if not isinstance(result, str)]
    assert len(attachments) == 1
    assert all("already has a compressor" in result for result in results if isinstance(result, str))
    attachments[0].detach()
    assert not is_attached(language_model(model))
