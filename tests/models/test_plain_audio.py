"""Audio outside a video, compressed when asked: on hosts that hear, against the host's own rules."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.families import FAMILIES, Clip, Family, Row, Sound
from tests.helpers.family_contract import apart, compressor, expected_logits, host, note, read
from tests.helpers.models import AUDIO, Image

import omnisift
from omnisift.budget import Budget
from omnisift.errors import UnsupportedCall
from omnisift.models.training_checks import assert_compressed

HEARING = [family for family in FAMILIES.values() if family.audio_rate]
QUARTER = Budget(retain=0.25, compress_audio=True)
ROWS: list[Row] = [
    [5, Sound(3), 6],
    [4, Sound(2), 3, Sound(5), 9],
    [17],
    [5, Clip(4, 2, 4, 4), 6],
    [3, Image(), 4, Sound(2), 4, Clip(3, 2, 2, 3), 2],
]
STEPS = 4


def shortened(seconds: int, family: Family) -> int:
    """Tokens that a quarter keeps of one item, by the rule of the released code, chunk by chunk."""
    sizes = [family.audio_rate * min(2, seconds - start) for start in range(0, seconds, 2)]
    return sum(size - int(size * 0.75) for size in sizes)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["random", "resift", "merging"])
@pytest.mark.parametrize("family", HEARING, ids=str)
def test_kept_audio_stays_at_its_positions_alone_and_in_a_batch(family: Family, kind: str) -> None:
    model, method = host(family), compressor(family, kind, QUARTER)
    inputs = family.inputs(*ROWS)
    logits, attachment, cut, merged = read(model, inputs, method)
    assert attachment.last is not None
    keep = attachment.last.keep
    note(family, "plain audio", apart(logits, expected_logits(family, model, inputs, keep, merged), cut))
    # Of each item its own share, in the report too.
    audio = (inputs["input_ids"] == AUDIO).sum(dim=1).tolist()
    assert attachment.last.n_audio_rows == audio
    assert attachment.last.kept_audio_rows[:2] == [
        shortened(3, family), shortened(2, family) + shortened(5, family)
    ]  # fmt: skip
    for index, row in enumerate(ROWS):
        inside = inputs["attention_mask"][index].bool()
        if index == 2:
            continue  # text alone is not compressed
        single, alone, own_cut, _ = read(model, family.inputs(row), method)
        assert alone.last is not None
        assert torch.equal(alone.last.keep[0], keep[index, inside])
        note(family, "plain audio alone", float((single[0] - logits[index, -own_cut.width :]).abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("rows", [[[5, Sound(4), 6]], ROWS], ids=["audio alone", "batch"])
@pytest.mark.parametrize("family", HEARING, ids=str)
def test_decoding_continues_from_the_full_length(family: Family, rows: list[Row]) -> None:
    model, inputs = host(family), family.inputs(*rows)
    with omnisift.attach(model, "uniform", retain=0.25, compress_audio=True) as attachment:
        got = model.generate(**inputs, max_new_tokens=STEPS, return_dict_in_generate=True, output_logits=True)
        assert attachment.last is not None
        keep = attachment.last.keep
    new = got.sequences[:, inputs["input_ids"].shape[1] :]
    for step, logits in enumerate(got.logits):
        more = {
            name: torch.cat([value, tail], dim=1)
            for name, value, tail in (
                ("input_ids", inputs["input_ids"], new[:, :step]),
                ("attention_mask", inputs["attention_mask"], torch.ones_like(new[:, :step])),
            )
        }
        seen = torch.cat([keep, torch.ones(len(keep), step, dtype=torch.bool)], dim=1)
        full = expected_logits(family, model, {**inputs, **more}, seen)[:, -1]
        note(family, "decoding after plain audio", float((logits - full).abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("family", HEARING, ids=str)
def test_a_number_of_tokens_is_met_in_each_item_and_retain_1_changes_nothing(family: Family) -> None:
    model, inputs = host(family), family.inputs(*ROWS)
    full = model(**inputs, use_cache=False).logits
    with omnisift.attach(model, "resift", tokens=7, compress_audio=True) as attachment:
        model(**inputs, use_cache=False)
        assert attachment.last is not None
        assert attachment.last.kept_audio_rows[:2] == [7, 14]
    with omnisift.attach(model, "resift", retain=1, compress_audio=True):
        assert torch.equal(model(**inputs, use_cache=False).logits, full)
    # Without it, audio outside a video counts as text.
    with omnisift.attach(model, "resift", retain=0.25) as attachment:
        audio_only = family.inputs(ROWS[0])
        assert torch.equal(model(**audio_only).logits, model(**audio_only).logits)
        assert attachment.last is None


@pytest.mark.parametrize("family", HEARING, ids=str)
def test_training_cuts_labels_with_the_audio(family: Family) -> None:
    model, inputs = host(family), family.inputs([5, Sound(3), 6])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == AUDIO, -100)
    with omnisift.attach(model, "random", retain=0.25, compress_audio=True) as attachment:
        output = model(**inputs, labels=labels)
        assert attachment.last is not None
        kept = labels[attachment.last.keep]
        assert_compressed(attachment, inputs["input_ids"])
    own = torch.nn.functional.cross_entropy(output.logits[0, :-1].float(), kept[1:])
    assert abs(float(output.loss.detach() - own.detach())) < 1e-5
    assert output.logits.shape[1] == len(kept) < len(labels[0])


@torch.no_grad()
def test_new_audio_after_a_cut_prompt_is_refused() -> None:
    family = HEARING[0]
    model, inputs = host(family), family.inputs([5, Sound(3), 6])
    with omnisift.attach(model, "random", retain=0.25, compress_audio=True):
        cache = model(**inputs, use_cache=True).past_key_values
        ids = torch.tensor([[30, AUDIO, AUDIO, 31]])
        with pytest.raises(UnsupportedCall, match="new audio tokens after 33 cached ones"):
            model(input_ids=ids, past_key_values=cache, use_cache=True)
