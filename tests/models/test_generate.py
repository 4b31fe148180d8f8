"""`generate` on a cut prompt: every step equals a forward without a cache, in every decoding mode."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.helpers.models import Audio, Part, Video, language_model, prompt, row_of, thinker
from tests.models.hosts import Ragged, half, keep_all, omnisift_half
from torch import Tensor
from transformers import DynamicCache, StaticCache

import omnisift
from omnisift.compressors.base import Compressor
from omnisift.errors import UnsupportedCall

MODEL = thinker()
ROW: list[Part] = [5, Video(4, 2, 3, audio=90), 6]
INPUTS = prompt(ROW)
ROWS: list[list[Part]] = [ROW, [9, Video(2, 2, 2, audio=30), 21], [40], [3, Video(3, 3, 3, audio=60), 30]]
STEPS = 6


def extended(inputs: dict[str, Any], new: Tensor) -> dict[str, Any]:
    """``inputs`` with the tokens ``new`` [B, N] after the prompt."""
    ids = torch.cat([inputs["input_ids"], new], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
    return {**inputs, "input_ids": ids, "attention_mask": mask}


def answer(inputs: dict[str, Any], model: Any = MODEL, **options: Any) -> Tensor:
    """[B, STEPS] the new tokens."""
    return model.generate(**inputs, max_new_tokens=STEPS, **options)[:, inputs["input_ids"].shape[1] :]


@torch.no_grad()
@pytest.mark.parametrize("row", [ROW, [5, Video(3), 6], [4, Video(2, audio=30), 3, Video(4, audio=20), 9]])
def test_keeping_everything_gives_the_same_text_and_bit_equal_logits(row: list[Part]) -> None:
    inputs = prompt(row)
    options = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": STEPS}
    full = MODEL.generate(**inputs, **options)
    with omnisift.attach(MODEL, keep_all()):
        got = MODEL.generate(**inputs, **options)
    assert torch.equal(got.sequences, full.sequences)
    assert all(torch.equal(a, b) for a, b in zip(got.logits, full.logits, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("compressor", [half(), omnisift_half(), Ragged()], ids=["random", "omnisift", "ragged"])
@pytest.mark.parametrize("rows", [[ROW], ROWS], ids=["one", "batch"])
def test_every_decoding_step_equals_a_forward_without_a_cache(rows: list[list[Part]], compressor: Compressor) -> None:
    inputs = prompt(*rows)
    with omnisift.attach(MODEL, compressor):
        got = MODEL.generate(**inputs, max_new_tokens=STEPS, return_dict_in_generate=True, output_logits=True)
        new = got.sequences[:, inputs["input_ids"].shape[1] :]
        for step, logits in enumerate(got.logits):
            full = MODEL(**extended(inputs, new[:, :step]), use_cache=False).logits[:, -1]
            assert (logits - full).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("stale", [True, False], ids=["after another prompt", "first prompt"])
def test_a_decoding_loop_of_the_caller_continues_from_the_full_length(mask: bool, stale: bool) -> None:
    """The caller passes no positions: the host would count them from the cache's length."""
    model = thinker()
    new = torch.randint(20, 90, (1, STEPS), generator=torch.Generator().manual_seed(1))
    inputs = INPUTS if mask else {k: v for k, v in INPUTS.items() if k != "attention_mask"}
    with omnisift.attach(model, half()):
        if stale:
            model(**prompt([3, Video(2), 9]))
        cache = model(**inputs, use_cache=True).past_key_values
        for step in range(STEPS):
            logits = model(input_ids=new[:, step : step + 1], past_key_values=cache, use_cache=True).logits
            full = extended(INPUTS, new[:, : step + 1])
            if not mask:
                del full["attention_mask"]
            assert (logits[:, -1] - model(**full, use_cache=False).logits[:, -1]).abs().max() < 1e-5


@torch.no_grad()
def test_right_padding_decodes_like_single_prompts() -> None:
    inputs = prompt(*ROWS, pad="right")
    lengths = inputs["attention_mask"].sum(dim=1)
    new = torch.randint(20, 90, (len(ROWS), 3), generator=torch.Generator().manual_seed(1))
    with omnisift.attach(MODEL, half()):
        cache = MODEL(**inputs, use_cache=True).past_key_values
        for step in range(3):
            logits = MODEL(input_ids=new[:, step : step + 1], past_key_values=cache).logits[:, -1]
        for index, row in enumerate(ROWS):
            single = row_of(inputs, row, index, ROWS)
            assert single["input_ids"].shape[1] == lengths[index]
            full = MODEL(**extended(single, new[index : index + 1]), use_cache=False).logits[0, -1]
            assert (logits[index] - full).abs().max() < 1e-5


