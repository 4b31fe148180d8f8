"""Every method inside the real host: its counts, its needs, and rows of a batch that equal single prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.contract import METHODS, check_counts, check_floor_is_named, made, out_of_reach
from tests.helpers.models import AUDIO, VIDEO, WIDTH, Part, Video, prompt, row_of
from tests.models.hosts import HALF
from tests.models.test_encoder_attention import host
from tests.models.test_forward import close
from torch import Tensor

import omnisift
from omnisift.compressors import COMPRESSORS
from omnisift.errors import UnreachableBudget
from omnisift.tokens import TokenStream

MODEL = host()  # its encoders do not attend to everything alike
PROMPTS: dict[str, list[Part]] = {
    "video with audio": [5, Video(4, 2, 3, audio=90), 6],
    "video without audio": [5, Video(4, 2, 3), 6],
    "one frame": [5, Video(1, 3, 4, audio=20), 6],
    "odd frames": [3, Video(5, 2, 3, audio=120), 4, Video(3, 3, 3, audio=70), 6],
}
ROWS: list[list[Part]] = [
    [5, Video(4, 2, 3, audio=90), 6],
    [9, Video(5, 2, 2, audio=120), 21],
    [40],
    [3, Video(4, 3, 3, audio=70), 2, Video(8, audio=180), 4],
]
FLOORS = {"dycoke": {"one frame"}}
"""Prompts of which a method can't keep as little as half."""


@torch.no_grad()
def read(name: str, inputs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Logits and keep [B, S], both checked; None where the method says that half is below its floor, and it is."""
    compressor, seen = made(name, HALF, WIDTH), []
    compressor.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with omnisift.attach(MODEL, compressor) as attachment:
        try:
            logits = MODEL(**inputs).logits
        except UnreachableBudget as error:
            assert out_of_reach(name, seen[0], HALF)
            check_floor_is_named(error)
            return None
        last = attachment.last
    (stream,) = seen
    assert not out_of_reach(name, stream, HALF)
    check_counts(name, stream, last.keep.flatten(), HALF)
    check_needs(compressor.needs, stream, inputs)
    kept = (last.keep & inputs["attention_mask"].bool()).sum(dim=1)
    assert logits.shape[1] == int(kept.max())
    assert logits.isfinite().all()
    return logits, last.keep


def check_needs(needs: frozenset[str], stream: TokenStream, inputs: dict[str, Any]) -> None:
    """Exactly the declared extras, with values that differ between tokens."""
    assert stream.extras.keys() == needs
    ids = inputs["input_ids"].flatten()
    for extra, values in stream.extras.items():
        there = values[ids == (VIDEO if extra == "video_attention" else AUDIO)]
        assert (there > 0).all()
        assert len(there) == 0 or there.std() > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_every_prompt_keeps_its_counts_or_names_the_floor(name: str):
    below = {prompt_name for prompt_name, row in PROMPTS.items() if read(name, prompt(row)) is None}
    assert below == FLOORS.get(name.partition(":")[0], set())


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_a_batch_equal_single_prompts(name: str):
    alone = []
    for index, row in enumerate(ROWS):
        single = row_of(prompt(*ROWS), row, index, ROWS)
        alone.append(read(name, single) if any(isinstance(part, Video) for part in row) else plain(single))
    for pad in ("left", "right"):
        inputs = prompt(*ROWS, pad=pad)
        logits, keep = read(name, inputs)
        real = inputs["attention_mask"].bool()
        for index, (expected, kept) in enumerate(alone):
            assert torch.equal(keep[index, real[index]], kept[0])
            columns = slice(-int(kept.sum()), None) if pad == "left" else slice(0, int(kept.sum()))
            assert close(logits[index, columns], expected[0])


@torch.no_grad()
def plain(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return MODEL(**inputs).logits, torch.ones_like(inputs["input_ids"], dtype=torch.bool)


def test_all_needs_are_met_by_the_adapter():
    needed = {extra for method in COMPRESSORS.values() for extra in method.needs}
    assert needed == {"audio_attention", "audio_attention_window", "video_attention"}
