"""One forward on a cut prompt equals the language model on a hand-made cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.models import AUDIO, IMAGE, VIDEO, Audio, Image, Part, Video, language_model, prompt, row_of, thinker
from tests.models.hosts import (
    HALF,
    Doubled,
    Norms,
    Ragged,
    half,
    keep_all,
    language_model_arguments,
    logits_by_hand,
    omnisift_half,
)

import omnisift
from omnisift.compressors.base import Compressor
from omnisift.errors import UnsupportedCall
from omnisift.tokens import Modality

MODEL = thinker()
STREAMS: dict[str, list[Part]] = {
    "video with audio": [5, Video(4, audio=90), 6],
    "video without audio": [5, Video(4), 6],
    "odd last frame": [5, Video(5, audio=120), 6],
    "one frame": [5, Video(1), 6],
    "one frame with audio": [5, Video(1, audio=30), 6],
    "audio longer than the video": [5, Video(2, audio=140), 6],
    "one audio token": [5, Video(2, audio=1), 6],
    "two videos": [3, Video(4, audio=60), 4, Video(3, 3, 3, audio=70), 6],
    "image before": [3, Image(), 2, Video(4), 6],
    "plain audio before and image after": [3, Audio(30), 2, Video(4), 4, Image(3, 2), 6],
}


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and bool((first - second).abs().max() < 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("row", STREAMS.values(), ids=STREAMS.keys())
def test_keeping_everything_gives_bit_equal_logits(row: list[Part]) -> None:
    inputs = prompt(row)
    full = MODEL(**inputs).logits
    with omnisift.attach(MODEL, keep_all()) as attachment:
        assert torch.equal(MODEL(**inputs).logits, full)
    assert attachment.last is not None
    assert attachment.last.keep.all()


@torch.no_grad()
@pytest.mark.parametrize("compressor", [half(), Norms(HALF), omnisift_half()], ids=["random", "by value", "omnisift"])
@pytest.mark.parametrize("row", STREAMS.values(), ids=STREAMS.keys())
def test_logits_are_those_of_the_kept_tokens_at_their_old_positions(row: list[Part], compressor: Compressor) -> None:
    inputs = prompt(row)
    with omnisift.attach(MODEL, compressor) as attachment:
        logits = MODEL(**inputs).logits
    assert attachment.last is not None
    assert attachment.last.keep.sum() < attachment.last.keep.numel() or "one frame" in str(row)
    assert close(logits[0], logits_by_hand(MODEL, inputs, attachment.last.keep))


@torch.no_grad()
def test_images_and_plain_audio_are_kept_and_two_videos_are_cut_separately() -> None:
    inputs = prompt([3, Audio(30), Image(2, 3), 2, Video(4, 2, 3), 4, Video(2, 3, 3), 6])
    with omnisift.attach(MODEL, half()) as attachment:
        MODEL(**inputs)
    last, ids = attachment.last, inputs["input_ids"]
    assert last is not None
    assert last.keep[ids != VIDEO].all()
    assert (last.modality[ids == AUDIO] == Modality.TEXT).all()
    assert (last.modality[ids == IMAGE] == Modality.TEXT).all()
    first, second = last.keep[ids == VIDEO].split([24, 18])
    assert (int(first.sum()), int(second.sum())) == (12, 10)  # of frames of 9, 9 - int(4.5) stay
    assert last.n_audio == 0


@torch.no_grad()
@pytest.mark.parametrize("row", [[9], [4, Image(), 5], [3, Audio(25), 4]], ids=["text", "image", "audio"])
def test_a_prompt_without_video_passes_unchanged(row: list[Part]) -> None:
    inputs = prompt(row)
    full = MODEL(**inputs, labels=inputs["input_ids"])
    with omnisift.attach(MODEL, half()):
        got = MODEL(**inputs, labels=inputs["input_ids"])
    assert torch.equal(got.logits, full.logits)
    assert torch.equal(got.loss, full.loss)


ROWS: list[list[Part]] = [
    [5, Video(4, 2, 3, audio=90), 6],
    [9, Video(2, 2, 2, audio=30), 21],
    [40],
    [3, Video(3, 3, 3, audio=60), 2, Video(2, audio=20), 4],
]


@torch.no_grad()
@pytest.mark.parametrize("pad", ["left", "right"])
@pytest.mark.parametrize("compressor", [half(), omnisift_half(), Ragged()], ids=["random", "omnisift", "ragged"])
def test_a_batch_of_unequal_lengths_equals_its_rows_alone(pad: str, compressor: Compressor) -> None:
    inputs = prompt(*ROWS, pad=pad)
    with omnisift.attach(MODEL, compressor) as attachment:
        logits = MODEL(**inputs).logits
    last = attachment.last
    assert last is not None
    kept = (last.keep & inputs["attention_mask"].bool()).sum(dim=1).tolist()
    assert logits.shape[1] == max(kept)
    for index, row in enumerate(ROWS):
        single = row_of(inputs, row, index, ROWS)
        keep = last.keep[index : index + 1, inputs["attention_mask"][index].bool()]
        columns = slice(-kept[index], None) if pad == "left" else slice(0, kept[index])
        assert close(logits[index, columns], logits_by_hand(MODEL, single, keep))
        if not isinstance(compressor, Ragged):
            with omnisift.attach(MODEL, compressor):
                assert close(logits[index, columns], MODEL(**single).logits[0])


@torch.no_grad()
def test_rows_of_equal_length_may_become_unequal() -> None:
    rows: list[list[Part]] = [[5, Video(4, 2, 3), 8], [17, Video(2, 2, 3), 8]]
    inputs = prompt(*rows)
    assert inputs["attention_mask"].all()
    with omnisift.attach(MODEL, half()) as attachment:
        for arguments in (inputs, {**inputs, "use_cache": False}):
            logits = MODEL(**arguments).logits
            assert attachment.last is not None
            for index, row in enumerate(rows):
                keep = attachment.last.keep[index : index + 1]
                single = row_of(inputs, row, index, rows)
                assert close(logits[index, -int(keep.sum()) :], _apart(single, keep))


def _apart(single: dict[str, Any], keep: torch.Tensor) -> torch.Tensor:
    return logits_by_hand(thinker(), single, keep)


@torch.no_grad()
def test_without_mask_and_positions_chunks_come_from_the_hosts_rule_and_positions_stay_plain() -> None:
    row: list[Part] = [5, Video(4, audio=90), 6]
    masked, bare = prompt(row), prompt(row, mask=False)
    assert language_model_arguments(thinker(), bare)["position_ids"] is None
    with omnisift.attach(MODEL, half()) as attachment:
        MODEL(**masked)
        expected = attachment.last
        logits = MODEL(**bare).logits
        got = attachment.last
    assert expected is not None
    assert got is not None
    assert torch.equal(got.keep, expected.keep)
    plain = torch.arange(got.keep.shape[1]).expand(3, 1, -1)
    assert close(logits[0], logits_by_hand(MODEL, {**bare, "position_ids": plain}, got.keep))


@torch.no_grad()
@pytest.mark.parametrize("form", ["two dimensions", "one row", "three plain rows", "three rows", "four rows"])
def test_positions_of_any_form_are_used_and_give_the_same_chunks(form: str) -> None:
    inputs = prompt([5, Video(4, audio=90), 6])
    rotary = language_model_arguments(thinker(), inputs)["position_ids"]
    plain = torch.arange(rotary.shape[-1]).expand(1, 1, -1)
    position_ids = {
        "two dimensions": plain[0],
        "one row": plain,
        "three plain rows": plain.expand(3, -1, -1),
        "three rows": rotary,
        "four rows": torch.cat([plain, rotary]),
    }[form]
    arguments = {**inputs, "position_ids": position_ids}
    with omnisift.attach(MODEL, half()) as attachment:
        MODEL(**inputs)
        usual = attachment.last
        logits = MODEL(**arguments, use_cache=False).logits
    assert attachment.last is not None
    assert usual is not None
    assert torch.equal(attachment.last.keep, usual.keep)
    expected = rotary if form in ("three rows", "four rows") else plain.expand(3, -1, -1)
    assert close(logits[0], logits_by_hand(MODEL, {**inputs, "position_ids": expected}, attachment.last.keep))


@torch.no_grad()
@pytest.mark.parametrize("additive", [True, False])
def test_a_prepared_causal_mask_is_read_and_any_other_refused(additive: bool) -> None:
    inputs = prompt([5, Video(4), 6], [3, Video(2), 4])
    real = inputs["attention_mask"].bool()
    length = real.shape[1]
    positions = language_model_arguments(thinker(), inputs)["position_ids"]
    seen = torch.ones(length, length).tril().bool() & real[:, None, None, :]
    seen |= ~seen.any(-1, keepdim=True)  # what padding sees does not matter
    other = seen.clone()
    other[:, :, -3:, :-3] = False  # two packed sequences

    def run(mask: torch.Tensor) -> torch.Tensor:
        prepared = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min) if additive else mask
        return MODEL(**{**inputs, "attention_mask": prepared, "position_ids": positions}).logits

    with omnisift.attach(MODEL, half()):
        expected = MODEL(**inputs).logits
        assert close(run(seen)[:, -5:], expected[:, -5:])
        with pytest.raises(UnsupportedCall, match="causal"):
            run(other)
        with pytest.raises(UnsupportedCall, match="form"):
            run(seen[:, 0])


@torch.no_grad()
def test_the_text_row_is_renumbered_so_that_no_gap_reads_as_a_packed_sequence() -> None:
    inputs = prompt([5, Video(4, audio=90), 6], mask=False)
    rotary = language_model_arguments(thinker(), prompt([5, Video(4, audio=90), 6]))["position_ids"]
    four = torch.cat([torch.arange(rotary.shape[-1]).expand(1, 1, -1), rotary])
    seen: dict[str, Any] = {}
    with omnisift.attach(MODEL, half()) as attachment:
        handle = language_model(MODEL).register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
        logits = MODEL(**inputs, position_ids=four, use_cache=False).logits
        handle.remove()
    assert attachment.last is not None
    assert seen["attention_mask"] is None
    assert seen["position_ids"][0, 0].tolist() == list(range(int(attachment.last.keep.sum())))
    # With gaps the host would attend inside runs of neighbours only, as in packed sequences.
    assert close(logits[0], logits_by_hand(MODEL, {**inputs, "position_ids": rotary}, attachment.last.keep))


@torch.no_grad()
def test_a_merging_method_replaces_the_kept_embeddings() -> None:
    inputs = prompt([5, Video(4), 6])
    with omnisift.attach(MODEL, Doubled(HALF)) as attachment:
        logits = MODEL(**inputs).logits
    assert attachment.last is not None
    arguments = language_model_arguments(MODEL, inputs)
    index = attachment.last.keep[0].nonzero()[:, 0]
    hidden = language_model(MODEL)(
        inputs_embeds=2 * arguments["inputs_embeds"][:, index], position_ids=arguments["position_ids"][-3:, :, index]
    ).last_hidden_state
    assert close(logits, MODEL.lm_head(hidden))


@torch.no_grad()
def test_embeddings_of_the_caller_need_input_ids_too() -> None:
    inputs = prompt([5, Video(4), 6])
    arguments = language_model_arguments(MODEL, inputs)
    embedded = {**inputs, "pixel_values_videos": None, "inputs_embeds": arguments["inputs_embeds"]}
    with omnisift.attach(MODEL, half()):
        expected = MODEL(**inputs).logits
        assert torch.equal(MODEL(**embedded).logits, expected)
        with pytest.raises(UnsupportedCall, match="input_ids"):
            MODEL(**{**embedded, "input_ids": None, "position_ids": arguments["position_ids"]})


@torch.no_grad()
def test_hidden_states_and_attentions_have_the_kept_length() -> None:
    model = thinker(attention="eager")
    inputs = prompt([5, Video(4), 6])
    with omnisift.attach(model, half()) as attachment:
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert attachment.last is not None
    kept = int(attachment.last.keep.sum())
    assert output.logits.shape[1] == kept
    assert {state.shape[1] for state in output.hidden_states} == {kept}
    assert {tuple(weights.shape[-2:]) for weights in output.attentions} == {(kept, kept)}


@torch.no_grad()
def test_the_core_alone_can_be_called_too() -> None:
    inputs = prompt([5, Video(4), 6])
    with omnisift.attach(MODEL, half()) as attachment:
        core = attachment.adapter.parts.core
        length = core(**inputs)[0].shape[1]
        assert attachment.last is not None
        assert length == attachment.last.keep.sum()
