"""A clip that is decoded, processed and encoded once, for several questions and compressors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.compressors import Compressor
from omnisift.media import Media
from omnisift.models import adapter_for
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import build_inputs, placeholder, prompt_text

_ENCODER_INPUTS = ("pixel_values_videos", "input_features")


class EncodedClip:
    """A clip for one host, made by `Pipeline.encode`; ask about it with any `Pipeline` of the same host.

    It stores the decoded clip, the processor's tensors and the clip's embeddings, the latter two on the host's device.
    The first question computes them, later questions reuse them. A method that reads the encoders' attention
    (``needs``) runs the encoders for each question. Ask one question at a time: its hooks are on the shared host.

    Args:
        host: the model that encodes the clip; questions must be asked with the same one.
        media: the decoded clip.
        read_seconds: how long decoding took.
    """

    def __init__(self, host: Host, media: Media, read_seconds: float = 0.0) -> None:
        self.host = host
        self.media = media
        self.read_seconds = read_seconds
        """Seconds that decoding took."""
        self._processed: dict[str, Any] | None = None
        self._clip_ids: Tensor | None = None
        self._clip_embeds: Tensor | None = None

    def __repr__(self) -> str:
        state = "encoded" if self.is_encoded else "not encoded yet"
        return f"EncodedClip({str(self.media.path)!r}, {self.media.seconds:.1f} s, {state})"

    @property
    def is_encoded(self) -> bool:
        """Whether a question has been asked, so that later ones skip the encoders."""
        return self._clip_embeds is not None

    def inputs(self, question: str, system: str | None = None) -> dict[str, Any]:
        """The inputs that `build_inputs` makes, on the host's device; only the first call runs the processor.

        Args:
            question: a question in the model's language.
            system: a system prompt; None sends none.

        Raises:
            UsageError: the question contains a media placeholder.
        """
        return self._prompt(question, system)[0]

    @contextmanager
    def prepare(self, question: str, system: str | None, compressor: Compressor | None) -> Iterator[dict[str, Any]]:
        """Yield the inputs of one ``generate`` call, which must run in the block.

        Args:
            question: a question in the model's language.
            system: a system prompt; None sends none.
            compressor: the attached method, which may read the encoders' attention; None keeps every token.

        Raises:
            UsageError: the question contains a media placeholder.
        """
        inputs, clip = self._prompt(question, system)
        needs_encoders = compressor is not None and bool(compressor.needs)
        if self._clip_embeds is None or needs_encoders:
            module: nn.Module = adapter_for(self.host.thinker).parts.language_model
            handle = module.register_forward_pre_hook(self._store_embeds(clip), with_kwargs=True)
        else:
            inputs = {name: value for name, value in inputs.items() if name not in _ENCODER_INPUTS}
            module = self.host.thinker
            handle = module.register_forward_pre_hook(self._insert_embeds(clip), with_kwargs=True)
        try:
            yield inputs
        finally:
            handle.remove()

    def _store_embeds(self, clip: slice) -> Any:
        """A hook that stores the clip's part of the embeddings which reach the language model."""
        is_done = False

        def hook(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal is_done
            if not is_done:  # the prompt; later calls decode
                self._clip_embeds = kwargs["inputs_embeds"][:, clip].clone()
            is_done = True

        return hook

    def _insert_embeds(self, clip: slice) -> Any:
        """A hook that gives the prompt's call the stored embeddings, where it would call the encoders."""
        is_done = False

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal is_done
            if is_done:  # a decoding step
                return None
            is_done = True
            inputs_embeds = self.host.thinker.get_input_embeddings()(kwargs["input_ids"])
            inputs_embeds[:, clip] = self._clip_embeds
            return args, {**kwargs, "inputs_embeds": inputs_embeds}

        return hook

    def _prompt(self, question: str, system: str | None) -> tuple[dict[str, Any], slice]:
        """The inputs on the host's device, and where the clip's tokens are in ``input_ids``."""
        before, after = self._text_around(question, system)
        if self._processed is None or self._clip_ids is None:
            inputs = build_inputs(self.host.processor, self.media, question, system)
            self._processed = dict(inputs.to(self.host.device, self.host.dtype))
            ids = self._processed["input_ids"]
            self._clip_ids = ids[:, before.shape[1] : ids.shape[1] - after.shape[1]]
        device = self._clip_ids.device
        ids = torch.cat([before.to(device), self._clip_ids, after.to(device)], dim=1)
        clip = slice(before.shape[1], before.shape[1] + self._clip_ids.shape[1])
        return {**self._processed, "input_ids": ids, "attention_mask": torch.ones_like(ids)}, clip

    def _text_around(self, question: str, system: str | None) -> tuple[Tensor, Tensor]:
        """[1, N] ids of the prompt before and after the clip."""
        processor = self.host.processor
        text = prompt_text(processor, self.media, question, system)
        parts = text.split(placeholder(processor, self.media))
        before, after = (processor.tokenizer(part, add_special_tokens=False, return_tensors="pt") for part in parts)
        return before["input_ids"], after["input_ids"]
