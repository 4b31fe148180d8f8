"""Compress a clip window by window: of each, decoded, prepared and encoded alone, only the kept tokens stay.

The result is that of the whole clip, for encoders that see no further than a window and methods that say how far back
they look (`Compressor.reach`):

- the vision encoders attend within time steps, of which a window has whole ones,
- the audio encoders attend within spans of two or eight seconds (`Adapter.audio_window`), which are encoded as whole,
- the floor of the spectrogram follows from its largest value in the clip, so that the audio is read once before,
- the budget counts tokens, whose number follows from the sizes of the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes, segment_sizes
from omnisift.compressors import Compressor
from omnisift.config import EncodingOptions
from omnisift.models import adapter_for
from omnisift.models.media_encoding import MediaEmbeds
from omnisift.pipeline.clip_outline import CHUNK_STEPS, ClipOutline
from omnisift.pipeline.clip_sources import ClipSource
from omnisift.pipeline.loading import Host
from omnisift.pipeline.window_encoder import Timer, WindowEncoder
from omnisift.tokens import Modality, TokenStream
from omnisift.utils.stages import window_name

WINDOW_STEPS = 32
"""Time steps of the longest window: 32 s at two images per second."""
WINDOW_PATCHES = {"cpu": 2**11}
"""Patches of the largest window, if that is more than a chunk, by device; `_MOST_PATCHES` on others."""
_MOST_PATCHES = 2**14
"""12 time steps at 320 tokens per frame."""


def window_images(processor: Any) -> int:
    """Images of the longest clip that is a single window."""
    return WINDOW_STEPS * int(processor.video_processor.temporal_patch_size)


def window_steps(patches: int, device: str) -> int:
    """Time steps of a window, which are whole chunks.

    Args:
        patches: patches of one time step.
        device: type of the device, such as ``cuda``.
    """
    most = WINDOW_PATCHES.get(device, _MOST_PATCHES)
    return CHUNK_STEPS * max(1, min(WINDOW_STEPS, most // patches) // CHUNK_STEPS)


@dataclass(frozen=True)
class KeptTokens:
    """What is left of a clip."""

    keep: Tensor
    """[S] bool on the CPU: the kept tokens of the prompt that was compressed."""
    modality: Tensor
    """[S] int8 on the CPU, as in `Compression`."""
    scores: Tensor | None
    """[S] float32 on the CPU; None if the method has no scores."""
    media: MediaEmbeds
    """Of the kept tokens of the clip, in their order."""
    encoded_tokens: int
    """Video tokens that the vision encoder computed."""

    def columns(self, part: slice) -> KeptTokens:
        """The same for a part of the prompt that has all tokens of the clip."""
        scores = None if self.scores is None else self.scores[part].clone()
        return KeptTokens(self.keep[part].clone(), self.modality[part].clone(), scores, self.media, self.encoded_tokens)


def compress_windows(
    host: Host,
    compressor: Compressor,
    inputs: Mapping[str, Any],
    clip: ClipOutline,
    source: ClipSource,
    encoding: EncodingOptions,
    timer: Timer,
) -> KeptTokens:
    """Compress the clip of one prompt window by window.

    Args:
        host: the model, without an attachment.
        compressor: a method without `Compressor.needs`. All embeddings are held for one that reads the whole clip.
        inputs: of a prompt with the clip, with sizes alone.
        clip: where its tokens are.
        source: the clip, unread.
        encoding: which video tokens are encoded; the others are dropped before.
        timer: counts reading, preparation, encoding and compression.
    """
    encoder = WindowEncoder(host, source, inputs, encoding, timer)
    shapes = clip.shapes
    budgeted = compressor.budget.counts(shapes)
    counts = torch.cat([budgeted.by_segment().view(-1, 3), budgeted.text[:, None]], dim=1)
    encoder.check_counts(counts[:, :3], shapes)
    keep, encoded = clip.modality == Modality.TEXT, torch.zeros(len(clip.modality), dtype=torch.bool)
    scores: Tensor | None = None
    kept, places, memory = list[MediaEmbeds](), list[Tensor](), dict[str, Any]()
    context = -(-(compressor.reach or 0) // CHUNK_STEPS)  # chunks before a window that the method looks back to
    past = clip.part(0, 0)
    table: Any = adapter_for(host.thinker).parts.language_model
    windows = _encoded_windows(
        encoder, clip, inputs, host.device, lambda ids: table.get_input_embeddings()(ids.long().to(host.device))
    )
    for begin, end, tokens, side in [_joined_windows(windows)] if compressor.reach is None else windows:
        # Choose among the tokens of the window. What comes before it is kept as a whole, and ignored.
        first = max(0, begin - context)
        stream = _numbered(joined_streams(past, tokens), first)
        present = torch.cat([segment_sizes(stream), ChunkShapes.of(stream).text[:, None]], dim=1)
        part_counts = torch.cat([present[: begin - first], counts[begin:end]])
        with timer("compress"):
            selection = compressor.next_part(stream, Counts(*part_counts.unbind(dim=1)), memory)
            chosen = selection.keep.cpu()[len(past) :]
        # Record the choice, and hold the embeddings of the kept tokens.
        keep[tokens.sample], encoded[tokens.sample] = chosen, True
        if selection.scores is not None:
            scores = torch.full(clip.modality.shape, torch.nan) if scores is None else scores
            scores[tokens.sample] = selection.scores.detach().float().cpu()[len(past) :]
        kept.append(kept_rows(MediaEmbeds(tokens.embeds, side), tokens.modality, chosen, selection.embeds))
        places.append(tokens.sample[chosen])
        # What the next window looks back to.
        past = stream_rows(joined_streams(past, tokens), torch.nonzero(stream.chunk + first >= end - context)[:, 0])
    # Hosts may interleave audio and video otherwise than by chunks. Side inputs are of video, whose order is the same.
    order = torch.argsort(torch.cat(places))
    embeds = torch.cat([media.embeds for media in kept])
    embeds, marked = embeds[order.to(embeds.device)], _joined_layers([media.marked for media in kept])
    if scores is not None:  # the lowest for video that is not encoded
        scores[(clip.modality == Modality.VIDEO) & ~encoded] = float("-inf")
    return KeptTokens(keep, clip.modality, scores, MediaEmbeds(embeds, marked), encoder.encoded_tokens)


_Window = tuple[int, int, TokenStream, dict[str, list[Tensor]]]
"""The first chunk and the one after the last, the tokens that are encoded, and their marked side inputs."""


def _encoded_windows(
    encoder: WindowEncoder,
    clip: ClipOutline,
    inputs: Mapping[str, Any],
    device: torch.device,
    words: Callable[[Tensor], Tensor],
) -> Iterator[_Window]:
    """Encode the windows of a clip, one after the other; ``words`` embeds tokens of text."""
    windows = list(_windows(clip.chunks, inputs, device))
    for number, (begin, end) in enumerate(windows, start=1):
        encoder.timer.on_stage(window_name(number, len(windows)))
        tokens = clip.part(begin, end)
        is_line = tokens.modality == Modality.SUBTITLE
        media, encoded = _encode(encoder, tokens.modality[~is_line])
        embeds = media.embeds
        if bool(is_line.any()):
            embeds = torch.cat([embeds, words(inputs["input_ids"][0, tokens.sample[is_line]]).to(embeds.dtype)])
        if not bool(encoded.all()):
            present = torch.cat([encoded, torch.ones(int(is_line.sum()), dtype=torch.bool)])
            tokens = stream_rows(tokens, torch.nonzero(present)[:, 0])
        yield begin, end, replace(tokens, embeds=embeds), media.marked


def _joined_windows(windows: Iterable[_Window]) -> _Window:
    """All windows as one, for methods that read the whole clip."""
    _, ends, streams, marked = zip(*windows, strict=True)
    tokens = joined_streams(*streams)
    return 0, ends[-1], stream_rows(tokens, tokens.sample.argsort()), _joined_layers(marked)


def _windows(chunks: int, inputs: Mapping[str, Any], device: torch.device) -> Iterator[tuple[int, int]]:
    """The first chunk of each window, and the one after its last."""
    size = window_steps(int(inputs["video_grid_thw"][0, 1:].prod()), device.type) // CHUNK_STEPS
    for begin in range(0, chunks, size):
        yield begin, min(begin + size, chunks)


def _encode(encoder: WindowEncoder, modality: Tensor) -> tuple[MediaEmbeds, Tensor]:
    """Encode the next tokens, of which ``modality`` [N] says what each is.

    Returns:
        Those that are encoded, and [N] bool: which are.
    """
    is_video = modality == Modality.VIDEO
    video, encoded = encoder.video(int(is_video.sum()))
    present = torch.ones_like(is_video)
    present[is_video] = encoded
    of_video = is_video[present].to(video.embeds.device)
    embeds = video.embeds.new_empty(len(of_video), video.embeds.shape[1])
    embeds[of_video] = video.embeds
    audio = int((~is_video).sum())
    if audio:
        embeds[~of_video] = encoder.audio(audio).embeds
    return MediaEmbeds(embeds, video.marked), present


_FIELDS = "modality", "position", "time", "chunk", "frame", "clip", "sample"


def joined_streams(*parts: TokenStream) -> TokenStream:
    """Parts of a clip, one behind the other."""
    filled = [part for part in parts if len(part)] or list(parts[:1])
    if len(filled) == 1:
        return filled[0]
    fields: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in filled], dim=-1) for name in _FIELDS}
    return replace(filled[0], embeds=torch.cat([part.embeds for part in filled]), **fields)


def stream_rows(stream: TokenStream, index: Tensor) -> TokenStream:
    """The tokens of a stream at ``index`` [N]."""
    fields: dict[str, Any] = {name: getattr(stream, name)[..., index] for name in _FIELDS}
    return replace(stream, embeds=stream.embeds[index.to(stream.embeds.device)], **fields)


def _numbered(part: TokenStream, first: int) -> TokenStream:
    """A part of a clip as a stream of its own, whose chunks are counted from ``first``."""
    return replace(part, chunk=part.chunk - first, sample=torch.zeros_like(part.sample))


def kept_rows(window: MediaEmbeds, modality: Tensor, keep: Tensor, merged: Tensor | None) -> MediaEmbeds:
    """The kept tokens of a window, as the method merged them where it did.

    Args:
        window: all of its tokens.
        modality: [N] of each.
        keep: [N] bool.
        merged: [K', D]: embeddings of the kept tokens, behind those of earlier windows.
    """
    device = window.embeds.device
    index = torch.nonzero(keep)[:, 0].to(device)
    embeds = window.embeds[index] if merged is None else merged[len(merged) - len(index) :].to(window.embeds.dtype)
    # Side inputs have a row for each video token.
    rank = torch.nonzero(keep[modality == Modality.VIDEO])[:, 0].to(device)
    return MediaEmbeds(embeds.clone(), {name: [layer[rank] for layer in rows] for name, rows in window.marked.items()})


def joined_media(parts: Sequence[MediaEmbeds]) -> MediaEmbeds:
    """Tokens of parts of a clip, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    return MediaEmbeds(torch.cat([part.embeds for part in parts]), _joined_layers([part.marked for part in parts]))


def _joined_layers(parts: Sequence[dict[str, list[Tensor]]]) -> dict[str, list[Tensor]]:
    """The marked side inputs of all windows."""
    filled = [part for part in parts if part]
    names = filled[0] if filled else {}
    return {name: [torch.cat(layer) for layer in zip(*(part[name] for part in filled), strict=True)] for name in names}
