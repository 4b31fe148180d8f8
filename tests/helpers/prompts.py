"""Prompts as flat tensors: random ones with unusual layouts, regular ones, batches of them, and their attention."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.chunks import build_stream, index_stream
from omnisift.tokens import Modality, TokenStream

TEXT, VIDEO, AUDIO = 0, 1, 2


@dataclass
class Prompt:
    """One flat batch before clips and chunks are found."""

    embeds: Tensor
    modality: Tensor
    temporal: Tensor
    sample: Tensor

    def stream(self, *, compress_audio: bool = False) -> TokenStream:
        position = self.temporal.expand(3, -1)
        return build_stream(self.embeds, self.modality, position, self.sample, 0.04, compress_audio=compress_audio)


def random_prompt(seed: int, width: int = 16, samples: int = 3, clips: int = 2, plain: bool = True) -> Prompt:
    """Up to ``samples`` rows of up to ``clips`` clips each, with text, padding and (if ``plain``) plain audio
    between."""
    rng = random.Random(seed)
    tokens: list[tuple[int, int, int]] = []
    for row in range(rng.randint(1, samples)):
        tokens += [(TEXT, 1, row)] * rng.randint(0, 3)  # left padding: the host gives it position 1
        now = 0
        for _ in range(rng.randint(0 if plain else 1, clips)):
            now = _text(tokens, row, now, rng.randint(1, 2))
            if plain and rng.random() < 0.2:
                tokens += [(AUDIO, now + i, row) for i in range(rng.randint(1, 6))]
                now = _text(tokens, row, now + 6, 1)
            now = _clip(tokens, row, now, rng)
        _text(tokens, row, now, rng.randint(0, 2))
    if not tokens:
        tokens = [(TEXT, 0, 0)]
    modality, temporal, sample = (torch.tensor(column) for column in zip(*tokens, strict=True))
    embeds = torch.randn(len(tokens), width, generator=torch.Generator().manual_seed(seed))
    return Prompt(embeds, modality.to(torch.int8), temporal, sample)


def _text(tokens: list[tuple[int, int, int]], row: int, now: int, count: int) -> int:
    tokens += [(TEXT, now + i, row) for i in range(count)]
    return now + count


def _clip(tokens: list[tuple[int, int, int]], row: int, now: int, rng: random.Random) -> int:
    """Frames of equal (or, sometimes, unequal) size at equal distances; audio that may start or end early or late, or
    be a single token; interleaved in windows as in the host, or all audio after all video."""
    step = rng.choice([1, 2, 3, 7, 25])
    size = rng.choice([1, 2, 4, 9, 16])
    unequal = rng.random() < 0.2
    start = now + rng.choice([0, 0, 0, 2])
    sizes = [rng.randint(1, 12) if unequal else size for _ in range(rng.randint(1, 7))]
    frames = [(VIDEO, start + i * step) for i, n in enumerate(sizes) for _ in range(n)]
    begin = now + rng.choice([0, 0, 0, 3, step])
    count = rng.choice([0, 0, 1, rng.randint(2, 12), step * len(sizes), step * len(sizes) + 4])
    audio = [(AUDIO, begin + i) for i in range(min(count, 60))]
    window = rng.choice([2 * step, 5, 10**6])
    placed = sorted(frames + audio, key=lambda token: ((token[1] - now) // window, token[0]))
    tokens += [(kind, time, row) for kind, time in placed]
    return max(time for _, time in placed) + 1


def steady_prompt(frames: int, tokens: int, audio: int, seed: int = 0, width: int = 16) -> Prompt:
    """One clip of ``frames`` one-second frames, ``audio`` audio tokens from its start, and text around it."""
    media = [(Modality.VIDEO, 25 * frame) for frame in range(frames) for _ in range(tokens)]
    media += [(Modality.AUDIO, time) for time in range(audio)]
    ordered = sorted(media, key=lambda token: (token[1] // 50, token[0], token[1]))
    ordered = [(Modality.TEXT, 0), *ordered, (Modality.TEXT, 25 * frames + audio)]
    modality, temporal = (torch.tensor([int(x) for x in column]) for column in zip(*ordered, strict=True))
    embeds = torch.randn(len(ordered), width, generator=torch.Generator().manual_seed(seed))
    return Prompt(embeds, modality.to(torch.int8), temporal, torch.zeros(len(ordered), dtype=torch.int64))


def audio_prompt(*tokens: int, seed: int = 0) -> Prompt:
    """Audio without video: items of so many tokens, 25 a second, between text tokens."""
    kinds = [Modality.TEXT]
    for count in tokens:
        kinds += [Modality.AUDIO] * count + [Modality.TEXT] * 2
    embeds = torch.randn(len(kinds), 16, generator=torch.Generator().manual_seed(seed))
    modality = torch.tensor([int(kind) for kind in kinds], dtype=torch.int8)
    return Prompt(embeds, modality, torch.arange(len(kinds)), torch.zeros(len(kinds), dtype=torch.int64))


def clip_prompt(frames: int, tokens: int, audio: int, seed: int = 0) -> Prompt:
    """One clip of one-second frames with ``audio`` tokens spread over it, between two text tokens."""
    rng = random.Random(seed)
    places = [(1, 25 * f) for f in range(frames) for _ in range(tokens)]
    places += [(2, t) for t in sorted(rng.choices(range(25 * frames), k=audio))] if audio != 50 else []
    places += [(2, t) for t in range(50)] if audio == 50 else []
    places = [(0, 0), *sorted(places, key=lambda p: (p[1] // 50, p[0])), (0, 25 * frames)]
    modality, temporal = (torch.tensor(column) for column in zip(*places, strict=True))
    embeds = torch.randn(len(places), 16, generator=torch.Generator().manual_seed(seed))
    return Prompt(embeds, modality.to(torch.int8), temporal, torch.zeros(len(places), dtype=torch.int64))


def regular_prompt(seconds: int) -> Prompt:
    """Two-second chunks of 2 x 12 video and 50 audio tokens, as the host orders them."""
    places = [
        place
        for start in range(0, seconds, 2)
        for place in [(1, 25 * (start + f)) for f in (0, 1) for _ in range(12)]
        + [(2, 25 * start + i) for i in range(50)]
    ]
    modality, temporal = (torch.tensor(column) for column in zip(*places, strict=True))
    embeds = torch.randn(len(places), 16, generator=torch.Generator().manual_seed(0))
    return Prompt(embeds, modality.to(torch.int8), temporal, torch.zeros(len(places), dtype=torch.int64))


def in_one_batch(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts of one row each, as the rows of one batch."""
    return Prompt(
        torch.cat([p.embeds for p in prompts]),
        torch.cat([p.modality for p in prompts]),
        torch.cat([p.temporal for p in prompts]),
        torch.cat([p.sample + row for row, p in enumerate(prompts)]),
    )


