"""A clip that is decoded, processed and encoded once, for several questions and compressors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from omnisift.compressors import Compressor
from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.models import adapter_class, adapter_for
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import build_inputs, heard_by, join_rows, placeholder, prompt_text

_ENCODER_INPUTS = ("pixel_values_videos", "input_features")


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a batch, on the CPU."""

    media: Media
    inputs: Mapping[str, Any]
    """As `build_inputs` makes them."""
    clip: EncodedClip | None = None
    """The encoded clip that the prompt is about; None if its embeddings are not kept."""
    clip_columns: tuple[int, int] = (0, 0)
    """Where the tokens of ``clip`` begin and end in ``input_ids``."""


class EncodedClip:
    """A clip for one host, made by `Pipeline.encode`; ask about it with any `Pipeline` of the same host.

    It stores the decoded clip and the processor's tensors on the CPU, and the clip's embeddings on the host's device.
    The first question computes them, later questions reuse them. A method that reads the encoders' attention
    (``needs``) runs the encoders for each question, and so does a host that takes more of its encoders than embeddings
    (`Adapter.takes_embeddings`): then only the decoded clip is reused. Ask one question at a time: its hooks are on the
    shared host.

    Args:
        host: the model that encodes the clip; questions must be asked with the same one.
        media: the decoded clip.
        read_seconds: how long decoding took.
    """

    def __init__(self, host: Host, media: Media, read_seconds: float = 0.0) -> None:
        self.host = host
        self.media = heard_by(host.processor, media)
        self.read_seconds = read_seconds
        """Seconds that decoding took."""
        self.encoding_seconds: float | None = None
        """Seconds of decoding, processing and encoding; None until a question was answered."""
        self.embeds: Tensor | None = None
        """[1, N, D]: embeddings of the clip's tokens as the encoders make them; None before the first question."""
        self._processed: dict[str, Any] | None = None
        self._clip_ids: Tensor | None = None

    def __repr__(self) -> str:
        state = "encoded" if self.is_encoded else "not encoded yet"
        return f"EncodedClip({str(self.media.path)!r}, {self.media.seconds:.1f} s, {state})"

    @property
    def is_encoded(self) -> bool:
        """Whether a question has been asked, so that later ones skip the encoders."""
        return self.embeds is not None

    @property
    def is_reusable(self) -> bool:
        """Whether the host takes embeddings in place of what its encoders read."""
        return adapter_class(self.host.thinker.config.model_type).takes_embeddings

    def prompt(self, question: str, system: str | None = None) -> PromptRow:
        """A question about the clip, with the inputs that `build_inputs` makes; only the first runs the processor.

        Args:
            question: a question in the model's language.
            system: a system prompt; None sends none.

        Raises:
            UsageError: the question contains a media placeholder.
        """
        if not self.is_reusable:
            return PromptRow(self.media, build_inputs(self.host.processor, self.media, question, system), self)
        before, after = self._text_around(question, system)
        if self._processed is None or self._clip_ids is None:
            self._processed = dict(build_inputs(self.host.processor, self.media, question, system))
            ids = self._processed["input_ids"]
            self._clip_ids = ids[:, before.shape[1] : ids.shape[1] - after.shape[1]]
        ids = torch.cat([before, self._clip_ids, after], dim=1)
        inputs = {**self._processed, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        columns = before.shape[1], before.shape[1] + self._clip_ids.shape[1]
        return PromptRow(self.media, inputs, self, columns)

    def _text_around(self, question: str, system: str | None) -> tuple[Tensor, Tensor]:
        """[1, N] ids of the prompt before and after the clip."""
        processor = self.host.processor
        text = prompt_text(processor, self.media, question, system)
        parts = text.split(placeholder(processor, self.media))
        before, after = (processor.tokenizer(part, add_special_tokens=False, return_tensors="pt") for part in parts)
        return before["input_ids"], after["input_ids"]


class EncodedClipCache:
    """The ``max_clips`` most recently used clips, keyed by path, size and modification time of the file.

    Two files never share an entry, and a file that changed is encoded again. Not thread-safe.

    Args:
        max_clips: number of clips to keep.
    """

    def __init__(self, max_clips: int) -> None:
        self._max_clips = max_clips
        self._entries: OrderedDict[tuple[str, int, int], EncodedClip] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, path: Path, encode: Callable[[Path], EncodedClip]) -> EncodedClip:
        """The clip of the file at ``path``; a missing one is made by ``encode`` after the oldest is dropped."""
        try:
            state = path.stat()
        except OSError:
            return encode(path)  # which raises what is wrong with the path
        key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
        if key not in self._entries:
            while len(self._entries) >= self._max_clips:
                self._entries.popitem(last=False)
            self._entries[key] = encode(path)
        self._entries.move_to_end(key)
        return self._entries[key]

    def clear(self) -> None:
        """Drop all clips."""
        self._entries.clear()


