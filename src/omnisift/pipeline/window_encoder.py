"""Read, prepare and encode the tokens of a long clip, as many as are asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from omnisift.budget import kept_count
from omnisift.chunks import ChunkShapes
from omnisift.config import EncodingOptions
from omnisift.errors import BudgetError
from omnisift.models import adapter_for
from omnisift.models.adapter import Adapter
from omnisift.models.frame_memory import FrameMemory
from omnisift.models.media_encoding import MediaEmbeds, encode_audio, encode_media
from omnisift.models.partial_encoding import encode, window_side
from omnisift.models.side_inputs import Side
from omnisift.pipeline.clip_sources import ClipSource
from omnisift.pipeline.loading import Host
from omnisift.pipeline.patch_pruning import PatchPruner
from omnisift.pipeline.preparation import PIXELS, lay_out, normalize_patches, padded_length
from omnisift.pipeline.spectrogram import LogMel, limited
from omnisift.pipeline.window_cache import WindowCache
from omnisift.tokens import Modality

_SIDE = 4
"""Tokens along one side of a window that stands still or not, where the encoder has no windows."""


class Timer:
    """Adds up the seconds of stages; on an accelerator it waits for each to end."""

    def __init__(self, device: torch.device, on_stage: Callable[[str], None]) -> None:
        self._device, self.on_stage = device, on_stage
        self.spent = dict[str, float]()
        """Stage -> seconds."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the block."""
        self.on_stage(stage)
        begin = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.spent[stage] = self.spent.get(stage, 0.0) + time.perf_counter() - begin


