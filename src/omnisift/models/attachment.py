"""The plug: hooks on a host model that cut each prompt between its encoders and its language model.

Order of events in one call with video:

    head      takes the labels out (they have the full length), and at the end computes the loss on cut logits
      core        reads input_ids on the way in: which tokens are video and sound
        encoders         are listened to, if the compressor needs what they attend to
        language model   builds the stream, asks the compressor, cuts; then notes the cut beside the cache

In later steps the language model's hook replaces the host's mask, which still has the full length. One prompt costs
five transfers to the CPU (ids, mask, positions, decision, scores), and the sizes of what an encoder is listened to for;
a decoding step none.

Wrappers call ``forward`` of what they wrap, past its hooks (PEFT does). So the module that the caller handed over gets
the outer hooks too, and a prompt that comes by neither way is refused rather than read uncompressed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from omnisift.chunks import build_stream
from omnisift.compressors.base import Compressor
from omnisift.errors import CompressorError, UnsupportedCall
from omnisift.models.adapter import Adapter
from omnisift.models.attention_bias import faded
from omnisift.models.cached_prompt import CachedPrompt, cached_length, forget, note, recall
from omnisift.models.compression import Compression
from omnisift.models.host_arguments import (
    by_name,
    continued,
    positions_handed,
    real_tokens,
    repaired,
    shortened,
)
from omnisift.models.prompt_cut import Cut
from omnisift.tokens import Modality, Selection, TokenStream


@dataclass
class _Prompt:
    """A prompt with video on its way from ``core`` to the language model."""

    ids: Tensor
    modality: Tensor
    arguments: Mapping[str, Any]


class Attachment:
    """A compressor plugged into a model. Made by `attach`; a context manager that detaches when left.

    While it is attached, logits, hidden states and attentions of a prompt with video have the length of the cut prompt.
    """

    cut: Cut | None
    """The shape of the latest cut, for adapters with more than one language model; None if nothing was dropped."""

    last: Compression | None
    """What happened to the latest prompt with video; None before the first, and after a prompt without video."""

    selection: Selection | None
    """What the compressor said of the latest prompt in training, with its gradients; None otherwise."""

    def __init__(self, adapter: Adapter, compressor: Compressor, outer: nn.Module) -> None:
        self.adapter = adapter
        self.selection = None
        self.compressor = compressor
        self.last = None
        self._prompt: _Prompt | None = None
        self.cut = None
        self._unnoted: CachedPrompt | None = None
        self._labels: Tensor | None = None
        self._labels_of: nn.Module | None = None
        self._inside = False
        self._listeners = adapter.listeners(compressor.needs)
        heard = [handle for listener in self._listeners for handle in listener.hooks()]
        self._handles = [*self._hook(outer), *heard, *adapter.more_hooks(self)]

    def _hook(self, outer: nn.Module) -> list[RemovableHandle]:
        parts = self.adapter.parts
        heads = {parts.head, outer}
        cores = heads if parts.core is parts.head else {parts.core}
        language_model = parts.language_model
        return [
            *(head.register_forward_pre_hook(self._enter_head, with_kwargs=True) for head in heads),
            *(core.register_forward_pre_hook(self._enter_core, with_kwargs=True) for core in cores),
            language_model.register_forward_pre_hook(self._enter_language_model, with_kwargs=True),
            language_model.register_forward_hook(self._leave_language_model, with_kwargs=True),
            *(core.register_forward_hook(self._leave_core, always_call=True) for core in cores),
            *(head.register_forward_hook(self._leave_head, with_kwargs=True, always_call=True) for head in heads),
        ]

    def detach(self) -> None:
        """Unplug. The model is then as it was before `attach`; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget_encoders()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    # --- head: labels and loss ---------------------------------------------------------------------------------------

    def _enter_head(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Keep the labels back if the prompt will be cut: the host would compare them with logits of another length."""
        arguments = by_name(self.adapter.parts.head, args, kwargs)
        labels, ids = arguments.get("labels"), arguments.get("input_ids")
        if labels is None or ids is None or not self._has_video(ids):
            return None
        if arguments.get("shift_labels") is not None:
            raise UnsupportedCall("shift_labels can't be cut with the prompt: pass labels instead")
        self._labels, self._labels_of = arguments.pop("labels"), module
        return (), arguments

    def _leave_head(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ARG002
        if module is not self._labels_of and output is not None:
            return None  # an outer module has the labels
        labels, self._labels, self._labels_of = self._labels, None, None
        if labels is None or output is None:
            return None
        labels = labels if self.cut is None else self.cut.labels(labels)
        head: Any = self.adapter.parts.head
        named = set(inspect.signature(type(head).forward).parameters)
        rest = {name: value for name, value in kwargs.items() if name not in named and name != "return_dict"}
        logits = output[0]
        vocabulary = head.config.get_text_config().vocab_size
        loss = head.loss_function(logits=logits, labels=labels, vocab_size=vocabulary, **rest)
        if isinstance(output, tuple):
            return (loss, *output)
        return type(output)(loss=loss, **output)

    # --- core: which tokens are what ---------------------------------------------------------------------------------

    def _enter_core(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002
        self._prompt, self._inside = None, True
        self._forget_encoders()
        arguments = by_name(self.adapter.parts.core, args, kwargs)
        cache, ids = arguments.get("past_key_values"), arguments.get("input_ids")
        cached = cached_length(cache)
        if cached == 0:
            forget(cache)
            self.cut = None
        if ids is None:
            raise UnsupportedCall(
                "inputs_embeds without input_ids: can't tell which tokens are video. "
                "Pass input_ids as well (the model then still uses inputs_embeds), or detach"
            )
        known = recall(cache, len(ids))
        if known is not None:
            arguments = continued(known, arguments, cached)
            ids = arguments["input_ids"]
        # A single new token is text: decoding steps must not wait for the device.
        if cached == 0 or ids.shape[1] > 1:
            self._read_prompt(ids, arguments, cached)
        return None if known is None else ((), arguments)

    def _read_prompt(self, ids: Tensor, arguments: Mapping[str, Any], cached: int) -> None:
        ids = ids.cpu()
        modality = self.adapter.modality(ids)
        if bool((modality == Modality.VIDEO).any()):
            if cached:
                raise UnsupportedCall(
                    f"new video tokens behind {cached} cached ones: pass the whole conversation without "
                    "past_key_values (and without prefill_chunk_size), or detach"
                )
            self._prompt = _Prompt(ids, modality, arguments)
        elif not cached:
            self.last = self.selection = None

    def _leave_core(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        self._prompt, self._inside = None, False
        self._forget_encoders()

    def _forget_encoders(self) -> None:
        """What an encoder said of one prompt must never be read for another."""
        for listener in self._listeners:
            listener.forget()

    # --- language model: cut, or repair the mask ---------------------------------------------------------------------

    def _enter_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        prompt, self._prompt, self._unnoted = self._prompt, None, None
        arguments = by_name(module, args, kwargs)
        if prompt is not None:
            return (), self._compress(prompt, arguments)
        cache, embeds = arguments.get("past_key_values"), arguments.get("inputs_embeds")
        known = None if embeds is None else recall(cache, len(embeds))
        if known is not None:
            return (), repaired(known, arguments)
        self._check_way(embeds, cached_length(cache))
        return None

    def _leave_language_model(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG002
        fresh, self._unnoted = self._unnoted, None
        cache = kwargs.get("past_key_values")
        cache = getattr(output, "past_key_values", None) if cache is None else cache
        if fresh is not None and cache is not None:
            note(cache, fresh)

    def _check_way(self, embeds: Tensor | None, cached: int) -> None:
        """A prompt must come through ``core``, where its ids are seen: only they tell whether it has video."""
        if self._inside or cached or embeds is None or embeds.shape[1] == 1:
            return
        raise UnsupportedCall(
            "the language model was called past the hooks of the model around it: call the model itself, "
            "attach to the outermost wrapper, or detach"
        )

    def _compress(self, prompt: _Prompt, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the language model for the cut prompt."""
        embeds: Tensor = arguments["inputs_embeds"]
        rows, length = embeds.shape[:2]
        real = real_tokens(arguments.get("attention_mask"), rows, length)
        handed = positions_handed(arguments.get("position_ids"), rows, length)
        rotary = self._rotary(prompt, real, handed)
        stream = self._stream(prompt, embeds, rotary)
        selection = self.compressor(stream)
        keep = _checked(selection, stream).view(rows, length)
        scores = None if selection.scores is None else selection.scores.detach().float().cpu().view(rows, length)
        self.last = Compression(stream.modality.view(rows, length), keep, scores)
        self.selection = selection if self.compressor.training and torch.is_grad_enabled() else None
        if bool(keep.all()):
            return faded(_nothing_dropped(arguments, selection), selection, real, None)
        self.cut = Cut.plan(keep, real)
        media = (stream.clip >= 0).view(rows, length)
        shorter, self._unnoted = shortened(arguments, self.cut, selection, handed, media)
        return faded(shorter, selection, real, self.cut)

    def _rotary(self, prompt: _Prompt, real: Tensor, handed: Tensor | None) -> Tensor:
        """[3, B, S]: the ids that tell frames apart; asked of the host's own rule if the caller handed plain ones."""
        if handed is not None and handed.shape[0] >= 3:
            video = handed[-3:, prompt.modality == Modality.VIDEO]
            if video.shape[1] == 1 or bool((video != video[:1]).any()):
                return handed[-3:]
        return self.adapter.rotary(prompt.ids, real, prompt.arguments).cpu()

    def _stream(self, prompt: _Prompt, embeds: Tensor, rotary: Tensor) -> TokenStream:
        rows, length = embeds.shape[:2]
        return build_stream(
            embeds=embeds.flatten(0, 1),
            modality=prompt.modality.flatten(),
            position=rotary.flatten(1),
            sample=torch.arange(rows).repeat_interleave(length),
            seconds_per_position=self.adapter.seconds_per_position,
            extras={
                name: value
                for listener in self._listeners
                for name, value in listener.extras(prompt.modality, prompt.arguments, embeds.device).items()
            },
        )

    def _has_video(self, ids: Tensor) -> bool:
        return bool((self.adapter.modality(ids.cpu()) == Modality.VIDEO).any())


def _checked(selection: Selection, stream: TokenStream) -> Tensor:
    """``keep`` on the CPU. Raises `CompressorError` if the method broke its promise."""
    keep = selection.keep
    if keep.shape != (len(stream),) or keep.dtype != torch.bool:
        raise CompressorError(
            f"keep must be bool [{len(stream)}], got {keep.dtype} {list(keep.shape)}: fix the compressor"
        )
    keep = keep.cpu()
    if not bool(keep[stream.chunk < 0].all()):
        raise CompressorError("the compressor dropped tokens outside chunks (text, images, plain audio): keep them")
    if selection.embeds is not None and len(selection.embeds) != int(keep.sum()):
        raise CompressorError(
            f"{len(selection.embeds)} merged embeddings for {int(keep.sum())} kept tokens: give one each"
        )
    return keep


def _nothing_dropped(arguments: dict[str, Any], selection: Selection) -> dict[str, Any]:
    """The host's own arguments, bit for bit, unless the method merged or is being trained."""
    embeds: Tensor = arguments["inputs_embeds"]
    if selection.embeds is not None:
        embeds = selection.embeds.to(embeds.dtype).view_as(embeds)
    if selection.gate is not None:
        embeds = embeds * selection.gate.to(embeds.dtype).view(*embeds.shape[:2], 1)
    return {**arguments, "inputs_embeds": embeds}
