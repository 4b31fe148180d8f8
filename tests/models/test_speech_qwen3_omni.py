"""The full Qwen3-Omni: its talker hears the compressed prompt, as computed by hand from the kept tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.contract import made
from tests.helpers.families import Clip, Sound
from tests.helpers.family_contract import ALL, QUARTER, compressor
from tests.helpers.models import AUDIO, FIRST_WORD, VIDEO, WIDTH, Image
from tests.helpers.qwen3_omni_speech import (
    ASSISTANT,
    LAYER,
    NEW_CODES,
    NEW_WORDS,
    OMNI,
    SYSTEM,
    USER,
    Listener,
    Spoken,
    Turn,
    conversation,
    speak,
    speaking_model,
    spoken_by_hand,
)
from tests.models.test_attach import same, state
from torch import Tensor
from transformers import DynamicCache, StaticCache

import omnisift
from omnisift.budget import Budget
from omnisift.compressors import Compressor
from omnisift.errors import UnsupportedCall
from omnisift.models import PromptLines
from omnisift.models.cached_prompt import cache_argument

MODEL = speaking_model()
HEARD, SEEN = Clip(4, 2, 4, 4), Clip(4, 2, 4)
ONE: list[Turn] = [(USER, [5, HEARD, 6])]
TWO_TURNS: list[Turn] = [(SYSTEM, [4]), (USER, [5, HEARD, 6]), (ASSISTANT, [7]), (USER, [Clip(3, 2, 2, 2), 3])]
CONVERSATIONS: dict[str, list[Turn]] = {
    "one clip": ONE,
    "without audio": [(USER, [5, SEEN, 6])],
    "text before": [(SYSTEM, [4]), (USER, [3]), (ASSISTANT, [7]), *ONE],
    "text after": [*ONE, (ASSISTANT, [7]), (USER, [3])],
    "two clips in a turn": [(SYSTEM, [4]), (USER, [5, HEARD, 2, Clip(2, 4, 2, 2), 6])],
    "two clips in two turns": TWO_TURNS,
    "image before": [(USER, [Image(2, 3), 3, HEARD, 6])],
    "image after": [(USER, [5, SEEN, 6, Image(2, 3), 3])],
    "image of the system": [(SYSTEM, [4, Image(2, 3)]), (USER, [5, SEEN])],
    "plain audio": [(USER, [Sound(2), 3, SEEN, 4, Sound(1)])],
}
BATCH: list[list[Turn]] = [ONE, TWO_TURNS, [(USER, [9, Clip(2, 2, 2, 1), 2])]]
each_batch = pytest.mark.parametrize("rows", [[ONE], [TWO_TURNS], BATCH], ids=["one", "two turns", "batch"])


def spoken(
    inputs: dict[str, Any], method: Compressor, **options: Any
) -> tuple[Tensor, Any, Listener, Tensor, Tensor | None]:
    """Text, waveform, what reached the talker, what was kept, and merged embeddings."""
    merged: list[Tensor | None] = []
    watch = method.register_forward_hook(lambda module, args, output: merged.append(output.embeds))
    with omnisift.attach(MODEL, method) as attachment, Listener(MODEL) as listener:
        text, waveform = speak(MODEL, inputs, **options)
    watch.remove()
    assert attachment.last is not None
    return text, waveform, listener, attachment.last.keep, merged[0]


def agree(expected: Spoken, text: Tensor, waveform: Tensor, listener: Listener) -> None:
    """One row says what was computed by hand, from the same prompt of the talker."""
    assert torch.equal(text, expected.sequences)
    prompt = listener.inputs[0]
    assert prompt["inputs_embeds"].shape == expected.embeds.shape
    assert (prompt["inputs_embeds"] - expected.embeds).abs().max() < 1e-5
    assert torch.equal(prompt["position_ids"], expected.position_ids)
    assert (listener.outputs[0] - expected.states).abs().max() < 2e-5
    assert torch.equal(listener.codes[0], expected.codes)
    assert (waveform - expected.waveform).abs().max() < 1e-5


# --- against a calculation by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_talker_speaks_from_the_kept_tokens_alone(name: str) -> None:
    inputs = conversation(CONVERSATIONS[name])
    uncut = speak(MODEL, inputs)[1]
    text, waveform, listener, keep, _ = spoken(inputs, compressor(OMNI, "scored"))
    assert keep.float().mean() < 0.8
    agree(spoken_by_hand(MODEL, inputs, keep[0]), text, waveform, listener)
    assert waveform.shape != uncut.shape or not torch.equal(waveform, uncut)


def test_the_talker_hears_kept_tokens_of_lines_as_text_behind_their_clip() -> None:
    inputs = conversation([(SYSTEM, [4]), *ONE])
    ids = inputs["input_ids"][0]
    begin = int(((ids == VIDEO) | (ids == AUDIO)).nonzero()[-1]) + 3  # behind two marks
    turn = slice(7, len(ids) - 2)  # of the user; the answer begins behind it
    with Listener(MODEL) as full:
        speak(MODEL, inputs)
    with omnisift.attach(MODEL, made("random", Budget(0.3, retain_text=0.5))) as attachment, Listener(MODEL) as cut:
        attachment.lines = [PromptLines(begin, (3, 1), (500_000, 3_000_000))]
        speak(MODEL, inputs)
    assert attachment.last is not None
    keep = attachment.last.keep[0]
    assert 0 < int(keep[begin : begin + 4].sum()) < 4
    heard, whole = cut.inputs[0], full.inputs[0]
    kept = torch.ones(whole["inputs_embeds"].shape[1], dtype=torch.bool)
    kept[: turn.stop - turn.start] = keep[turn]
    assert torch.equal(heard["position_ids"][1:], whole["position_ids"][1:, :, kept])
    # Words are heard as they are embedded, whatever the thinker made of them.
    lines = kept[: begin - turn.start].sum(), keep[begin : begin + 4].sum()
    words = whole["inputs_embeds"][0, begin - turn.start :][:4][keep[begin : begin + 4]]
    assert torch.equal(heard["inputs_embeds"][0, lines[0] : lines[0] + lines[1]], words)


@pytest.mark.parametrize("method", ["merging", "clip-wide"])
@pytest.mark.parametrize("turns", [ONE, TWO_TURNS], ids=["one", "two turns"])
def test_methods_that_merge_and_that_choose_over_the_clip(turns: list[Turn], method: str) -> None:
    inputs = conversation(turns)
    text, waveform, listener, keep, merged = spoken(inputs, compressor(OMNI, method))
    assert merged is not None
    agree(spoken_by_hand(MODEL, inputs, keep[0], merged=merged), text, waveform, listener)


def test_plain_audio_that_is_compressed_is_not_heard_either() -> None:
    inputs = conversation([(USER, [4, Sound(4), 6])])
    budget = Budget(retain=0.25, compress_audio=True)
    text, waveform, listener, keep, _ = spoken(inputs, made("random", budget, WIDTH))
    assert int((~keep).sum()) == 38
    agree(spoken_by_hand(MODEL, inputs, keep[0]), text, waveform, listener)


def test_positions_of_audio_in_video_where_the_caller_asks_the_talker_for_them() -> None:
    inputs = conversation(TWO_TURNS)
    text, waveform, listener, keep, _ = spoken(inputs, compressor(OMNI, "scored"), talker_use_audio_in_video=True)
    expected = spoken_by_hand(MODEL, inputs, keep[0], use_audio_in_video=True)
    agree(expected, text, waveform, listener)
    assert not torch.equal(expected.position_ids, spoken_by_hand(MODEL, inputs, keep[0]).position_ids)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"cache_implementation": "static"}], ids=["beams", "static"])
def test_options_of_the_talker(options: dict[str, Any]) -> None:
    inputs = conversation(ONE)
    given = {f"talker_{name}": value for name, value in options.items()}
    text, waveform, listener, keep, _ = spoken(inputs, compressor(OMNI, "scored"), **given)
    expected = spoken_by_hand(MODEL, inputs, keep[0], talker=options)
    assert torch.equal(text, expected.sequences)
    assert torch.equal(listener.codes[0], expected.codes)
    wave = waveform[0] if isinstance(waveform, list) else waveform[0, 0]
    assert (wave - expected.waveform[0, 0]).abs().max() < 1e-5


def test_several_voicings_of_each_row_hear_the_kept_tokens_of_the_row() -> None:
    options = {"talker_num_return_sequences": 2, "talker_do_sample": True}
    _, waveforms, several, _, _ = spoken(conversation(*BATCH), compressor(OMNI, "scored"), **options)
    once = spoken(conversation(*BATCH), compressor(OMNI, "scored"))[2]
    assert len(waveforms) == 2 * len(BATCH)
    for name, dim in (("inputs_embeds", 0), ("position_ids", 1)):
        assert torch.equal(several.inputs[0][name], once.inputs[0][name].repeat_interleave(2, dim=dim))


def test_a_static_cache_of_the_talker_is_used_again_for_a_prompt_that_is_not_cut() -> None:
    words = conversation([(USER, [9])])
    cache = StaticCache(config=MODEL.config.talker_config.text_config, max_cache_len=100)
    static = {f"talker_{name}": value for name, value in cache_argument(MODEL.talker, cache).items()}
    uncut = speak(MODEL, words, **static)[1]
    with omnisift.attach(MODEL, compressor(OMNI, "scored")):
        for inputs in (conversation(ONE), words):
            cache.reset()
            waveform = speak(MODEL, inputs, **static)[1]
    assert torch.equal(waveform, uncut)


@pytest.mark.parametrize("fault", ["a token more", "heard at full length", "other layer", "no gaps"])
def test_the_calculation_by_hand_sees_faults(fault: str) -> None:
    inputs = conversation(TWO_TURNS)
    text, waveform, listener, keep, _ = spoken(inputs, compressor(OMNI, "scored"))
    kept, options = keep[0].clone(), {}
    if fault == "a token more":
        kept[int((~kept).nonzero()[0])] = True
    elif fault == "heard at full length":
        options = {"heard": torch.ones_like(kept)}
    else:
        options = {"layer": LAYER + 1} if fault == "other layer" else {"gaps": False}
    expected = spoken_by_hand(MODEL, inputs, kept, **options)
    end = slice(-1, None)
    assert (listener.outputs[0][:, end] - expected.states[:, end]).abs().max() > 0.02
    with pytest.raises(AssertionError):
        agree(expected, text, waveform, listener)


# --- batches and steps -----------------------------------------------------------------------------------------------


def test_rows_of_a_batch_say_what_they_say_alone() -> None:
    inputs = conversation(*BATCH)
    text, waveforms, listener, keep, _ = spoken(inputs, compressor(OMNI, "scored"))
    for row, turns in enumerate(BATCH):
        real = inputs["attention_mask"][row].bool()
        alone = spoken_by_hand(MODEL, conversation(turns), keep[row, real])
        length = alone.embeds.shape[1]
        assert torch.equal(text[row, -alone.sequences.shape[1] :], alone.sequences[0])
        assert (listener.inputs[0]["inputs_embeds"][row, -length:] - alone.embeds[0]).abs().max() < 1e-5
        assert torch.equal(listener.inputs[0]["position_ids"][:, row, -length:], alone.position_ids[:, 0])
        assert (listener.outputs[0][row, -length:] - alone.states[0]).abs().max() < 2e-5
        assert torch.equal(listener.codes[0][row], alone.codes[0])
        assert (waveforms[row] - alone.waveform[0, 0]).abs().max() < 1e-5


@torch.no_grad()
@each_batch
def test_every_step_of_the_talker_equals_a_forward_without_a_cache(rows: list[list[Turn]]) -> None:
    _, _, listener, _, _ = spoken(conversation(*rows), compressor(OMNI, "scored"))
    assert len(listener.inputs) == NEW_CODES
    embeds = torch.cat([step["inputs_embeds"] for step in listener.inputs], dim=1)
    positions = torch.cat([step["position_ids"] for step in listener.inputs], dim=2)
    mask = listener.inputs[-1]["attention_mask"]
    full = MODEL.talker.model(inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False)
    steps = torch.cat([listener.outputs[0][:, -1:], *listener.outputs[1:]], dim=1)
    assert (full.last_hidden_state[:, -NEW_CODES:] - steps).abs().max() < 2e-5


@each_batch
def test_positions_count_on_from_the_full_prompt(rows: list[list[Turn]]) -> None:
    inputs = conversation(*rows)
    with Listener(MODEL) as uncut:
        speak(MODEL, inputs)
    _, _, cut, _, _ = spoken(inputs, compressor(OMNI, "scored"))
    for step, (ours, host) in enumerate(zip(cut.inputs[1:], uncut.inputs[1:], strict=True)):
        assert torch.equal(ours["position_ids"][1:], host["position_ids"][1:])
        # The row that tells packed sequences apart counts kept tokens.
        assert torch.equal(ours["position_ids"][0], cut.inputs[0]["position_ids"][0, :, -1:] + step + 1)


# --- nothing to cut --------------------------------------------------------------------------------------------------


@each_batch
def test_keeping_everything_changes_no_bit_not_even_through_the_cut(
    rows: list[list[Turn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = conversation(*rows)
    text, waveform = speak(MODEL, inputs)
    with omnisift.attach(MODEL, compressor(OMNI, "scored", ALL)) as attachment:
        for through_the_cut in (False, True):
            if through_the_cut:
                monkeypatch.setattr("omnisift.models.attachment._keeps_everything", lambda keep: False)
            other_text, other_waveform = speak(MODEL, inputs)
            assert (attachment.cut is not None) == through_the_cut
            assert torch.equal(text, other_text)
            assert all(torch.equal(*pair) for pair in zip(waveform, other_waveform, strict=True))


@pytest.mark.parametrize("said", [[9], [4, Sound(2), 6], [3, Image(2, 2), 4]], ids=["text", "plain audio", "image"])
def test_prompts_without_video_speak_as_before(said: list[Any]) -> None:
    inputs = conversation([(SYSTEM, [4]), (USER, said)])
    text, waveform = speak(MODEL, inputs)
    with omnisift.attach(MODEL, compressor(OMNI, "scored")):
        speak(MODEL, conversation(ONE))
        other_text, other_waveform = speak(MODEL, inputs)
    assert torch.equal(text, other_text)
    assert torch.equal(waveform, other_waveform)


@torch.no_grad()
def test_the_text_is_that_of_the_thinker_alone() -> None:
    inputs = conversation(TWO_TURNS)
    with omnisift.attach(MODEL, compressor(OMNI, "scored")):
        said = speak(MODEL, inputs)[0]
        written = speak(MODEL, inputs, return_audio=False)
    with omnisift.attach(MODEL.thinker, compressor(OMNI, "scored")):
        alone = MODEL.thinker.generate(**inputs, max_new_tokens=NEW_WORDS, eos_token_id=None)
    assert torch.equal(said, alone)
    assert torch.equal(getattr(written, "sequences", written), alone)


# --- limits ----------------------------------------------------------------------------------------------------------


def test_media_outside_turns_of_the_user_and_a_thinker_without_cache_are_refused() -> None:
    outside = conversation([(SYSTEM, [4, SEEN]), (USER, [5, SEEN, 2])])
    with omnisift.attach(MODEL, compressor(OMNI, "scored")):
        with pytest.raises(UnsupportedCall, match="turns of the user"):
            speak(MODEL, outside)
        with pytest.raises(UnsupportedCall, match="thinker_use_cache=False"):
            speak(MODEL, conversation(ONE), thinker_use_cache=False)
        # Both can be answered in text, and the next prompt speaks.
        speak(MODEL, outside, return_audio=False)
        speak(MODEL, conversation(ONE), thinker_use_cache=False, return_audio=False)
        said = speak(MODEL, conversation(ONE))
    assert torch.equal(said[1], spoken(conversation(ONE), compressor(OMNI, "scored"))[1])


def test_the_host_does_not_speak_of_video_with_audio_without_the_audio_configuration() -> None:
    """What docs/models.md states; if it fails, the host is repaired."""
    model = speaking_model()
    del model.talker.config.audio_config
    speak(model, conversation(CONVERSATIONS["without audio"]))
    with pytest.raises(AttributeError, match="audio_config"):
        speak(model, conversation(ONE))


@torch.no_grad()
def test_only_a_prompt_that_is_read_into_a_cache_has_hidden_states_of_the_full_length() -> None:
    inputs = conversation(ONE)
    with omnisift.attach(MODEL, compressor(OMNI, "scored")) as attachment:
        plain = MODEL.thinker(**inputs, output_hidden_states=True)
        assert attachment.last is not None
        width = int(attachment.last.keep.sum())
        cache = DynamicCache()
        argument = cache_argument(MODEL.thinker, cache)
        prompt = MODEL.thinker(**inputs, **argument, output_hidden_states=True)
        # A second turn that happens to be as long as the cut prompt.
        words = torch.arange(width)[None] % 20 + FIRST_WORD
        later = MODEL.thinker(input_ids=words, **argument, output_hidden_states=True)
    lengths = [[states.shape[1] for states in output.hidden_states] for output in (plain, prompt, later)]
    full = inputs["input_ids"].shape[1]
    assert lengths == [[width] * 5, [full, width, full, width, width], [width] * 5]
    # What `generate` does not read is as in a plain forward.
    for layer, (states, other) in enumerate(zip(prompt.hidden_states, plain.hidden_states, strict=True)):
        restored = states[:, attachment.last.keep[0]] if layer in (0, LAYER) else states
        assert (restored - other).abs().max() < 1e-5


def test_detaching_leaves_the_full_model_as_it_was() -> None:
    speak(MODEL, conversation(ONE))
    before = state(MODEL)
    with omnisift.attach(MODEL, compressor(OMNI, "scored")):
        assert not same(before, state(MODEL))
        speak(MODEL, conversation(ONE))
    speak(MODEL, conversation(ONE))
    assert same(before, state(MODEL))


def test_a_full_model_without_a_talker_is_compressed_too() -> None:
    model = speaking_model()
    model.disable_talker()
    inputs = conversation(ONE)
    with omnisift.attach(model, made("random", QUARTER, WIDTH)) as attachment:
        text = speak(model, inputs)
    assert attachment.last is not None
    assert getattr(text, "sequences", text).shape[1] == inputs["input_ids"].shape[1] + NEW_WORDS
