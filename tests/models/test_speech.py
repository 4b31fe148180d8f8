"""The full model: its Thinker is compressed, and its talker speaks after the compressed prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.models import FIRST_WORD, Audio, Part, Video, full_model, prompt, row_of
from tests.models.hosts import half, keep_all
from tests.models.test_attach import same, state
from torch import Tensor

import omnisift

MODEL = full_model()
ROW: list[Part] = [5, Video(4, 2, 3, audio=90), 7]
BATCH: list[list[Part]] = [ROW, [9, Video(2, 2, 2, audio=30), 21]]


def host_inputs(*rows: list[Part]) -> dict[str, Any]:
    """The host accepts raw video for the Thinker only, with or without a compressor."""
    inputs = prompt(*rows)
    if "pixel_values_videos" in inputs:
        inputs["thinker_pixel_values_videos"] = inputs.pop("pixel_values_videos")
    return inputs


@torch.no_grad()
def speak(inputs: dict[str, Any], model: Any = MODEL, **options: Any) -> tuple[Tensor, Any]:
    torch.manual_seed(0)  # the waveform decoder starts from noise
    return model.generate(
        **inputs,
        speaker="nobody",
        thinker_max_new_tokens=4,
        talker_max_new_tokens=6,
        talker_do_sample=False,
        talker_eos_token_id=[61],
        **options,
    )


class TalkerRecorder:
    """Arguments (after our hook) and outputs of every call to the talker's language model."""

    def __init__(self) -> None:
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[Tensor] = []

    def __enter__(self) -> TalkerRecorder:
        part = MODEL.talker.model
        self._handles = [
            part.register_forward_pre_hook(lambda m, a, k: self.inputs.append(dict(k)), with_kwargs=True),
            part.register_forward_hook(lambda m, a, o: self.outputs.append(o.last_hidden_state)),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def test_keeping_everything_gives_the_same_text_and_waveform() -> None:
    text, waveform = speak(host_inputs(ROW))
    with omnisift.attach(MODEL, keep_all()):
        other_text, other_waveform = speak(host_inputs(ROW))
    assert torch.equal(text, other_text)
    assert torch.equal(waveform, other_waveform)
    assert waveform.numel() > 0


def test_a_prompt_without_video_speaks_as_before() -> None:
    inputs = host_inputs([4, Audio(30), 6])
    text, waveform = speak(inputs)
    with omnisift.attach(MODEL, half()):
        speak(host_inputs(ROW))
        other_text, other_waveform = speak(inputs)
    assert torch.equal(text, other_text)
    assert torch.equal(waveform, other_waveform)


def test_the_text_is_that_of_the_thinker_alone() -> None:
    inputs = prompt(ROW)
    with omnisift.attach(MODEL, half()):
        spoken, _ = speak(host_inputs(ROW))
        written = speak(host_inputs(ROW), generation_mode="text")
        alone = MODEL.thinker.generate(**inputs, max_new_tokens=4)
    assert torch.equal(spoken, alone)
    assert torch.equal(written, alone)


@torch.no_grad()
@pytest.mark.parametrize("rows", [[ROW], BATCH], ids=["one", "batch"])
def test_the_talker_reads_the_kept_tokens_of_the_thinker(rows: list[list[Part]]) -> None:
    inputs, full = host_inputs(*rows), prompt(*rows)
    with omnisift.attach(MODEL, half()) as attachment, TalkerRecorder() as talker:
        speak(inputs)
        first_call = talker.inputs[0]
        assert attachment.last is not None
        keep = attachment.last.keep
        for index, row in enumerate(rows):
            real = full["attention_mask"][index].bool()
            single = row_of(full, row, index, rows)
            states = MODEL.thinker(**single, output_hidden_states=True, use_cache=False).hidden_states
            kept_ids = full["input_ids"][index, keep[index] & real]
            words = states[0][0].masked_fill((kept_ids < FIRST_WORD)[:, None] & _media(kept_ids)[:, None], 0.0)
            expected = MODEL.talker.thinker_to_talker_proj(words + states[-1][0])
            columns = slice(-2 - len(kept_ids), -2)
            assert (first_call["inputs_embeds"][index, columns] - expected).abs().max() < 1e-5
            assert first_call["inputs_embeds"].shape[1] == int((keep & full["attention_mask"].bool()).sum(1).max()) + 2


def _media(ids: Tensor) -> Tensor:
    return (ids == 2) | (ids == 3) | (ids == 4)


@torch.no_grad()
@pytest.mark.parametrize("rows", [[ROW], BATCH], ids=["one", "batch"])
def test_every_step_of_the_talker_equals_a_forward_without_a_cache(rows: list[list[Part]]) -> None:
    with omnisift.attach(MODEL, half()), TalkerRecorder() as talker:
        speak(host_inputs(*rows))
    embeds = torch.cat([step["inputs_embeds"] for step in talker.inputs], dim=1)
    positions = torch.cat([step["position_ids"][-3:] for step in talker.inputs], dim=2)
    mask = talker.inputs[-1]["attention_mask"]
    assert embeds.shape[1] == talker.inputs[0]["inputs_embeds"].shape[1] + len(talker.inputs) - 1
    full = MODEL.talker.model(inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False)
    steps = torch.cat([talker.outputs[0][:, -1:], *talker.outputs[1:]], dim=1)
    assert (full.last_hidden_state[:, -len(talker.inputs) :] - steps).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("rows", [[ROW], BATCH], ids=["one", "batch"])
def test_the_talkers_positions_are_those_of_the_full_prompt(rows: list[list[Part]]) -> None:
    with TalkerRecorder() as uncut:
        speak(host_inputs(*rows))
    with omnisift.attach(MODEL, half()) as attachment, TalkerRecorder() as cut:
        speak(host_inputs(*rows))
    assert attachment.last is not None
    first = uncut.inputs[0]["position_ids"]
    length = uncut.inputs[0]["inputs_embeds"].shape[1]
    first = torch.arange(length).expand(3, len(rows), -1) if first is None else first
    real = prompt(*rows)["attention_mask"].bool()
    for index in range(len(rows)):
        kept = [*(attachment.last.keep & real)[index].nonzero()[:, 0].tolist(), length - 2, length - 1]
        assert torch.equal(cut.inputs[0]["position_ids"][:, index, -len(kept) :], first[:, index, kept])
    for step, (ours, host) in enumerate(zip(cut.inputs[1:], uncut.inputs[1:], strict=True)):
        expected = host["position_ids"]
        expected = torch.full((3, len(rows), 1), length + step) if expected is None else expected
        assert torch.equal(ours["position_ids"], expected)


@torch.no_grad()
def test_a_plain_forward_keeps_hidden_states_at_the_cut_length() -> None:
    with omnisift.attach(MODEL, half()) as attachment:
        output = MODEL.thinker(**prompt(ROW), output_hidden_states=True)
    assert attachment.last is not None
    assert {len(states[0]) for states in output.hidden_states} == {int(attachment.last.keep.sum())}


@torch.no_grad()
def test_detaching_leaves_the_full_model_as_it_was() -> None:
    speak(host_inputs(ROW))
    before = state(MODEL)
    with omnisift.attach(MODEL, half()):
        assert not same(before, state(MODEL))
        speak(host_inputs(ROW))
    speak(host_inputs(ROW))
    assert same(before, state(MODEL))


@torch.no_grad()
def test_a_full_model_without_a_talker_is_compressed_too() -> None:
    model = full_model()
    model.disable_talker()
    inputs = prompt(ROW)
    with omnisift.attach(model, half()) as attachment:
        text = model.thinker.generate(**inputs, max_new_tokens=3)
    assert attachment.last is not None
    assert text.shape[1] == inputs["input_ids"].shape[1] + 3
