"""A clip that is decoded, processed and encoded once, for several questions and compressors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature
from transformers.utils.generic import ModelOutput

from omnisift.compressors import Compressor
from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.models import adapter_for
from omnisift.models.layout import PromptLines
from omnisift.models.short_prompt import ShortPrompt
from omnisift.pipeline.clip_outline import ClipOutline
from omnisift.pipeline.held_prompt import HOLD_BYTES, HeldPrompts, Key, settings_key
from omnisift.pipeline.line_tokens import LineTokens, closing_marks
from omnisift.pipeline.loading import Host
from omnisift.pipeline.preparation import normalize_patches
from omnisift.pipeline.prompt import around_clip, build_compact_inputs, heard_by, join_rows, prompt_text
from omnisift.tokens import Modality

_MEDIA_INPUTS = {"pixel_values_videos": 0, "input_features": 1}
"""What the encoders read, and an axis that does not say how much of it there is."""
Fields = dict[str, Tensor | list[Tensor]]


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder returns for one clip: its output object, with the fields that have an entry for each token."""

    kind: type[ModelOutput]
    fields: Fields
    """Tensors [N, ...], or lists of them (one for each of several layers)."""

    @classmethod
    def split(cls, output: ModelOutput, sizes: list[int]) -> list[EncoderOutput]:
        """Divide the output for a batch into copies for its clips, of ``sizes`` tokens each."""
        parts: list[Fields] = [{} for _ in sizes]
        for name, value in output.items():
            tensors = [value] if isinstance(value, Tensor) else value
            # Other fields count patches. No host reads them.
            if not all(isinstance(tensor, Tensor) and len(tensor) == sum(sizes) for tensor in tensors):
                continue
            pieces = [tensor.split(sizes) for tensor in tensors]
            for index, part in enumerate(parts):
                copies = [piece[index].clone() for piece in pieces]
                part[name] = copies[0] if isinstance(value, Tensor) else copies
        return [cls(type(output), part) for part in parts]

    @staticmethod
    def join(parts: Sequence[EncoderOutput]) -> ModelOutput:
        """Return the output for a batch of these clips, in a new object: hosts write on what an encoder returns."""
        fields: Fields = {}
        for name, first in parts[0].fields.items():
            values: list[Any] = [part.fields[name] for part in parts]
            layers = [values] if isinstance(first, Tensor) else zip(*values, strict=True)
            joined = [torch.cat(list(layer)) for layer in layers]
            fields[name] = joined[0] if isinstance(first, Tensor) else joined
        return parts[0].kind(**fields)


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a batch, on the CPU."""

    media: Media
    inputs: Mapping[str, Any]
    """As `build_compact_inputs` makes them."""
    clip: EncodedClip | None = None
    """The encoded clip that the prompt is about; None if what the encoders return is not kept."""
    shared: int = 0
    """Tokens up to the end of the clip, which a prompt with another question has too."""
    key: Key | None = None
    """Of what the clip holds for such a prompt with the same model and method; None if it holds nothing."""
    outline: ClipOutline | None = None
    """Where the tokens of a long clip are; None for other clips."""
    short: ShortPrompt | None = None
    """What is left of a clip that was compressed before; None if the host encodes the clip."""
    lines: PromptLines | None = None
    """Lines of text of the clip; None without any."""


class EncodedClip:
    """A clip for one host, made by `Pipeline.encode`; ask about it with any `Pipeline` of the same host.

    It stores the decoded clip and the processor's tensors on the CPU, and what the encoders return for the clip on the
    host's device. The first question computes it, later questions reuse it. It also holds the keys and values of the
    prompt up to the question, after compression, so that a later question with the same method and budget costs its own
    tokens alone. Without them, a method that reads the encoders' attention (``needs``) runs the encoders for each
    question. All of it is freed with the clip.

    Args:
        host: the model that encodes the clip; questions must be asked with the same one.
        media: the decoded clip.
        read_seconds: how long decoding took.
        hold_bytes: maximum bytes of held keys and values; 0 holds none.
    """

    def __init__(self, host: Host, media: Media, read_seconds: float = 0.0, hold_bytes: int = HOLD_BYTES) -> None:
        if not isinstance(hold_bytes, int) or isinstance(hold_bytes, bool) or hold_bytes < 0:
            raise UsageError(f"hold_bytes must be a number of bytes, and 0 to hold none, got {hold_bytes!r}")
        self.host = host
        self.media = heard_by(host.processor, media)
        self.read_seconds = read_seconds
        """Seconds that decoding took."""
        self.encoding_seconds: float | None = None
        """Seconds of decoding, processing and encoding; None until a question was answered."""
        self.encoder_outputs: dict[Modality, EncoderOutput] = {}
        """What the encoders return for the clip, by what they encode; empty before the first question."""
        self.held = HeldPrompts(hold_bytes)
        """Beginnings of prompts. ``held.clear()`` frees them, and must be called after weights were changed through
        ``Tensor.data``; other changes of weights or settings are noticed."""
        self._processed: dict[str, Any] | None = None
        self._columns = slice(0)
        self._lines = LineTokens.of(host.processor, self.media.lines, self.media.path)

    def __repr__(self) -> str:
        state = "encoded" if self.is_encoded else "not encoded yet"
        return f"EncodedClip({str(self.media.path)!r}, {self.media.seconds:.1f} s, {state})"

    @property
    def is_encoded(self) -> bool:
        """Whether a question has been asked, so that later ones skip the encoders."""
        return bool(self.encoder_outputs)

    def prompt(self, question: str, system: str | None = None) -> PromptRow:
        """A question about the clip, with the inputs of `build_compact_inputs`; only the first runs the processor.

        Args:
            question: a question in the model's language.
            system: a system prompt; None sends none.

        Raises:
            UsageError: the question contains a media placeholder.
        """
        before, after = self._text_around(question, system)
        if self._processed is None:
            self._processed = self._process(question, system)
            self._columns = slice(before.shape[1], self._processed["input_ids"].shape[1] - after.shape[1])
        # The texts before and after the clip, with what the processor made of the clip between them.
        ids = torch.cat([before, self._processed["input_ids"][:, self._columns], after], dim=1)
        inputs = {**self._processed, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in inputs:
            types = inputs["mm_token_type_ids"][:, self._columns]
            inputs["mm_token_type_ids"] = torch.cat([torch.zeros_like(before), types, torch.zeros_like(after)], dim=1)
        row = PromptRow(self.media, inputs, self, ids.shape[1] - after.shape[1])
        return with_lines(row, self._lines, row.shared + closing_marks(self.host.processor, after[0].tolist()))

    def _process(self, question: str, system: str | None) -> dict[str, Any]:
        """The inputs of a prompt with the clip."""
        return dict(build_compact_inputs(self.host.processor, self.media, question, system))

    def _text_around(self, question: str, system: str | None) -> tuple[Tensor, Tensor]:
        """[1, N] ids of the prompt before and after the clip."""
        processor = self.host.processor
        text = prompt_text(processor, self.media, question, system)
        before, after = (
            processor.tokenizer(part, add_special_tokens=False, return_tensors="pt")
            for part in around_clip(processor, self.media, text)
        )
        return before["input_ids"], after["input_ids"]


class EncodedClipCache:
    """The ``max_clips`` most recently used clips, keyed by path, size and modification time of the file.

    Two files never share an entry, and a file that changed is encoded again. Not thread-safe.

    Args:
        max_clips: number of clips to keep.
    """

    def __init__(self, max_clips: int) -> None:
        self._max_clips = max_clips
        self._entries: OrderedDict[tuple[Hashable, ...], EncodedClip] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, path: Path, encode: Callable[[Path], EncodedClip], read_with: Hashable = None) -> EncodedClip:
        """The clip of the file at ``path``; a missing one is made by ``encode`` after the oldest is dropped.

        Args:
            path: the file.
            encode: reads the file.
            read_with: what else the clip depends on; clips of a file with other values are other entries.
        """
        try:
            state = path.stat()
        except OSError:
            return encode(path)  # which raises what is wrong with the path
        key = (str(path.resolve()), state.st_size, state.st_mtime_ns, read_with)
        if key not in self._entries:
            while len(self._entries) >= self._max_clips:
                self._entries.popitem(last=False)
            self._entries[key] = encode(path)
        self._entries.move_to_end(key)
        return self._entries[key]

    def clear(self) -> None:
        """Drop all clips."""
        self._entries.clear()


def prompt_row(
    host: Host, compressor: Compressor | None, clip: Media | EncodedClip, question: str, system: str | None = None
) -> PromptRow:
    """One question about a clip that ``host`` will answer with ``compressor``.

    Raises:
        UsageError: the question contains a media placeholder, or the clip was encoded by another model.
    """
    if not isinstance(clip, EncodedClip):
        row = PromptRow(clip, build_compact_inputs(host.processor, clip, question, system))
        lines = LineTokens.of(host.processor, clip.lines, clip.path)
        return row if lines is None else with_lines(row, lines, _clip_end(host.processor, row, question, system))
    if clip.host is not host:
        raise UsageError("this clip was encoded by another model; encode it with this one")
    row = clip.prompt(question, system)
    settings = settings_key(host, compressor) if clip.held.max_bytes else None
    if settings is None:
        return row
    return replace(row, key=(*settings, row.inputs["input_ids"][:, : row.shared].numpy().tobytes(), row.lines))


def with_lines(row: PromptRow, lines: LineTokens | None, begin: int) -> PromptRow:
    """A prompt with lines of text behind its clip, of which the last token and mark is before ``begin``."""
    if lines is None:
        return row
    inputs, places = lines.inserted(row.inputs, begin)
    shared = begin + places.total if row.shared else 0
    return replace(row, inputs=inputs, lines=places, shared=shared)


def _clip_end(processor: Any, row: PromptRow, question: str, system: str | None) -> int:
    """Tokens of a prompt up to the end of its clip, with the marks that close it."""
    after = around_clip(processor, row.media, prompt_text(processor, row.media, question, system))[1]
    ids = processor.tokenizer(after, add_special_tokens=False)["input_ids"]
    return int(row.inputs["input_ids"].shape[1]) - len(ids) + closing_marks(processor, ids)


def split_calls(rows: Sequence[PromptRow], compressor: Compressor | None) -> list[list[int]]:
    """Divide a batch into calls of ``generate``, each a list of indices into ``rows``.

    Calls that run the encoders come first, with the first question about each clip that is not encoded yet; then those
    that reuse the embeddings; then those whose prompts the clips hold, or will hold after the others. Transformers has
    one audio switch per call, so a call has clips of equal modalities, and of equally many frames for hosts that take
    one tensor of frames for all. Short prompts are called alone.
    """
    calls: dict[tuple[int, bool, bool, int, int], list[int]] = {}
    encoding: list[EncodedClip] = []
    holding: set[tuple[int, Key | None]] = set()
    for index, row in enumerate(rows):
        step = int(_can_reuse(row, compressor, encoding))
        if row.clip is not None:
            encoding.append(row.clip)
            held = id(row.clip), row.key
            if row.clip.held.find(row.key) is not None or held in holding:
                step = 2
            elif row.key is not None:
                holding.add(held)
        alone = -1 if row.short is None else index
        pixels = row.inputs.get("pixel_values_videos")
        frames = pixels.shape[1] if isinstance(pixels, Tensor) and pixels.ndim == 5 else -1
        calls.setdefault((step, row.media.has_video, row.media.has_audio, frames, alone), []).append(index)
    return [calls[key] for key in sorted(calls)]


def needs_encoders(rows: Sequence[PromptRow], compressor: Compressor | None) -> bool:
    """Whether `prepare_call` lets the encoders run for these prompts."""
    return not all(_can_reuse(row, compressor) for row in rows)


@contextmanager
def prepare_call(host: Host, rows: Sequence[PromptRow], compressor: Compressor | None) -> Iterator[dict[str, Any]]:
    """Yield the inputs of one ``generate`` call on the host's device; it must run in the block.

    Encoders are not run if all rows have encoded clips; else they run, and what they return is stored.

    Args:
        host: the model.
        rows: prompts of clips with equal modalities.
        compressor: the attached method, which may read the encoders' attention; None keeps every token.
    """
    is_reusing = not needs_encoders(rows, compressor)
    singles = [_without_media(row.inputs) if is_reusing else dict(row.inputs) for row in rows]
    # A single prompt keeps the processor's own tensors; several are padded on the left.
    joined = singles[0] if len(singles) == 1 else join_rows(singles, host.stop_tokens["pad_token_id"])
    # Bytes of frames become floats on a GPU, which takes a quarter of the transfer.
    if host.device.type != "cuda":
        joined = normalize_patches(host.processor, joined, host.dtype)
    moved = BatchFeature(joined).to(host.device, host.dtype)
    inputs = normalize_patches(host.processor, moved, host.dtype)
    with ExitStack() as stack:
        for modality, encoder in _encoders(host).items():
            if any(row.short is not None for row in rows):
                continue
            if is_reusing:
                clips = [row.clip for row in rows if row.clip is not None]
                stack.enter_context(_reuse_outputs(encoder, modality, clips))
            elif any(row.clip is not None for row in rows):
                stack.enter_context(_store_outputs(host, encoder, modality, rows))
        yield inputs


def _encoders(host: Host) -> dict[Modality, nn.Module]:
    """The encoders of a host by what they encode."""
    parts = adapter_for(host.thinker).parts
    encoders = {Modality.VIDEO: parts.vision_encoder, Modality.AUDIO: parts.audio_encoder}
    return {modality: module for modality, module in encoders.items() if module is not None}


def _without_media(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs without the numbers of pixels and spectrograms, which would be moved to the device for nothing."""
    return {
        name: value.narrow(_MEDIA_INPUTS[name], 0, 0) if name in _MEDIA_INPUTS else value
        for name, value in inputs.items()
    }


