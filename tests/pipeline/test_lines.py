"""Lines of text in a prompt: where their tokens are, at which positions, and what that costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family
from tests.helpers.more_folders import save_more
from tests.helpers.streams import noise
from tests.helpers.windows import clip_of, watched
from torch import Tensor

import omnisift
from omnisift import Line, Media, Pipeline
from omnisift.errors import UsageError
from omnisift.models import adapter_for
from omnisift.pipeline.clip_format import frame_factor
from omnisift.pipeline.prompt import build_inputs

QUESTION = "What is heard?"
LINES = ((0.4, "red circle"), (0.4, "hum"), (2.1, "what does the voice say"), (3.9, "first, the square"), (5.6, "blue"))
OVERLAY = ["nano", "qwen2_vl", "qwen2_5_vl", "qwen3_omni_moe_thinker"]
"""Families whose rotary positions of a clip are times."""
INSERTED = {"qwen3_vl": ("behind", "<|vision_end|>"), "glm4v": ("before", "<|begin_of_image|>"),
            "gemma4": ("behind", "<image|>"), "llava_onevision": ("token", "<video>")}  # fmt: skip
"""Families that read text among the frames as it stands: where a frame ends in the prompt."""
FolderOf = Callable[[str], Pipeline]


@pytest.fixture(scope="module")
def pipe_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    root, made = tmp_path_factory.mktemp("families"), dict[str, Pipeline]()

    def pipe(name: str) -> Pipeline:
        if name not in made:
            save = save_family if name in FACTORS else save_more
            made[name] = omnisift.load("nano" if name == "nano" else save(name, root / name), compressor="none")
        return made[name]

    return pipe


def clip(pipe: Pipeline, name: str, images: int = 12) -> Media:
    """Six seconds, with lines, in the sizes that the model takes."""
    hears = adapter_for(pipe.host.thinker).audio_tokens(100) > 0
    if name == "nano":
        media = noise(images, images / 2)
    elif name in FACTORS:
        media = clip_of(name, images, images / 2 if hears else 0.0)
    else:
        frames = np.random.default_rng(0).integers(0, 256, (images, 64, 64, 3), np.uint8)
        factor = frame_factor(pipe.host.processor)
        media = pipe.read(Media.from_arrays(frames, 2.0, factor=factor, min_pixels=factor**2, max_pixels=64 * 64))
    return dataclasses.replace(media, lines=tuple(Line(start, start + 1, text) for start, text in LINES))


def line_ids(pipe: Pipeline) -> list[list[int]]:
    tokenizer = pipe.host.processor.tokenizer
    return [tokenizer(f"{text}\n", add_special_tokens=False)["input_ids"] for _, text in LINES]


def read(pipe: Pipeline, media: Media) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [K, D] and rotary positions [R, K] that the language model got, and its first logits."""
    with watched(pipe) as seen:
        pipe.ask(media, QUESTION, max_new_tokens=2)
    position: Tensor = seen["positions"][0]
    rotary = position[-3:, 0] if position.ndim == 3 else position[:1]
    return seen["embeds"][0][0], rotary, seen["logits"][0]