class WindowEncoder:
    """Encodes the tokens of a clip in their order, as many as are asked for.

    Args:
        host: the model.
        source: the clip, unread.
        inputs: of a prompt with the clip, with sizes alone.
        encoding: which video tokens are encoded.
        timer: counts reading, preparation and encoding.
    """

    def __init__(
        self, host: Host, source: ClipSource, inputs: Mapping[str, Any], encoding: EncodingOptions, timer: Timer
    ) -> None:
        self._host, self._source, self.timer = host, source, timer
        self._adapter: Adapter = adapter_for(host.thinker)
        self._encoder: Any = self._adapter.parts.vision_encoder
        share, threshold = encoding.retain_encoded, encoding.still_threshold
        self._pruner = None if share is None else PatchPruner(share, window_side(self._encoder))
        self._cache = None if threshold is None else WindowCache(threshold, max(_SIDE, window_side(self._encoder)))
        self._memory = FrameMemory(self._encoder)
        self.encoded_tokens = 0
        """Video tokens that were computed so far."""
        self._patches = int(inputs["video_grid_thw"][0, 1:].prod()) if "video_grid_thw" in inputs else 0
        self._step = 0  # time steps so far
        mask = inputs.get("feature_attention_mask")
        self._mel_frames = 0 if mask is None else int(mask.sum())
        self._mel = None if mask is None else LogMel(host.processor.feature_extractor)
        with timer("process"):
            self._frames = source.spectrum  # frames of the spectrogram that are not encoded yet
            self._peak = source.peak
        self._is_whole = self._frames is not None  # whether these are all
        self._encoded_frames = 0
        self._waiting = list[Tensor]()  # embeddings of audio tokens that were not asked for

    def check_counts(self, counts: Tensor, shapes: ChunkShapes) -> None:
        """Raise `BudgetError` if fewer tokens of a frame are encoded than the [C, 3] ``counts`` keep."""
        if self._pruner is None:
            return
        size = int(shapes.frame0.max())
        most, encoded = int(counts[:, :2].max()), kept_count(size, self._pruner.share)
        if most > encoded:
            raise BudgetError(
                f"retain_encoded={self._pruner.share:g} encodes {encoded} of the {size} tokens of a frame, but {most} "
                f"are kept: raise it to {math.ceil(100 * most / size) / 100:g}, or keep fewer"
            )

    def video(self, tokens: int) -> tuple[MediaEmbeds, Tensor]:
        """Encode the next video tokens: those of whole time steps.

        Returns:
            Those that are encoded, and [N] bool: which are.
        """
        video = self._host.processor.video_processor
        self._step += tokens * video.merge_size**2 // self._patches
        with self.timer("read"):
            assert self._source.media.images is not None
            stop = min(self._step * video.temporal_patch_size, len(self._source.media.images))
            images = self._source.images(stop)
        with self.timer("process"):
            patches, grid = lay_out(images, video.patch_size, video.merge_size, video.temporal_patch_size)
            encoded = torch.ones(grid[0], grid[1] // video.merge_size, grid[2] // video.merge_size, dtype=torch.bool)
            if self._pruner is not None:
                encoded = self._pruner.places(patches, grid, video.merge_size)
            elif self._cache is not None:
                encoded = self._cache.changed(patches, grid, video.merge_size)
            inputs = self._moved({PIXELS: patches, "video_grid_thw": torch.tensor([grid])})
        self.encoded_tokens += int(encoded.sum())
        with self.timer("encode_video"):
            if self._pruner is not None:
                return self._named(encode(self._encoder, inputs[PIXELS], grid, encoded)), encoded.flatten()
            everything = torch.ones(tokens, dtype=torch.bool)
            if self._cache is not None:
                return self._named(self._memory.encode(inputs[PIXELS], grid, encoded)), everything
            return encode_media(self._adapter, Modality.VIDEO, tokens, inputs), everything

    def _named(self, outputs: tuple[Tensor, list[Tensor]]) -> MediaEmbeds:
        """Outputs of a vision encoder as the language model reads them."""
        embeds, levels = outputs
        names = [name for name, side in self._adapter.side_inputs.items() if side is Side.MARKED]
        return MediaEmbeds(embeds.to(self._host.dtype), dict.fromkeys(names, levels) if levels else {})

    def audio(self, tokens: int) -> MediaEmbeds:
        """The next audio tokens."""
        span = self._adapter.audio_window or 1
        while sum(map(len, self._waiting)) < tokens:
            missing = tokens - sum(map(len, self._waiting))
            spans = -(-missing // max(1, self._adapter.audio_tokens(span)))
            stop = min(self._encoded_frames + spans * span, self._mel_frames)
            self._waiting.append(self._encode_audio(stop))
        ready = torch.cat(self._waiting)
        self._waiting = [ready[tokens:].clone()]
        return MediaEmbeds(ready[:tokens])

    def _encode_audio(self, stop: int) -> Tensor:
        """[N, D]: embeddings of the audio up to a frame of the spectrogram."""
        if not self._is_whole:
            self._extend(stop)
        with self.timer("process"):
            assert self._frames is not None
            count = stop - self._encoded_frames
            mel, self._frames = limited(self._frames[:, :count], self._peak), self._frames[:, count:]
            is_first, self._encoded_frames = not self._encoded_frames, stop
        with self.timer("encode_audio"):
            return encode_audio(self._adapter, mel, self._moved, is_first=is_first).embeds

    def _extend(self, stop: int) -> None:
        """Compute the spectrogram up to the frame ``stop``, and what follows from the same samples."""
        extractor, waveform = self._host.processor.feature_extractor, self._source.media.waveform
        assert self._mel is not None
        assert waveform is not None
        with self.timer("read"):
            # A frame sees half a Fourier window more.
            last = min(len(waveform), stop * extractor.hop_length + extractor.n_fft)
            samples = self._source.samples(last)
        with self.timer("process"):
            parts = [*([] if self._frames is None else [self._frames]), self._mel.add(samples)]
            if last == len(waveform):
                parts.append(self._mel.finish(padded_length(self._host.processor, len(waveform))))
            self._frames = torch.cat(parts, dim=1)

    def _moved(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Inputs on the device; bytes become floats there."""
        host = self._host
        if host.device.type != "cuda":
            inputs = normalize_patches(host.processor, inputs, host.dtype)
        moved = {name: value.to(host.device) for name, value in inputs.items()}
        return {
            name: value.to(host.dtype) if value.is_floating_point() else value
            for name, value in normalize_patches(host.processor, moved, host.dtype).items()
        }