def prompt_row(host: Host, clip: Media | EncodedClip, question: str, system: str | None = None) -> PromptRow:
    """One question about a clip that ``host`` will answer.

    Raises:
        UsageError: the question contains a media placeholder, or the clip was encoded by another model.
    """
    if not isinstance(clip, EncodedClip):
        return PromptRow(clip, build_inputs(host.processor, clip, question, system))
    if clip.host is not host:
        raise UsageError("this clip was encoded by another model; encode it with this one")
    return clip.prompt(question, system)


def split_calls(rows: Sequence[PromptRow], compressor: Compressor | None) -> list[list[int]]:
    """Divide a batch into calls of ``generate``, each a list of indices into ``rows``.

    Calls that run the encoders come first, with the first question about each clip that is not encoded yet; then those
    that reuse the embeddings. Transformers has one audio switch per call, so a call has clips of equal modalities.
    """
    calls: dict[tuple[bool, bool, bool], list[int]] = {}
    encoding: list[EncodedClip] = []
    for index, row in enumerate(rows):
        is_reusing = _can_reuse(row, compressor, encoding)
        if row.clip is not None:
            encoding.append(row.clip)
        calls.setdefault((is_reusing, row.media.has_video, row.media.has_audio), []).append(index)
    return [calls[key] for key in sorted(calls)]


@contextmanager
def prepare_call(host: Host, rows: Sequence[PromptRow], compressor: Compressor | None) -> Iterator[dict[str, Any]]:
    """Yield the inputs of one ``generate`` call on the host's device; it must run in the block.

    The embeddings of encoded clips are inserted if all rows have them; else the encoders run, and theirs are stored.

    Args:
        host: the model.
        rows: prompts of clips with equal modalities.
        compressor: the attached method, which may read the encoders' attention; None keeps every token.
    """
    is_reusing = all(_can_reuse(row, compressor) for row in rows)
    left_out = _ENCODER_INPUTS if is_reusing else ()
    singles = [{name: value for name, value in row.inputs.items() if name not in left_out} for row in rows]
    # A single prompt keeps the processor's own tensors; several are padded on the left.
    joined = singles[0] if len(singles) == 1 else join_rows(singles, host.stop_tokens["pad_token_id"])
    inputs = dict(BatchFeature(joined).to(host.device, host.dtype))
    clips = list(_locate_clips(rows, inputs["input_ids"].shape[1]))
    hook = _insert_embeds(host, clips) if is_reusing else _store_embeds(clips)
    module: nn.Module = host.thinker if is_reusing else adapter_for(host.thinker).parts.language_model
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield inputs
    finally:
        handle.remove()


def _can_reuse(row: PromptRow, compressor: Compressor | None, encoding: Sequence[EncodedClip] = ()) -> bool:
    """Whether a prompt needs no encoder, given the clips that an earlier call of the batch encodes."""
    if row.clip is None or not row.clip.is_reusable or (compressor is not None and compressor.needs):
        return False
    return row.clip.is_encoded or row.clip in encoding


def _locate_clips(rows: Sequence[PromptRow], length: int) -> Iterator[tuple[int, slice, EncodedClip]]:
    """(row, columns, clip) of each encoded clip in a batch of ``length`` tokens, padded on the left."""
    for index, row in enumerate(rows):
        if row.clip is not None and row.clip.is_reusable:
            padding = length - row.inputs["input_ids"].shape[1]
            columns = slice(*(column + padding for column in row.clip_columns))
            yield index, columns, row.clip


def _store_embeds(clips: Sequence[tuple[int, slice, EncodedClip]]) -> Any:
    """A hook that stores each clip's part of the embeddings which reach the language model."""
    is_done = False

    def hook(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal is_done
        if not is_done:  # the prompt; later calls decode
            for row, columns, clip in clips:
                clip.embeds = kwargs["inputs_embeds"][row : row + 1, columns].clone()
        is_done = True

    return hook


def _insert_embeds(host: Host, clips: Sequence[tuple[int, slice, EncodedClip]]) -> Any:
    """A hook that gives the prompt's call the stored embeddings, where it would call the encoders."""
    is_done = False

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal is_done
        if is_done:  # a decoding step
            return None
        is_done = True
        inputs_embeds = host.thinker.get_input_embeddings()(kwargs["input_ids"])
        for row, columns, clip in clips:
            inputs_embeds[row : row + 1, columns] = clip.embeds
        return args, {**kwargs, "inputs_embeds": inputs_embeds}

    return hook