@torch.no_grad()
def test_generating_twice_is_stable_with_other_prompts_in_between() -> None:
    with omnisift.attach(MODEL, half()):
        first = answer(INPUTS)
        answer(prompt([12]))
        answer(prompt([3, Video(2), 9]))
        assert torch.equal(answer(INPUTS), first)
        assert torch.equal(answer(INPUTS), first)


@torch.no_grad()
def test_a_batch_answers_like_its_rows_alone() -> None:
    inputs = prompt(*ROWS)
    with omnisift.attach(MODEL, half()):
        batch = answer(inputs)
        for index, row in enumerate(ROWS):
            assert torch.equal(batch[index], answer(row_of(inputs, row, index, ROWS))[0])


@torch.no_grad()
@pytest.mark.parametrize("rows", [[ROW], [ROW, [9, Video(2, 2, 2, audio=30), 21]]], ids=["one", "batch"])
def test_beam_search_with_a_cache_equals_beam_search_without(rows: list[list[Part]]) -> None:
    inputs = prompt(*rows)
    with omnisift.attach(MODEL, half()) as attachment:
        beams = answer(inputs, num_beams=3)
        assert attachment.last is not None
        assert len(attachment.last.keep) == 3 * len(rows)
        assert torch.equal(beams, answer(inputs, num_beams=3, use_cache=False))


@torch.no_grad()
def test_sampling_runs_and_repeats_with_its_seed() -> None:
    def sample() -> Tensor:
        torch.manual_seed(5)
        return answer(INPUTS, do_sample=True, top_k=20, num_return_sequences=3)

    with omnisift.attach(MODEL, half()):
        first = sample()
        assert first.shape == (3, STEPS)
        assert torch.equal(first, sample())


@torch.no_grad()
def test_generating_without_a_cache_gives_the_same_text() -> None:
    with omnisift.attach(MODEL, half()):
        assert torch.equal(answer(INPUTS, use_cache=False), answer(INPUTS))


@torch.no_grad()
@pytest.mark.parametrize("rows", [[ROW], ROWS], ids=["one", "batch"])
def test_a_static_cache_gives_the_same_text(rows: list[list[Part]]) -> None:
    inputs = prompt(*rows)
    with omnisift.attach(MODEL, half()):
        expected = answer(inputs)
        assert torch.equal(answer(inputs, cache_implementation="static"), expected)
        assert torch.equal(answer(inputs, cache_implementation="static"), expected)  # the host reuses the cache
        text = prompt([12])
        assert torch.equal(answer(text, cache_implementation="static"), answer(text))


@torch.no_grad()
def test_prompt_lookup_gives_the_same_text() -> None:
    with omnisift.attach(MODEL, half()):
        assert torch.equal(answer(INPUTS, prompt_lookup_num_tokens=3), answer(INPUTS))


@torch.no_grad()
def test_an_assistant_model_gives_the_same_text() -> None:
    assistant = thinker(seed=1)
    with omnisift.attach(MODEL, half()):
        assert torch.equal(answer(INPUTS, assistant_model=assistant), answer(INPUTS))


@torch.no_grad()
def test_a_compressed_assistant_is_refused() -> None:
    """The host passes it the full prompt again, video included, with the cache of its own cut one."""
    assistant = thinker(seed=1)
    with omnisift.attach(assistant, half()), pytest.raises(UnsupportedCall, match="assistant"):
        answer(INPUTS, assistant_model=assistant)


@torch.no_grad()
def test_a_copied_cache_keeps_its_state() -> None:
    """One prompt, several questions: the documented method is to copy the cache of the prompt."""
    new = torch.tensor([[30, 31, 32]])
    with omnisift.attach(MODEL, half()):
        cache = MODEL(**INPUTS, use_cache=True).past_key_values
        other = copy.deepcopy(cache)
        expected = MODEL(input_ids=new, past_key_values=cache).logits
        assert torch.equal(MODEL(input_ids=new, past_key_values=other).logits, expected)
        full = MODEL(**extended(INPUTS, new), use_cache=False).logits
        assert (expected - full[:, -3:]).abs().max() < 1e-5


@torch.no_grad()
def test_a_cache_with_repeated_rows_takes_several_questions() -> None:
    questions = torch.tensor([[30, 31, 32], [40, 41, 42]])
    rows: list[list[Part]] = [ROW, [9, Video(2, 2, 2, audio=30), 21]]
    inputs = prompt(*rows)
    with omnisift.attach(MODEL, half()):
        cache = MODEL(**inputs, use_cache=True).past_key_values
        cache.batch_repeat_interleave(2)
        both = MODEL(input_ids=questions.repeat(2, 1), past_key_values=cache).logits
        for index, row in enumerate(rows):
            for number in range(2):
                single = extended(row_of(inputs, row, index, rows), questions[number : number + 1])
                full = MODEL(**single, use_cache=False).logits[0, -3:]
                assert (both[2 * index + number] - full).abs().max() < 1e-5
        with pytest.raises(UnsupportedCall, match="equally"):
            MODEL(input_ids=questions.repeat(3, 1)[:5], past_key_values=cache)