def _can_reuse(row: PromptRow, compressor: Compressor | None, encoding: Sequence[EncodedClip] = ()) -> bool:
    """Whether a prompt needs no encoder, given the clips that an earlier call of the batch encodes."""
    if row.short is not None:
        return True
    if row.clip is None or (compressor is not None and compressor.needs):
        return False
    if not adapter_for(row.clip.host.thinker).outputs_tokens:
        return False
    return row.clip.is_encoded or row.clip in encoding


@contextmanager
def _store_outputs(host: Host, encoder: nn.Module, modality: Modality, rows: Sequence[PromptRow]) -> Iterator[None]:
    """Store what an encoder returns in the block on the clips of ``rows``."""
    adapter = adapter_for(host.thinker)
    if not adapter.outputs_tokens:
        yield
        return
    sizes = [int((adapter.modality(row.inputs["input_ids"], row.inputs) == modality).sum()) for row in rows]

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: ModelOutput) -> None:
        for row, part in zip(rows, EncoderOutput.split(output, sizes), strict=True):
            if row.clip is not None and part.fields:
                row.clip.encoder_outputs[modality] = part

    handle = encoder.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _reuse_outputs(encoder: nn.Module, modality: Modality, clips: Sequence[EncodedClip]) -> Iterator[None]:
    """Let an encoder return the stored outputs of ``clips`` in the block, without running. Its hooks run."""
    stored = [clip.encoder_outputs[modality] for clip in clips if modality in clip.encoder_outputs]
    wrapped = vars(encoder).get("forward")
    encoder.forward = lambda *_args, **_kwargs: EncoderOutput.join(stored)  # on this one module
    try:
        yield
    finally:
        del encoder.forward
        if wrapped is not None:
            encoder.forward = wrapped