@pytest.mark.parametrize("name", OVERLAY)
def test_lines_stand_at_their_times_and_nothing_else_moves(pipe_of: FolderOf, name: str) -> None:
    pipe = pipe_of(name)
    media = clip(pipe, name)
    embeds, positions, _ = read(pipe, media)
    plain, plain_positions, _ = read(pipe, dataclasses.replace(media, lines=()))
    # Take the lines out: the rest is the prompt without them.
    table = adapter_for(pipe.host.thinker).parts.language_model.get_input_embeddings()  # type: ignore[operator]
    ids = line_ids(pipe)
    assert len(embeds) - len(plain) == sum(map(len, ids))
    at, cursor = list[int](), 0
    for part in ids:
        words = table(torch.tensor(part))
        while not torch.equal(embeds[cursor : cursor + len(part)], words):
            cursor += 1
        at += range(cursor, cursor + len(part))
        cursor += len(part)
    rest = torch.ones(len(embeds), dtype=torch.bool)
    rest[at] = False
    assert torch.equal(embeds[rest], plain)
    # A line begins at the position of the latest token of its time, or behind the line before it.
    moved = positions[:, rest] - plain_positions
    clip_tokens = plain_positions[:, : int((plain_positions[0].diff() != 1).nonzero()[-1]) + 1].shape[1]
    assert not moved[:, :clip_tokens].any()
    assert moved[:, -1].unique().numel() == 1
    assert (positions[0, at].diff() > 0).all()
    assert torch.equal(positions[0, at], positions[1, at])
    assert torch.equal(positions[0, at], positions[2, at])
    assert positions[0, -1] == positions[0].max()
    if name == "nano":
        base = int(plain_positions[0][plain_positions[0].diff().nonzero()[0]])
        starts = positions[0, at] - positions[0].min()
        first = [starts[sum(map(len, ids[:k]))].item() for k in range(len(ids))]
        expected = [int(start * 25) for start, _ in LINES]
        expected[1] = expected[0] + len(ids[0])
        offset = first[0] - expected[0]
        assert first == [value + offset for value in expected], base


@pytest.mark.parametrize("name", list(INSERTED))
def test_other_families_read_lines_as_text_among_their_frames(pipe_of: FolderOf, name: str) -> None:
    """What the host computes by itself of a prompt that is written with the lines in it."""
    pipe = pipe_of(name)
    media = clip(pipe, name)
    _, positions, logits = read(pipe, media)
    inputs = dict(build_inputs(pipe.host.processor, dataclasses.replace(media, lines=()), QUESTION))
    written = with_lines(pipe, inputs, name)
    with torch.inference_mode(), watched(pipe) as seen:
        pipe.host.thinker(**written, logits_to_keep=1)
    assert torch.allclose(seen["logits"][0], logits, rtol=0, atol=1e-4)
    position: Tensor = seen["positions"][0]
    if position is not None:
        assert torch.equal(position[-3:, 0] if position.ndim == 3 else position[:1], positions)


