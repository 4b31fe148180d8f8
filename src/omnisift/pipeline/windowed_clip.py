"""A long clip, of which only the tokens that a method keeps are in memory; see `omnisift.pipeline.clip_windows`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omnisift.compressors import Compressor
from omnisift.compressors.resift import ReSiftCompressor
from omnisift.config import EncodingOptions
from omnisift.errors import NotReadable, UsageError
from omnisift.media import Media, MediaFile, WindowsUnavailable, read_or_open
from omnisift.models import Compression, adapter_for
from omnisift.models.attachment import check_unattached
from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.layout import PromptLines
from omnisift.models.line_placement import LineRow
from omnisift.models.partial_encoding import why_not_partial
from omnisift.models.short_prompt import ShortPrompt
from omnisift.models.window_attention import batched_windows
from omnisift.pipeline.clip_format import hears
from omnisift.pipeline.clip_outline import ClipOutline
from omnisift.pipeline.clip_sources import ClipSource, DecodedSource, FileSource
from omnisift.pipeline.clip_windows import (
    KeptTokens,
    compress_windows,
    window_images,
)
from omnisift.pipeline.encoded_clip import EncodedClip, PromptRow
from omnisift.pipeline.held_prompt import HOLD_BYTES, Key, settings_key
from omnisift.pipeline.loading import Host
from omnisift.pipeline.preparation import unknown_spectrogram, unknown_video
from omnisift.pipeline.prompt import clip_size, heard_by, prompt_text, read_arguments, read_for, run_processor
from omnisift.pipeline.spectrogram import LogMel
from omnisift.pipeline.stopwatch import peak_memory, reset_peak_memory
from omnisift.pipeline.window_encoder import Timer
from omnisift.tokens import Modality

ALL_ENCODED = EncodingOptions()
LONG_IMAGES = 256
"""Images of a clip above which its file is read in windows and the default method decides from the past only, so that
memory does not grow."""


def method_for_length(compressor: Compressor | None, images: int) -> Compressor | None:
    """The method for a clip: for long ones the default is ``resift:causal=true``, which needs no other frames.

    Args:
        compressor: the method; None keeps every token.
        images: number of sampled frames of the clip.
    """
    if type(compressor) is not ReSiftCompressor or not compressor.reason or images <= LONG_IMAGES:
        return compressor
    options = {name: getattr(compressor, name) for name in ("merge", "guide", "decay")}
    causal = ReSiftCompressor(compressor.budget, causal=True, **options).eval()
    causal.reason = f"{compressor.reason}: more than {LONG_IMAGES} images"
    return causal


def why_not_windows(host: Host, compressor: Compressor | None) -> str | None:
    """Why clips can't be compressed window by window; None if they can, with the result of the whole clip.

    Args:
        host: the model.
        compressor: the method; None keeps every token.
    """
    processor, adapter = host.processor, adapter_for(host.thinker)
    if compressor is None:
        return "every token is kept"
    if compressor.needs:
        return f"{compressor.name} reads the attention of the encoders"
    if host.thinker.generation_config.use_cache is False:
        return "the model's generation_config has use_cache=False"
    if not isinstance(adapter, GridAdapter):
        return f"{type(adapter).__name__} is no GridAdapter"
    if reason := unknown_video(processor):
        return reason
    extractor = getattr(processor, "feature_extractor", None)
    if extractor is not None and adapter.audio_window is None:
        return "the audio encoder reads the whole clip"
    return None if extractor is None else unknown_spectrogram(extractor)


def check_encoding(host: Host, compressor: Compressor | None, encoding: EncodingOptions) -> None:
    """Check that a model and a method can do with a part of the video tokens, before a clip is read.

    Args:
        host: the model.
        compressor: the method; None keeps every token.
        encoding: which video tokens are encoded.

    Raises:
        BudgetError: ``retain_encoded`` is out of range.
        UsageError: another value is, or the method or the vision encoder needs all tokens.
    """
    encoding.check_encoding(compresses=compressor is not None)
    if encoding == ALL_ENCODED:
        return
    reason = why_not_windows(host, compressor) or why_not_partial(adapter_for(host.thinker).parts.vision_encoder)
    if reason:
        raise UsageError(f"retain_encoded and still_threshold can't be used here: {reason}; leave them out")


def open_clip(
    host: Host,
    compressor: Compressor | None,
    clip: MediaFile | Media,
    reading: Mapping[str, Any],
    encoding: EncodingOptions = ALL_ENCODED,
    hold_bytes: int | None = None,
) -> Media | WindowedClip:
    """Decode a clip; one that is longer than a window is only opened, if the method allows it.

    Args:
        host: the model.
        compressor: the method; None keeps every token.
        clip: as `omnisift.Pipeline.ask` takes it.
        reading: fields of `ReadOptions`.
        encoding: which video tokens are encoded, after `check_encoding`. If not all are, every clip is opened.
        hold_bytes: as `omnisift.Pipeline.encode` takes it, for a clip that is held. It is then only opened if it has
            more than `LONG_IMAGES` images and the method reads parts: what encoders return serves all methods. None for
            one question.

    Raises:
        MediaError: the file cannot be read as asked.
        UsageError: an argument is out of range.
    """
    reason = why_not_windows(host, compressor)
    if encoding != ALL_ENCODED:
        longest = 0
    elif reason is None and hold_bytes is None:
        longest = window_images(host.processor)
    elif reason is None and reads_part(method_for_length(compressor, LONG_IMAGES + 1)):
        longest = LONG_IMAGES
    else:
        return read_for(host.processor, clip, **reading)
    begin = time.perf_counter()
    found = _open(host, clip, reading, longest)
    if isinstance(found, Media):
        return found
    again = found.media if isinstance(found, DecodedSource) else clip
    return WindowedClip(host, found, again, reading, time.perf_counter() - begin, hold_bytes or 0)


def reads_part(compressor: Compressor | None) -> bool:
    """Whether a method decides on a part of a clip without the others."""
    return compressor is not None and compressor.reach is not None


def _open(host: Host, clip: MediaFile | Media, reading: Mapping[str, Any], longest: int) -> Media | ClipSource:
    """A clip with more than ``longest`` images, unread; a shorter one is decoded.

    A file is read in windows above `LONG_IMAGES`. Below, decoding it at once is faster, for its audio is decoded once.
    """
    if isinstance(clip, Media):
        found = heard_by(host.processor, clip)
    else:
        mel = LogMel(host.processor.feature_extractor) if hears(host.processor) else None
        on_samples, arguments = None if mel is None else mel.add, read_arguments(host.processor, reading)
        try:
            opened = read_or_open(clip, max(longest, LONG_IMAGES), on_samples=on_samples, **arguments)
        except WindowsUnavailable as error:
            opened = _decode_whole(host, clip, reading, error)
        if not isinstance(opened, Media):
            return FileSource(opened, mel, host.processor)
        found = heard_by(host.processor, opened)
    is_long = found.images is not None and len(found.images) > longest
    return DecodedSource(found, host.processor) if is_long else found


def _decode_whole(host: Host, clip: MediaFile | Media, reading: Mapping[str, Any], reason: WindowsUnavailable) -> Media:
    """The clip, decoded at once, with a warning that says why."""
    media = read_for(host.processor, clip, **reading)
    return replace(media, warnings=(*media.warnings, f"decoded at once, which takes more memory: {reason}"))


class WindowedClip(EncodedClip):
    """An `EncodedClip` whose file is read once for each method, window by window, and not held.

    Args:
        host: the model.
        source: the clip, opened and unread, for the first question.
        clip: as `open_clip` takes it, to open it again for another method.
        reading: as `open_clip` takes it.
        read_seconds: how long opening took.
        hold_bytes: maximum bytes of held keys and values; 0 holds none.
    """

    def __init__(
        self,
        host: Host,
        source: ClipSource,
        clip: MediaFile | Media,
        reading: Mapping[str, Any],
        read_seconds: float = 0.0,
        hold_bytes: int = HOLD_BYTES,
    ) -> None:
        super().__init__(host, source.media, read_seconds, hold_bytes)
        self._source: ClipSource | None = source
        self._clip, self._reading = clip, reading
        self._whole: EncodedClip | None = None
        self._kept: tuple[Key, KeptTokens] | None = None

    @property
    def is_encoded(self) -> bool:
        """Whether a question has been asked, so that later ones with the same method skip the encoders."""
        return self._kept is not None

    def close(self) -> None:
        """Close the file."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def method(self, compressor: Compressor | None) -> Compressor | None:
        """The method with which a pipeline compresses this clip; see `method_for_length`."""
        assert self.media.images is not None
        return method_for_length(compressor, len(self.media.images))

    def for_method(self, compressor: Compressor | None) -> EncodedClip:
        """The clip itself, or decoded as a whole for a method that needs all of it."""
        if why_not_windows(self.host, compressor) is None:
            return self
        if self._whole is None:
            media = self._checked(read_for(self.host.processor, self._clip, **self._reading))
            self._whole = EncodedClip(self.host, media, self.read_seconds, self.held.max_bytes)
        return self._whole

    def prompt(self, question: str, system: str | None = None) -> PromptRow:
        """A question about the clip, of which the inputs hold sizes alone. Arguments as in `EncodedClip.prompt`."""
        row = super().prompt(question, system)
        ids = row.inputs["input_ids"].int()
        inputs = {**row.inputs, "input_ids": ids, "attention_mask": _ones(ids)}
        adapter = adapter_for(self.host.thinker)
        assert isinstance(adapter, GridAdapter)
        outline = ClipOutline(adapter, inputs, self.media.seconds_per_grid, row.lines)
        return replace(row, inputs=inputs, outline=outline)

    def _process(self, question: str, system: str | None) -> dict[str, Any]:
        text = prompt_text(self.host.processor, self.media, question, system)
        inputs = run_processor(self.host.processor, text, self.media, sizes_alone=True)
        compact = {name: _ones(value) for name, value in inputs.items() if name.endswith("attention_mask")}
        return {**inputs, **compact, "input_ids": inputs["input_ids"].int()}

    @torch.no_grad()
    def shortened(
        self, row: PromptRow, compressor: Compressor, encoding: EncodingOptions, on_stage: Callable[[str], None]
    ) -> tuple[PromptRow, dict[str, float], int | None]:
        """The prompt of a row with what a method keeps of the clip.

        Args:
            row: from `prompt`.
            compressor: a method for which `why_not_windows` gives no reason.
            encoding: which video tokens are encoded.
            on_stage: called with the name of each stage when it begins.

        Returns:
            The row, the seconds of each stage, and the peak memory.
        """
        check_unattached(adapter_for(self.host.thinker).parts.language_model, type(self.host.thinker).__name__)
        timer = Timer(self.host.device, on_stage)
        reset_peak_memory(self.host.device)
        settings = settings_key(self.host, compressor)
        key = None if settings is None else (*settings, encoding)
        kept = self._kept[1] if self._kept is not None and key is not None and self._kept[0] == key else None
        if kept is None:
            self._kept = None
            kept = self._compress(row, compressor, encoding, timer)
            if key is not None:
                self._kept = key, kept
        with timer("process"):
            short = _shorten(self.host, replace(row, media=self.media), kept)
        return short, timer.spent, peak_memory(self.host.device)

    def _compress(self, row: PromptRow, compressor: Compressor, encoding: EncodingOptions, timer: Timer) -> KeptTokens:
        """Read the clip once, and keep what the method keeps of it."""
        with timer("read"):
            found = self._source or _open(self.host, self._clip, self._reading, 0)
        source = self._source = DecodedSource(found, self.host.processor) if isinstance(found, Media) else found
        try:
            self._checked(source.media)
            kept = self._compress_source(row, compressor, encoding, source, timer)
        except WindowsUnavailable as error:
            with timer("read"):
                media = self._checked(_decode_whole(self.host, self._clip, self._reading, error))
            kept = self._compress_source(row, compressor, encoding, DecodedSource(media, self.host.processor), timer)
        finally:
            self.close()
        assert row.outline is not None
        return kept.columns(slice(row.outline.begin, row.shared))

    def _checked(self, media: Media) -> Media:
        """The clip as it was read again; `NotReadable` if it has other sizes than before."""
        if clip_size(media, self.host.processor) != clip_size(self.media, self.host.processor):
            raise NotReadable(f"{media.path}: changed since it was opened; encode it again, or ask about its path")
        return media

    def _compress_source(
        self, row: PromptRow, compressor: Compressor, encoding: EncodingOptions, source: ClipSource, timer: Timer
    ) -> KeptTokens:
        assert row.outline is not None
        with batched_windows(self.host.thinker):
            kept = compress_windows(self.host, compressor, row.inputs, row.outline, source, encoding, timer)
        with timer("read"):
            end = source.finish()
        self.media = replace(self.media, warnings=end.warnings, bad_packets=end.bad_packets)
        return kept