def empty() -> TokenStream:
    """A stream without tokens."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return Prompt(torch.zeros(0, 16), nothing.to(torch.int8), nothing, nothing).stream()


def with_attention(stream: TokenStream) -> TokenStream:
    """``stream`` with positive attention at its tokens, 0 elsewhere.

    It is computed from the embeddings' first channels, so that a clip has the same attention alone and in a batch.
    """
    audio, video = stream.modality == Modality.AUDIO, stream.modality == Modality.VIDEO
    power = stream.embeds[:, :3].exp()
    extras = {
        "audio_attention": power[:, 0] * audio,
        "audio_attention_window": power[:, 1] * audio,
        "video_attention": power[:, 2] * video,
    }
    return dataclasses.replace(stream, extras=extras)


def with_subtitles(stream: TokenStream, seed: int = 0, most: int = 9, words: int = 20) -> TokenStream:
    """``stream`` with up to ``most`` subtitle tokens behind the last token of each chunk, from so many words."""
    draw = torch.Generator().manual_seed(seed)
    vocabulary = torch.randn(words, stream.width, generator=draw).to(stream.embeds.dtype)
    places, chunk_of = [torch.arange(len(stream))], []
    for chunk in range(int(stream.chunk.max()) + 1 if len(stream) else 0):
        last = torch.nonzero(stream.chunk == chunk)[-1]
        count = int(torch.randint(0, most + 1, (1,), generator=draw))
        places.append(last.repeat(count))
        chunk_of += [chunk] * count
    # A line has the time at which its chunk begins, and the clip and the row of the token before it.
    before, is_line = torch.cat(places), torch.arange(len(stream) + len(chunk_of)) >= len(stream)
    begins = [int(stream.position[0, stream.chunk == chunk].min()) for chunk in chunk_of]
    position = stream.position[:, before].masked_fill(is_line, 0)
    position[0, is_line] = torch.tensor(begins, dtype=torch.int64)
    said = vocabulary[torch.randint(0, words, (len(chunk_of),), generator=draw)]
    order = torch.argsort(before, stable=True)
    extras = {name: values[before].masked_fill(is_line, 0)[order] for name, values in stream.extras.items()}
    return index_stream(
        torch.cat([stream.embeds, said])[order],
        stream.modality[before].masked_fill(is_line, int(Modality.SUBTITLE))[order],
        stream.clip[before][order],
        position[:, order],
        stream.sample[before][order],
        extras,
    )
