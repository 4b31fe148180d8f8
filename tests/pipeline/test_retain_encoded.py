"""A part of the video tokens is never encoded, and as many are kept as with all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.family_folders import FACTORS
from tests.helpers.windows import QUESTION, clip_of, watched, windows_of

from omnisift import Pipeline
from omnisift.errors import BudgetError, UsageError


@pytest.mark.parametrize(
    ("name", "method"),
    [("nano", "omnisift"), *product(["nano", *FACTORS], ["resift", "stvp", "v_cast", "resift:causal=true"])],
)
def test_a_part_of_the_places_is_encoded_and_all_of_them_are_the_whole(
    pipe_of: Callable[[str], Pipeline], name: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many tokens are kept as of the whole frame; with everything encoded, they are the same."""
    base, clip = pipe_of(name), clip_of(name, 14, 6.3)
    found = {}
    for share in (None, 1.0, 0.5):
        pipe = base.with_compressor(method, retain=0.25, retain_encoded=share)
        with windows_of(4, monkeypatch), watched(pipe) as seen:
            found[share] = pipe.ask(clip, QUESTION, max_new_tokens=3).report, seen
    whole, everything, half = (found[share][0] for share in (None, 1.0, 0.5))
    assert whole.tokens == everything.tokens == half.tokens
    torch.testing.assert_close(found[1.0][1]["embeds"][0], found[None][1]["embeds"][0], rtol=0, atol=1e-5)
    assert (whole.encoded_tokens, everything.encoded_tokens) == (None, None)
    assert half.encoded_tokens == whole.tokens.video // 2
    assert sum(found[0.5][1]["patches"]) == sum(found[1.0][1]["patches"]) // 2
    assert not [notice for notice in half.notices if "NaN" in notice]


def test_windows_that_stand_still_are_not_encoded_again(pipe_of: Callable[[str], Pipeline]) -> None:
    moving = clip_of("nano", 12, 6.0, rows=4)
    assert moving.images is not None
    still = replace(moving, images=moving.images[:1].repeat(12, axis=0))
    pipe = pipe_of("nano").with_compressor("resift", retain=0.25, still_threshold=1.0)
    whole = pipe_of("nano").with_compressor("resift", retain=0.25)
    for clip, encoded in ((moving, None), (still, 12)):
        with watched(pipe) as seen:
            report = pipe.ask(clip, QUESTION, max_new_tokens=1).report
        with watched(whole) as expected:
            assert whole.ask(clip, QUESTION, max_new_tokens=1).report.tokens == report.tokens
        assert report.encoded_tokens == encoded  # the first frame of 4 x 3 tokens
        torch.testing.assert_close(seen["embeds"][0], expected["embeds"][0], rtol=0, atol=1e-4)


def test_held_clips_are_those_of_one_setting(pipe_of: Callable[[str], Pipeline]) -> None:
    base, clip = pipe_of("nano"), clip_of("nano", 14, 6.3)
    half, most = (base.with_compressor("stvp", retain=0.25, retain_encoded=share) for share in (0.5, 0.6))
    encoded = half.encode(clip)
    first = half.ask(encoded, QUESTION).report
    assert half.ask(encoded, "Which sound?").report.cached_tokens > 0
    other = most.ask(encoded, QUESTION).report
    assert other.cached_tokens == 0
    assert (other.encoded_tokens or 0) > (first.encoded_tokens or 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retain_encoded": 0}, BudgetError, "retain_encoded is the fraction .* in \\(0, 1\\]"),
        ({"retain_encoded": 1.5}, BudgetError, "in \\(0, 1\\]"),
        ({"still_threshold": -1}, UsageError, "still_threshold .* 0 to 255"),
        ({"retain_encoded": 0.5, "still_threshold": 3}, UsageError, "give one of them"),
        ({"retain_encoded": 0.5, "compressor": None, "retain": None}, UsageError, "need a compressor"),
        ({"retain_encoded": 0.5, "compressor": "attended"}, UsageError, "attention of the encoders"),
        ({"retain_encoded": 0.2, "retain": 0.5}, BudgetError, "2 of the 6 tokens of a frame, but 3 are kept"),
    ],
)
def test_what_does_not_fit_is_refused(
    pipe_of: Callable[[str], Pipeline], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipe_of("nano").with_compressor(**{"compressor": "stvp", "retain": 0.2} | options).ask(
            clip_of("nano", 4, 0.0), QUESTION
        )


def test_a_method_that_needs_all_tokens_is_refused_before_a_clip_is_read(pipe_of: Callable[[str], Pipeline]) -> None:
    """So a run over many clips fails once, and a clip that was encoded for another method is not encoded in full."""
    with pytest.raises(UsageError, match="attention of the encoders; leave them out"):
        pipe_of("nano").with_compressor("attended", retain_encoded=0.5)


def test_a_clip_that_was_encoded_in_full_is_not_taken_for_a_part(
    pipe_of: Callable[[str], Pipeline], clips: list[Path]
) -> None:
    pipe = pipe_of("nano").with_compressor("stvp", retain_encoded=0.5)
    with pytest.raises(UsageError, match="encode it with this one"):
        pipe.ask(pipe_of("nano").encode(clips[0]), QUESTION)