def _ones(mask: Tensor) -> Tensor:
    """A mask [1, N] of the same shape without padding, which takes no memory."""
    return torch.ones(1, 1, dtype=torch.int64).expand_as(mask)


def _shorten(host: Host, row: PromptRow, kept: KeptTokens) -> PromptRow:
    """The row with the kept tokens of its clip. To the host, all tokens look like text."""
    ids, begin, adapter = row.inputs["input_ids"], row.shared - len(kept.keep), adapter_for(host.thinker)
    # The texts around the clip are kept as they are.
    keep = torch.ones(ids.shape[1], dtype=torch.bool)
    modality = torch.full(keep.shape, int(Modality.TEXT), dtype=torch.int8)
    keep[begin : row.shared], modality[begin : row.shared] = kept.keep, kept.modality
    scores = None
    if kept.scores is not None:
        scores = torch.full((1, len(keep)), torch.nan)
        scores[0, begin : row.shared] = kept.scores
    positions = adapter.rotary_positions({**row.inputs, "input_ids": ids.long()})
    # The kept tokens in their order, which lines change.
    order = torch.arange(ids.shape[1])
    if row.lines is not None and row.outline is not None:
        order, _ = _line_row(row.outline, row.lines, modality).place(ids[0].long(), positions[:, 0], adapter)
    order = order[keep[order]]
    kind = modality[order]
    column = torch.nonzero(kind != Modality.TEXT)[:, 0]
    media = kept.media
    if row.lines is not None:
        rank = torch.argsort(torch.argsort(order[column]))
        media = replace(media, embeds=media.embeds[rank.to(media.embeds.device)])
    short = ShortPrompt(
        media=media,
        column=column,
        is_video=kind[column] == Modality.VIDEO,
        position_ids=positions[:, :, order],
        next_position=positions[0, :, -1] + 1,
        compression=Compression(modality.unsqueeze(0), keep.unsqueeze(0), scores),
        encoded_tokens=kept.encoded_tokens,
    )
    # A token of the text stands for those of the clip, so that `generate` looks for no images.
    short_ids = ids[:, order].long()
    short_ids[0, column] = int(ids[0, 0])
    inputs = {"input_ids": short_ids, "attention_mask": torch.ones_like(short_ids)}
    if "use_audio_in_video" in row.inputs:
        inputs["use_audio_in_video"] = False
    return replace(row, inputs=inputs, shared=int(keep[: row.shared].sum()), short=short)


def _line_row(outline: ClipOutline, lines: PromptLines, modality: Tensor) -> LineRow:
    """A prompt with lines, of which ``modality`` [S] says what each token is."""
    stream = outline.part(0, outline.chunks)
    chunk, clip = (torch.full(modality.shape, -1, dtype=torch.int64) for _ in range(2))
    time = torch.zeros_like(chunk)
    chunk[stream.sample], clip[stream.sample], time[stream.sample] = stream.chunk, 0, stream.position[0]
    return LineRow(slice(lines.begin, lines.begin + lines.total), chunk, clip, modality, time)