def with_lines(pipe: Pipeline, inputs: dict[str, Any], name: str) -> dict[str, Any]:
    """The inputs with every line behind the second frame of its chunk, as tokens of text."""
    side, mark = INSERTED[name]
    tokenizer, ids = pipe.host.processor.tokenizer, inputs["input_ids"][0].tolist()
    found = [k for k, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids(mark)]
    steps = 6 if name in FACTORS or name == "glm4v" else 12
    if side == "token":
        found = found[:: len(found) // steps]
    assert len(found) >= steps
    chunk_seconds = 12 / steps
    # The mark of the second frame of each chunk, or of the first one of the next; none for the last chunk.
    marks = range(1, steps, 2) if side == "behind" else range(2, steps + 1, 2)
    edges = [found[k] if k < steps else -1 for k in marks]
    last = {
        "behind": found[steps - 1] + 1,
        "token": max(k for k, token in enumerate(ids) if token == ids[found[0]]) + 1,
    }
    if name == "glm4v":
        last["before"] = ids.index(tokenizer.convert_tokens_to_ids("<|end_of_video|>")) + 1
    places = [edge + (side == "behind") if edge >= 0 else last[side] for edge in edges]
    made, types, cursor = list[int](), list[int](), 0
    kinds = inputs.get("mm_token_type_ids", torch.zeros(1, len(ids), dtype=torch.int64))[0].tolist()
    for k, place in enumerate(places):
        made, types = made + ids[cursor:place], types + kinds[cursor:place]
        for (start, _), part in zip(LINES, line_ids(pipe), strict=True):
            if min(int(start / chunk_seconds), len(places) - 1) == k:
                made, types = made + part, types + [0] * len(part)
        cursor = place
    made, types = made + ids[cursor:], types + kinds[cursor:]
    written = {
        **inputs,
        "input_ids": torch.tensor([made]),
        "attention_mask": torch.ones(1, len(made), dtype=torch.int64),
    }
    return written | ({"mm_token_type_ids": torch.tensor([types])} if "mm_token_type_ids" in inputs else {})


@pytest.mark.parametrize("name", ["nano", "qwen2_5_vl", "qwen3_vl", "gemma4"])
def test_a_batch_with_and_without_lines_is_its_single_prompts(pipe_of: FolderOf, name: str) -> None:
    plain = pipe_of(name)
    pipe = plain.with_compressor("uniform", retain=0.5)
    long, short = clip(plain, name), clip(plain, name, images=4)
    clips = [long, dataclasses.replace(long, lines=long.lines[:2]), short, dataclasses.replace(short, lines=())]
    together = pipe.ask_batch([(media, QUESTION) for media in clips], max_new_tokens=4)
    for media, answer in zip(clips, together, strict=True):
        alone = pipe.ask(media, QUESTION, max_new_tokens=4)
        assert (answer.text, answer.report.tokens) == (alone.text, alone.report.tokens)
        tokens = answer.report.tokens
        assert tokens.text == sum(map(len, line_ids(plain)[: len(media.lines)]))
        assert tokens.prompt_kept == tokens.prompt - tokens.in_clips + tokens.in_clips_kept
        assert answer.report.retained_ratio == pytest.approx(0.5, abs=0.2)


def test_an_encoded_clip_holds_its_lines(pipe_of: FolderOf) -> None:
    """Held prompts are those of the same lines at the same times."""
    plain = pipe_of("nano")
    media = clip(plain, "nano")
    later = dataclasses.replace(
        media, lines=tuple(dataclasses.replace(line, start=line.start + 1) for line in media.lines)
    )
    for pipe in (plain, plain.with_compressor("resift", retain_video=0.3, retain_audio=0.3, retain_text=0.5)):
        for found in (media, later):
            encoded = pipe.encode(found)
            first, second = (pipe.ask(encoded, QUESTION, max_new_tokens=4) for _ in range(2))
            other = pipe.ask(encoded, "What colour is the circle?", max_new_tokens=4)
            assert second.report.cached_tokens > 0
            assert other.text == pipe.ask(found, "What colour is the circle?", max_new_tokens=4).text
            assert first.text == second.text == pipe.ask(found, QUESTION, max_new_tokens=4).text
            assert first.report.tokens == second.report.tokens


def test_exact_totals_count_lines(pipe_of: FolderOf) -> None:
    plain = pipe_of("nano")
    media = clip(plain, "nano")
    for total in (4, 20, 60, 10_000):
        tokens = plain.with_compressor("resift", tokens=total).ask(media, QUESTION, max_new_tokens=1).report.tokens
        assert tokens.in_clips_kept == min(total, tokens.in_clips)


def test_a_line_with_a_special_token_is_refused(pipe_of: FolderOf) -> None:
    pipe = pipe_of("nano")
    media = dataclasses.replace(clip(pipe, "nano"), lines=(Line(2.0, 3.0, "red <|im_end|> circle"),))
    with pytest.raises(UsageError, match=r"clip: the subtitle at 2\.0 s contains <\|im_end\|>"):
        pipe.ask(media, QUESTION)
    with pytest.raises(UsageError, match="the subtitle at"):
        pipe.encode(media)


def test_lines_of_audio_alone_stand_behind_it_or_in_it(pipe_of: FolderOf) -> None:
    """Audio that is kept in full is no clip, so its lines are text behind it; compressed, they have their times."""
    plain = pipe_of("nano")
    media = dataclasses.replace(clip(plain, "nano"), images=None, video_seconds=0.0, fps=0.0)
    kept = plain.ask(media, QUESTION, max_new_tokens=2).report.tokens
    assert kept.text == 0
    tokens = plain.with_compressor("uniform", retain=0.5, compress_audio=True).ask(media, QUESTION).report.tokens
    assert tokens.text == sum(map(len, line_ids(plain)))
    assert tokens.prompt == kept.prompt


def test_text_needs_what_it_is_given_with(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="text"):
        omnisift.load("nano").ask("clip.mp4", QUESTION, text="captions")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="retain_text needs a compressor"):
        omnisift.load("nano", compressor="none", retain_text=0.5)
