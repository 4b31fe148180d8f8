"""Transformers' quantised caches under `attach`: every step equals one by hand on the tokens that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.models import Video, language_model, prompt, row_of, thinker
from tests.models.hosts import half, keep_all, language_model_arguments
from torch import Tensor
from transformers import QuantizedCache

import omnisift
from omnisift.errors import UnsupportedCall, UnsupportedModel
from omnisift.models.cached_prompt import cache_argument
from omnisift.profiling.analytic import cache_bytes

pytestmark = [pytest.mark.quant, pytest.mark.slow]

MODEL = thinker()
ROW = [5, Video(4, 2, 3, audio=90), 6]
ROWS = [ROW, [9, Video(2, 2, 2, audio=30), 21], [40], [3, Video(3, 3, 3, audio=60), 30]]
STEPS = 5
HQQ = {"backend": "hqq", "axis_key": 1, "axis_value": 1, "q_group_size": 4}
CACHES: dict[str, dict[str, Any]] = {
    "quanto-4": {"backend": "quanto", "nbits": 4, "q_group_size": 16},
    "quanto-2": {"backend": "quanto", "nbits": 2, "q_group_size": 16},
    "hqq-8": {**HQQ, "nbits": 8},
    "hqq-4": {**HQQ, "nbits": 4},
    "hqq-2": {**HQQ, "nbits": 2},
    "fp8": {"backend": "fp8"},
}
"""Groups divide a head of one token, so that no group has values of two rows; but fp8 has one scale for all of them."""
GROUPED = [options for name, options in CACHES.items() if name != "fp8"]


def quantized(options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``generate``."""
    return {"cache_implementation": "quantized", "cache_config": dict(options)}


def new_cache(options: dict[str, Any], model: Any = MODEL) -> QuantizedCache:
    return QuantizedCache(config=model.config.get_text_config(), **options)


def steps_by_hand(inputs: dict[str, Any], keep: Tensor, new: list[Tensor], options: dict[str, Any]) -> list[Tensor]:
    """[V] logits after the kept tokens of a prompt, and after each part of new tokens, with one quantised cache."""
    arguments = language_model_arguments(MODEL, inputs)
    index = keep[0].nonzero()[:, 0]
    core, cache = language_model(MODEL), new_cache(options)
    embeds, positions = arguments["inputs_embeds"][:, index], arguments["position_ids"][-3:, :, index]
    following, logits = int(arguments["position_ids"][-3:].max()) + 1, []
    for part in [None, *new]:
        if part is not None:
            embeds = core.get_input_embeddings()(part)
            positions = (following + torch.arange(part.shape[1])).expand(3, 1, -1)
            following += part.shape[1]
        given = cache_argument(core, cache)
        hidden = core(inputs_embeds=embeds, position_ids=positions, use_cache=True, **given).last_hidden_state
        logits.append(MODEL.lm_head(hidden)[0, -1])
    return logits


