"""Lines of text in a stream: the prompt is that of the clip with its lines, and late lines go with the next unit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.family_folders import FACTORS, save_family
from tests.helpers.streams import check_equal, noise, random_pipeline
from tests.helpers.windows import clip_of

import omnisift
from omnisift import Line, Media

WORDS = ("red circle", "what does the voice say", "hum", "first, the square", "blue")


def lined(media: Media, *, each: float = 1.7, words: tuple[str, ...] = WORDS) -> Media:
    """The clip with a line every so many seconds, some of which overlap or begin together."""
    starts = np.arange(0.3, media.seconds, each)
    lines = [Line(start, start + 3, words[k % len(words)]) for k, start in enumerate(starts.tolist())]
    return dataclasses.replace(media, lines=(*lines, Line(media.seconds - 0.5, media.seconds, words[0])))


@pytest.mark.parametrize("method", [None, "resift", "resift:causal=true", "stvp", "tome"])
@pytest.mark.parametrize(("images", "seconds"), [(12, 6.0), (13, 6.4), (46, 23.0), (12, 0.0)])
def test_a_stream_with_lines_is_the_offline_prompt(method: str | None, images: int, seconds: float) -> None:
    pipe = omnisift.load("nano", compressor=method or "none") if method is None else omnisift.load(
        "nano", compressor=method, retain_video=0.3, retain_audio=0.6, retain_text=0.5
    )  # fmt: skip
    if method == "resift":
        pipe = omnisift.load("nano", compressor="resift:causal=true,merge=false", retain_video=0.3, retain_audio=0.6)
    check_equal(pipe, lined(noise(images, seconds)))


def test_dense_lines_follow_one_another() -> None:
    """Lines with more tokens than positions of their time begin behind the line before."""
    pipe = random_pipeline(retain=None, retain_video=0.3, retain_audio=0.5)
    check_equal(pipe, lined(noise(13, 6.4, 112, 168), each=0.11, words=("what does the voice say " * 9,)))


@pytest.mark.parametrize("family", ["qwen3_omni_moe_thinker", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
@pytest.mark.parametrize("images", [39, 12, 4])
def test_other_families_stream_lines(family: str, images: int, tmp_path: Path) -> None:
    pipe, side = omnisift.load(save_family(family, tmp_path), retain_video=0.4, retain_audio=0.5), FACTORS[family]
    media = clip_of(family, images, images / 2 - 0.2 if "omni" in family else 0.0)
    shape = len(media.images), 12 * side, 11 * side, 3  # type: ignore[arg-type]
    frames = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    check_equal(pipe, lined(dataclasses.replace(media, images=frames)))
