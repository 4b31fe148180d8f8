"""Clips as pieces of a stream, and what a model computes of them at once and as a stream."""

from __future__ import annotations

import copy
import dataclasses
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from tests.helpers.windows import clip_of, watched
from torch import Tensor

from omnisift import KeepAll, Line, Media, Piece, Pipeline, StreamSession, load, nano_path
from omnisift.pipeline.clip_sources import DecodedSource
from omnisift.pipeline.loading import Host

RATE = 16_000
QUESTION = "What is heard?"


def pieces_of(media: Media, samples: int = 4000) -> Iterator[Piece | Line]:
    """The images and samples of a clip in the order of their times, and each line a second before its own."""
    pieces = [Piece(k / media.fps, image=image) for k, image in enumerate(media.images if media.has_video else ())]
    if media.waveform is not None:
        begins = range(0, len(media.waveform), samples)
        pieces += [Piece(begin / RATE, samples=media.waveform[begin : begin + samples]) for begin in begins]
    ordered = sorted(pieces, key=lambda piece: (piece.time, piece.image is None))
    yield from heapq.merge(
        media.lines, ordered, key=lambda part: part.start - 1 if isinstance(part, Line) else part.time
    )


def feed(stream: StreamSession, media: Media, samples: int = 4000) -> StreamSession:
    """Feed a clip, and return the stream."""
    for piece in pieces_of(media, samples):
        stream.feed(piece)
    return stream


def peak_of(pipe: Pipeline, media: Media) -> float | None:
    """The largest value of a clip's spectrogram, which a file can know before it is streamed."""
    return DecodedSource(media, pipe.host.processor).peak if media.has_audio else None


@dataclass(frozen=True)
class Seen:
    """What the language model was given of a prompt, and its logits."""

    positions: Tensor
    """[3, K]."""
    embeds: Tensor
    """[K, D]."""
    logits: Tensor
    """[N, V]: of each generated token."""
    text: str

    @classmethod
    def of(cls, seen: dict[str, list[Any]], text: str, answers: int) -> Seen:
        """From `watched`; the last ``answers - 1`` calls read generated tokens."""
        last = len(seen["positions"]) - answers + 1
        positions = torch.cat([part[-3:, 0] for part in seen["positions"][:last]], dim=1)
        return cls(positions, torch.cat([part[0] for part in seen["embeds"][:last]]), torch.stack(seen["logits"]), text)


def offline(pipe: Pipeline, media: Media, question: str, stream: StreamSession, tokens: int = 3) -> Seen:
    """The clip as a whole, with the method and the budget of a stream."""
    method = copy.deepcopy(stream.compressor)
    if method is not None and stream.budget is not None:
        method.budget = stream.budget
    with watched(pipe) as seen:
        answer = Pipeline(pipe.host, method).ask(media, question, max_new_tokens=tokens)
    return Seen.of(seen, answer.text, answer.report.tokens.generated)


def streamed(
    pipe: Pipeline, media: Media, question: str, tokens: int = 3, **options: Any
) -> tuple[Seen, StreamSession]:
    """The clip piece by piece."""
    stream = pipe.stream(**options)
    with watched(pipe) as seen:
        feed(stream, media)
        answer = stream.ask(question, max_new_tokens=tokens)
    return Seen.of(seen, answer.text, answer.generated_tokens), stream


def random_pipeline(dtype: torch.dtype = torch.float32, retain: float | None = 0.25, **options: Any) -> Pipeline:
    """nano's classes and words, with random weights in the proportions of 7B: 2 s of sound, windowed vision layers."""
    host = load("nano").host
    config = transformers.AutoConfig.from_pretrained(nano_path())
    config = getattr(config, "thinker_config", config)
    config.audio_config.n_window = 100
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 4, [1, 3]
    for part in (config, config.audio_config, config.vision_config, config.text_config):
        part.initializer_range = 0.2
    torch.manual_seed(0)
    model = type(host.thinker)._from_config(config, attn_implementation="sdpa").eval().to(dtype)
    model.generation_config = copy.deepcopy(host.thinker.generation_config)
    return Pipeline(Host("random", "random", model, host.processor), load("nano", retain=retain, **options).compressor)


def noise(images: int, seconds: float, height: int = 112, width: int = 112) -> Media:
    """Images of noise in blocks, and sound that grows louder, so that its largest value comes late."""
    media = clip_of("nano", images, seconds)
    blocks = np.random.default_rng(images).integers(0, 256, (images, height // 14, width // 14, 3), np.uint8)
    wave = None if media.waveform is None else media.waveform * np.linspace(0.1, 1, len(media.waveform), dtype="f")
    return dataclasses.replace(media, images=blocks.repeat(14, axis=1).repeat(14, axis=2), waveform=wave)


def check_equal(pipe: Pipeline, media: Media, tolerance: float = 1e-4, **options: Any) -> None:
    """The stream keeps the same tokens at the same positions, and gives the same logits, as the clip at once."""
    seen, stream = streamed(
        pipe, media, QUESTION, keep=KeepAll(), peak=peak_of(pipe, media), audio=media.has_audio, **options
    )
    whole = offline(pipe, media, QUESTION, stream)
    assert torch.equal(seen.positions, whole.positions)
    assert torch.allclose(seen.embeds, whole.embeds, rtol=0, atol=tolerance)
    assert torch.allclose(seen.logits, whole.logits, rtol=0, atol=tolerance)
    assert seen.text == whole.text