@pytest.mark.parametrize("options", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_every_step_of_generate_equals_one_by_hand(options: dict[str, Any], mode: Any) -> None:
    inputs = prompt(ROW)
    with mode():
        with omnisift.attach(MODEL, half()) as attachment:
            wanted = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": STEPS}
            got = MODEL.generate(**inputs, **wanted, **quantized(options))
        assert isinstance(got.past_key_values, QuantizedCache)
        assert attachment.last is not None
        new = list(got.sequences[:, inputs["input_ids"].shape[1] :].split(1, dim=1))
        expected = steps_by_hand(inputs, attachment.last.keep, new[:-1], options)
    assert all(torch.allclose(a[0], b, atol=1e-5) for a, b in zip(got.logits, expected, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("options", CACHES.values(), ids=CACHES)
def test_a_second_turn_reads_the_quantised_clip(options: dict[str, Any]) -> None:
    inputs, random = prompt(ROW), torch.Generator().manual_seed(1)
    turns = [torch.randint(20, 90, (1, length), generator=random) for length in (1, 7, 3)]
    cache = new_cache(options)
    with omnisift.attach(MODEL, half()) as attachment:
        MODEL(**inputs, past_key_values=cache, use_cache=True)
        assert attachment.last is not None
        keep = attachment.last.keep
        got = [MODEL(input_ids=turn, past_key_values=cache, use_cache=True).logits[0, -1] for turn in turns]
    expected = steps_by_hand(inputs, keep, turns, options)[1:]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, expected, strict=True))
    assert cache.get_seq_length() == int(keep.sum()) + 11


@torch.no_grad()
@pytest.mark.parametrize("options", GROUPED, ids=[name for name in CACHES if name != "fp8"])
def test_a_batch_answers_like_its_rows_alone(options: dict[str, Any]) -> None:
    inputs = prompt(*ROWS)
    with omnisift.attach(MODEL, half()):
        batch = MODEL.generate(**inputs, max_new_tokens=STEPS, **quantized(options))[:, -STEPS:]
        for index, row in enumerate(ROWS):
            single = row_of(inputs, row, index, ROWS)
            assert torch.equal(
                batch[index], MODEL.generate(**single, max_new_tokens=STEPS, **quantized(options))[0, -STEPS:]
            )


@torch.no_grad()
@pytest.mark.parametrize("options", CACHES.values(), ids=CACHES)
def test_keeping_everything_changes_nothing_and_detaching_leaves_nothing(options: dict[str, Any]) -> None:
    inputs, wanted = prompt(*ROWS), {"max_new_tokens": STEPS, "num_beams": 2, **quantized(options)}
    full = MODEL.generate(**inputs, **wanted)
    with omnisift.attach(MODEL, keep_all()):
        assert torch.equal(MODEL.generate(**inputs, **wanted), full)
    assert torch.equal(MODEL.generate(**inputs, **wanted), full)


@torch.no_grad()
def test_what_a_quantised_cache_cannot_do_is_refused() -> None:
    inputs, cache = prompt(ROW), new_cache(CACHES["quanto-4"])
    with omnisift.attach(MODEL, half()):
        MODEL(**inputs, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(2)
        with pytest.raises(UnsupportedCall, match="rows of a quantised cache can't be repeated"):
            MODEL(input_ids=torch.full((2, 1), 30), past_key_values=cache, use_cache=True)
        with pytest.raises(ValueError, match="can be cropped"):
            MODEL.generate(**inputs, max_new_tokens=4, prompt_lookup_num_tokens=2, **quantized(CACHES["quanto-4"]))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "group"), [("quanto-4", 64), ("quanto-2", 64), ("hqq-8", 64), ("hqq-4", 64), ("fp8", 0)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_formula_is_the_size_of_a_real_cache(name: str, group: int, dtype: torch.dtype) -> None:
    rotary = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [32, 16, 16]}
    model = thinker(hidden_size=256, num_key_value_heads=2, rope_parameters=rotary).to(dtype)  # heads of 128
    options = CACHES[name] | ({"q_group_size": 64} if group else {})
    cache, ids = new_cache(options, model), torch.randint(20, 90, (1, 75))
    model(input_ids=ids, past_key_values=cache, use_cache=True)
    bits = options.get("nbits", 8)
    scalars = 0 if group else 2 * 4 * len(cache.layers)  # fp8 has a scale for keys and one for values in each layer
    expected = cache_bytes(model.config.text_config, 75, dtype.itemsize, bits=bits, group=group) + scalars
    assert sum(tensor.nbytes for layer in cache.layers for tensor in stored(vars(layer))) == expected


def stored(value: Any) -> list[Tensor]:
    """The plain tensors in a layer of a cache."""
    if isinstance(value, Tensor):
        if type(value) in (Tensor, torch.nn.Parameter):
            return [value]
        return [part for name in value.__tensor_flatten__()[0] for part in stored(getattr(value, name))]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for part in parts for tensor in stored(part)]


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch) -> omnisift.Pipeline:
    """Nano, whose ``generate`` uses a quantised cache."""
    pipe = omnisift.load("nano", retain=0.25)
    generation = pipe.host.thinker.generation_config
    for name, value in quantized(CACHES["quanto-4"]).items():
        monkeypatch.setattr(generation, name, value, raising=False)
    return pipe


def test_a_pipeline_answers_and_holds_no_prompt(nano: omnisift.Pipeline, clip: Path) -> None:
    encoded, questions = nano.encode(clip), ["What colour is the circle?", "Describe what is seen and heard."]
    answers = [nano.ask(encoded, question) for question in questions]
    assert [answer.report.cached_tokens for answer in answers] == [0, 0]
    assert len(encoded.held) == 0
    plain = omnisift.load("nano", retain=0.25)
    assert answers[0].text == plain.ask(clip, questions[0]).text
    assert [answer.text for answer in nano.ask_batch([(clip, question) for question in questions])] == [
        answer.text for answer in answers
    ]


def test_windows_read_into_a_quantised_cache(nano: omnisift.Pipeline, clip: Path) -> None:
    parts = nano.with_compressor("stvp", retain=0.25, retain_encoded=1.0)
    assert (
        parts.ask(clip, "What colour is the circle?").text
        == nano.with_compressor("stvp", retain=0.25).ask(clip, "What colour is the circle?").text
    )


def test_a_stream_is_refused_before_and_while_it_runs(nano: omnisift.Pipeline, clip: Path) -> None:
    with pytest.raises(UnsupportedModel, match="cache_implementation='quantized'"):
        nano.stream()
    generation = nano.host.thinker.generation_config
    generation.cache_implementation = None
    with omnisift.open_stream(clip) as source, nano.stream(audio=source.has_audio) as stream:
        for piece in source:
            stream.feed(piece)
        generation.cache_implementation = "quantized"
        with pytest.raises(UnsupportedCall, match="QuantizedCache can't take the keys and values of a stream"):
            stream.ask("What colour is the circle?")