@torch.no_grad()
def test_a_second_turn_of_text_continues_in_the_same_cache() -> None:
    question = torch.tensor([[40, 41, 42, 43]])
    with omnisift.attach(MODEL, half()):
        cache = DynamicCache(config=MODEL.config.text_config)
        first = answer(INPUTS, past_key_values=cache)
        # The last token was emitted but not read yet.
        tail = torch.cat([first[:, -1:], question], dim=1)
        conversation = extended(INPUTS, torch.cat([first, question], dim=1))
        second = MODEL.generate(
            input_ids=tail, attention_mask=conversation["attention_mask"], past_key_values=cache, max_new_tokens=STEPS
        )[:, tail.shape[1] :]
        assert torch.equal(second, answer(conversation))


@torch.no_grad()
def test_passing_the_full_conversation_with_its_cache_continues_after_it() -> None:
    """The host skips as many tokens as are cached, which are fewer than were read."""
    with omnisift.attach(MODEL, half()):
        cache = DynamicCache(config=MODEL.config.text_config)
        first = answer(INPUTS, past_key_values=cache)
        conversation = extended(INPUTS, torch.cat([first, torch.tensor([[40, 41, 42]])], dim=1))
        only_text = {name: conversation[name] for name in ("input_ids", "attention_mask")}
        assert torch.equal(answer(only_text, past_key_values=cache), answer(conversation))


@torch.no_grad()
def test_nothing_new_after_a_cache_is_refused() -> None:
    with omnisift.attach(MODEL, half()):
        cache = MODEL(**INPUTS, use_cache=True).past_key_values
        with pytest.raises(UnsupportedCall, match=r"new input_ids"):
            MODEL(input_ids=torch.tensor([[30, 31]]), position_ids=torch.zeros(3, 1, 2).long(), past_key_values=cache)


@torch.no_grad()
def test_new_video_after_a_cache_is_refused() -> None:
    with omnisift.attach(MODEL, half()):
        cache = MODEL(**prompt([9]), use_cache=True).past_key_values
        with pytest.raises(UnsupportedCall, match="without a cache"):
            MODEL(**INPUTS, past_key_values=cache)


@torch.no_grad()
def test_a_cache_cropped_into_the_prompt_is_refused() -> None:
    with omnisift.attach(MODEL, half()):
        cache = MODEL(**INPUTS, use_cache=True).past_key_values
        cache.crop(-12)
        with pytest.raises(UnsupportedCall, match="cropped"):
            MODEL(input_ids=torch.tensor([[30]]), past_key_values=cache)


@torch.no_grad()
def test_prompts_without_video_generate_as_before() -> None:
    for inputs in (prompt([12]), prompt([4, Audio(30), 8])):
        full = answer(inputs)
        with omnisift.attach(MODEL, half()):
            assert torch.equal(answer(inputs), full)


@torch.no_grad()
def test_a_static_cache_of_the_caller_works_and_may_be_used_again() -> None:
    with omnisift.attach(MODEL, half()):
        expected = answer(INPUTS)
        cache = StaticCache(config=MODEL.config.text_config, max_cache_len=INPUTS["input_ids"].shape[1] + STEPS)
        for _ in range(2):
            assert torch.equal(answer(INPUTS, past_key_values=cache), expected)
            cache.reset()


@torch.no_grad()
@pytest.mark.parametrize("before", [3, 30], ids=["video in the first chunk", "video in a later chunk"])
def test_prefill_in_chunks_is_refused(before: int) -> None:
    inputs = prompt([before, Video(4), 6])
    with omnisift.attach(MODEL, half()), pytest.raises((UnsupportedCall, ValueError), match="prefill_chunk_size"):
        answer(inputs, prefill_chunk_size=16)
    text = prompt([40])
    expected = answer(text)
    with omnisift.attach(MODEL, half()):
        assert torch.equal(answer(text, prefill_chunk_size=16), expected)


@torch.no_grad()
def test_text_positions_continue_from_the_kept_length_and_rotary_positions_from_the_full_one() -> None:
    inputs = prompt(*ROWS)
    seen: list[Tensor] = []
    with omnisift.attach(MODEL, half()) as attachment:
        handle = language_model(MODEL).register_forward_pre_hook(
            lambda m, a, k: seen.append(k["position_ids"]), with_kwargs=True
        )
        MODEL.generate(**inputs, max_new_tokens=4)
        handle.remove()
        assert attachment.last is not None
        kept = (attachment.last.keep & inputs["attention_mask"].bool()).sum(dim=1)
    assert [positions.shape[0] for positions in seen] == [4] * 4
    for step, positions in enumerate(seen[1:]):
        assert torch.equal(positions[0, :, 0], kept + step)
        assert torch.equal(positions[1:, :, 0], seen[0][1:, :, -1] + 1 + step)
