"""Forward hooks that cut each prompt between a host's encoders and its language model.

Order of events in one call with video:

    head             removes the labels (they have the full length), and at the end computes the loss on cut logits
      core           reads input_ids and grids on entry: which tokens are video and audio, of which clip, and when
        encoders         their attention is recorded, if the compressor needs it
        language model   builds the stream, calls the compressor, cuts; then stores the state of the cut on the cache

In later steps the hook of the language model replaces the host's mask, which still has the full length. One prompt
costs transfers to the CPU before the encoders (ids, mask, grids, seconds), three more before the language model
(positions, decision, scores), and the input sizes of each encoder with a probe; a decoding step costs none.

Wrappers such as PEFT's call ``forward`` of the module they wrap, which skips its hooks. So the module that the caller
passed gets the outer hooks too, and a prompt that arrives by neither route is refused rather than read uncompressed.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from omnisift.chunks import has_clips
from omnisift.compressors.base import Compressor
from omnisift.errors import ModelError, UnsupportedCall
from omnisift.models.adapter import Adapter, Prompt
from omnisift.models.cached_prompt import (
    CachedPrompt,
    cached_length,
    clear_prompt,
    find_cache,
    store_prompt,
    stored_prompt,
)
from omnisift.models.compression import Compression
from omnisift.models.head_loss import HeldBack, uncuttable, wants_router_loss
from omnisift.models.host_arguments import (
    bind_arguments,
    cut_arguments,
    decode_arguments,
    read_mask,
    read_positions,
    resume_arguments,
    rotary_rows,
    with_attention_bias,
)
from omnisift.models.layout import Layout, PromptLines, rows_of_lines, with_lines
from omnisift.models.line_placement import place_lines
from omnisift.models.own_hooks import OwnHook
from omnisift.models.prompt_cut import PromptCut, check_selection
from omnisift.models.side_inputs import gate_side_inputs
from omnisift.tokens import Selection

_ATTACHED: WeakKeyDictionary[nn.Module, tuple[threading.Thread, ref[Attachment]]] = WeakKeyDictionary()
"""Language models that an attachment hooks, and who attached. Nothing is stored on the model, nor is it kept alive."""
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_TABLES = threading.Lock()
"""Held while one of these tables is read and changed."""


def is_attached(language_model: nn.Module) -> bool:
    """Whether an attachment compresses the prompts of this language model (`Parts.language_model`)."""
    return language_model in _ATTACHED


def attachment_of(language_model: nn.Module) -> Attachment | None:
    """The attachment that compresses the prompts of this language model; None without one."""
    _, attachment = _ATTACHED.get(language_model, (None, None))
    return None if attachment is None else attachment()


def check_unattached(language_model: nn.Module, name: str) -> None:
    """Raise `ModelError` if the model called ``name`` has an attachment."""
    thread, _ = _ATTACHED.get(language_model, (None, None))
    if thread is threading.current_thread():
        raise ModelError(f"{name} already has a compressor: call detach() on the first attachment")
    if thread is not None:
        raise ModelError(
            f"{name} already has a compressor, attached in thread {thread.name!r}: attach in one thread at a time, or "
            "ask through a Pipeline, where threads wait for each other"
        )


def model_lock(model: nn.Module) -> threading.RLock:
    """Return the lock of a model: one thread at a time may prepare inputs for it and generate."""
    with _TABLES:
        return _LOCKS.setdefault(model, threading.RLock())


class Attachment:
    """A compressor attached to a model by `attach`. As a context manager it detaches at the end of the block.

    While it is attached, logits, hidden states and attentions of a prompt with video have the length of the cut prompt.
    Where the budget compresses audio outside a video, a prompt with audio counts as one with video.
    """

    adapter: Adapter
    """The adapter of the model."""

    compressor: Compressor
    """The attached compressor."""

    cut: PromptCut | None
    """The latest cut, for adapters with more than one language model; None if nothing was dropped."""

    frame_seconds: Sequence[float] | None
    """Seconds of a frame of the token grid, one value for each video of the next prompt, for hosts that are not told
    them (docs/models.md). Set it before the call; None counts a frame as a second, and lets the frames of Gemma 4 share
    the time of their audio."""

    lines: Sequence[PromptLines | None] | None
    """Lines of text with times in the next prompt, one entry for each row; None without any. Set it before the call."""

    last: Compression | None
    """What was kept of the latest prompt with video; None before the first, and after a prompt without video."""

    is_paused: bool
    """While it is true, prompts pass as without a compressor, and `last`, `cut` and `selection` are None."""

    position_ids: Tensor | None
    """[R, B, S] on the CPU with R = 1, 3 or 4: positions that the host passed to its language model for the latest
    prompt with video; None if it passed none."""

    selection: Selection | None
    """The compressor's decision on the latest prompt in training, with its gradients; None otherwise."""

    def __init__(self, adapter: Adapter, compressor: Compressor, model: nn.Module) -> None:
        """Register the hooks.

        Args:
            adapter: of the host.
            compressor: on the device of the host's language model.
            model: the module that the caller calls: the host or a wrapper of it.

        Raises:
            ModelError: the model has an attachment.
        """
        self.adapter = adapter
        self.compressor = compressor
        self.cut = None
        self.frame_seconds = None
        self.is_paused = False
        self.lines = None
        self.last = None
        self.position_ids = None
        self.selection = None
        self._model_name = type(model).__name__
        language_model = adapter.parts.language_model
        with _TABLES:
            check_unattached(language_model, self._model_name)
            _ATTACHED[language_model] = threading.current_thread(), ref(self)
        # State between the hooks of one call.
        self._is_used = False
        self._prompt: tuple[Prompt, Layout] | None = None
        self._in_core = False
        self._unstored: CachedPrompt | None = None
        self._held: HeldBack | None = None
        self._probes = adapter.attention_probes(compressor.needs)
        # Without a probe, an extra is of tokens that no prompt of the host has.
        self._absent = compressor.needs.difference(*(probe.names for probe in self._probes))
        probe_hooks = [handle for probe in self._probes for handle in probe.hooks()]
        self._handles = [*self._register_hooks(model), *probe_hooks, *adapter.extra_hooks(self)]

    def __repr__(self) -> str:
        where = "attached to" if self._handles else "detached from"
        return f"Attachment({self.compressor.label}, {where} {self._model_name}, last={self.last!r})"

    def _register_hooks(self, model: nn.Module) -> list[OwnHook]:
        parts = self.adapter.parts
        heads = {parts.head, model}
        cores = heads if parts.core is parts.head else {parts.core}
        language_model = parts.language_model
        return [
            *(OwnHook.before(head, self._enter_head) for head in heads),
            *(OwnHook.before(core, self._enter_core) for core in cores),
            OwnHook.before(language_model, self._enter_language_model),
            OwnHook.after(language_model, self._leave_language_model, with_kwargs=True),
            *(OwnHook.after(core, self._leave_core, always_call=True) for core in cores),
            *(OwnHook.after(head, self._leave_head, with_kwargs=True, always_call=True) for head in heads),
        ]

    def detach(self) -> None:
        """Remove all hooks, which leaves the model as it was before `attach`. A second call does nothing."""
        if self._handles:
            _ATTACHED.pop(self.adapter.parts.language_model, None)
            self._warn_of_compiled_code()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._clear_probes()

    def _warn_of_compiled_code(self) -> None:
        """Compiled code calls only the hooks that were there when it was compiled."""
        dynamo: Any = sys.modules.get("torch._dynamo.utils")
        if not self._is_used and dynamo is not None and dynamo.counters["frames"]["total"]:
            warnings.warn(
                f"{self._model_name} was not called while the compressor was attached, or its code was compiled "
                "before: compile it after attach, or call torch.compiler.reset() first",
                stacklevel=3,
            )

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_used |= error is not None
        self.detach()

    # --- head: labels and loss ---------------------------------------------------------------------------------------

    def _enter_head(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hold back what the host would compare with logits of another length, if the prompt will be cut."""
        if self.is_paused:
            return None
        arguments = bind_arguments(self.adapter.parts.head, args, kwargs)
        labels, input_ids = arguments.get("labels"), arguments.get("input_ids")
        refused, routes = uncuttable(arguments), wants_router_loss(self.adapter.config, arguments)
        if input_ids is None or (labels is None and refused is None and not routes):
            return None
        if not self._is_compressed(input_ids, arguments):
            return None
        if refused is not None:
            raise UnsupportedCall(refused)
        self._held = HeldBack(module, arguments.pop("labels", None), routes, arguments.get("attention_mask"))
        if routes:
            arguments["output_router_logits"] = False
        return (), arguments

    def _leave_head(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ARG002
        """Compute the losses of the cut prompt by the host's own functions."""
        held = self._held
        if held is None or (module is not held.module and output is not None):
            return None  # an outer module has them
        self._held = None
        return None if output is None else held.complete(self.adapter.parts.head, kwargs, output, self.cut)

    # --- core: which tokens are video and audio ----------------------------------------------------------------------

    def _enter_core(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002
        """Read the prompt, and correct the positions of a call that continues a cut one."""
        self._prompt, self._in_core = None, True
        self._clear_probes()
        if self.is_paused:
            self.cut = self.last = self.selection = None
            return None
        arguments = bind_arguments(self.adapter.parts.core, args, kwargs)
        cache, input_ids = find_cache(arguments), arguments.get("input_ids")
        cached = cached_length(cache)
        # An empty cache starts a new prompt.
        if cached == 0:
            clear_prompt(cache)
            self.cut = None
        if input_ids is None:
            raise UnsupportedCall(
                "inputs_embeds without input_ids: can't tell which tokens are video. "
                "Pass input_ids as well (the model then still uses inputs_embeds), or detach"
            )
        # After a cut prompt, positions continue from the full length.
        cached_prompt = stored_prompt(cache, len(input_ids))
        if cached_prompt is not None:
            arguments = resume_arguments(cached_prompt, arguments, cached)
            input_ids = arguments["input_ids"]
        # A single new token is text: decoding steps must not wait for the device.
        if cached == 0 or input_ids.shape[1] > 1:
            self._read_prompt(input_ids, arguments, cached)
        routes = self._held is not None and self._held.routes  # which the head was not told
        if cached_prompt is None and not routes:
            return None
        return (), {**arguments, "output_router_logits": True} if routes else arguments

    def _read_prompt(self, input_ids: Tensor, arguments: Mapping[str, Any], cached: int) -> None:
        input_ids = input_ids.cpu()
        modality = self.adapter.modality(input_ids, arguments)
        compress_audio = self.compressor.budget.compress_audio
        if has_clips(modality, compress_audio=compress_audio):
            if cached:
                kind = "video" if has_clips(modality) else "audio"
                raise UnsupportedCall(
                    f"new {kind} tokens after {cached} cached ones: pass the complete conversation "
                    "without a cache (and without prefill_chunk_size), or detach"
                )
            # The mask that the language model gets may be windowed, or see both ways within a frame.
            attention_mask = read_mask(arguments.get("attention_mask"), *input_ids.shape)
            lines = rows_of_lines(self.lines, len(input_ids))
            prompt = Prompt(input_ids, attention_mask, modality, arguments, self.frame_seconds, compress_audio, lines)
            self._prompt = prompt, with_lines(self.adapter.layout(prompt), lines, attention_mask)
        elif not cached:
            self.last = self.selection = None

    def _leave_core(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        self._prompt, self._in_core = None, False
        self._clear_probes()

    def _clear_probes(self) -> None:
        """Drop recorded attention, so that none of one prompt is used for another."""
        for probe in self._probes:
            probe.clear()

    # --- language model: cut the prompt, or correct the mask ---------------------------------------------------------

    def _enter_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Cut a prompt with video; correct mask and positions of a call that continues a cut one."""
        prompt, self._prompt, self._unstored, self._is_used = self._prompt, None, None, True
        if self.is_paused:
            return None
        arguments = bind_arguments(module, args, kwargs)
        # A new prompt with video.
        if prompt is not None:
            return (), self._compress(*prompt, arguments)
        # A call that continues a cut prompt.
        cache, inputs_embeds = find_cache(arguments), arguments.get("inputs_embeds")
        cached_prompt = None if inputs_embeds is None else stored_prompt(cache, len(inputs_embeds))
        if cached_prompt is not None:
            return (), decode_arguments(cached_prompt, arguments)
        # A call that needs no change.
        self._check_route(inputs_embeds, cached_length(cache))
        return None

    def _leave_language_model(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG002
        """Store the state of a cut on the cache, which the host may only create during the call."""
        unstored, self._unstored = self._unstored, None
        store_prompt(unstored, kwargs, output)

    def _check_route(self, inputs_embeds: Tensor | None, cached: int) -> None:
        """Refuse a prompt that skipped ``core``: only its ids tell whether it has video."""
        if self._in_core or cached or inputs_embeds is None or inputs_embeds.shape[1] == 1:
            return
        raise UnsupportedCall(
            "the language model was called without the hooks of the model around it: call the model itself, "
            "attach to the outermost wrapper, or detach"
        )

    def _compress(self, prompt: Prompt, layout: Layout, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the language model for the cut prompt."""
        inputs_embeds: Tensor = arguments["inputs_embeds"]
        rows, length = inputs_embeds.shape[:2]
        stream = layout.stream(inputs_embeds, self._extras(prompt, inputs_embeds.device))
        self.position_ids = read_positions(arguments.get("position_ids"), rows, length)
        # Decide once for the whole batch, and record the decision.
        selection = self.compressor(stream)
        keep = check_selection(selection, stream).view(rows, length)
        scores = None if selection.scores is None else selection.scores.detach().float().cpu().view(rows, length)
        self.last = Compression(stream.modality.view(rows, length), keep, scores)
        self.selection = selection if self.compressor.training and torch.is_grad_enabled() else None
        # Apply it. A prompt that keeps everything passes unchanged, unless lines of text move.
        if _keeps_everything(keep) and not any(prompt.lines):
            return with_attention_bias(
                self._replace_embeds(arguments, selection), selection, prompt.attention_mask, None
            )
        axes = self.adapter.rotary_rows
        position_ids, order, shift = rotary_rows(self.position_ids, rows, length, axes), None, None
        if any(prompt.lines):
            placement = place_lines(stream, prompt, position_ids, self.adapter)
            position_ids, order, shift = placement.position_ids, placement.order, placement.shift
        self.cut = cut = PromptCut.plan(keep, prompt.attention_mask, order)
        in_clip = (stream.clip >= 0).view(rows, length)
        attention_mask = self.adapter.attention_mask(prompt, cut, arguments)
        cut_prompt = cut_arguments(arguments, cut, selection, position_ids, attention_mask, self.adapter.side_inputs)
        self._unstored = CachedPrompt.of(cut, position_ids[-axes:], in_clip, inputs_embeds.device, shift)
        return with_attention_bias(cut_prompt, selection, prompt.attention_mask, cut)

    def _replace_embeds(self, arguments: dict[str, Any], selection: Selection) -> dict[str, Any]:
        """The host's own arguments, bit for bit, unless the method merged or is being trained."""
        inputs_embeds: Tensor = arguments["inputs_embeds"]
        if selection.embeds is not None:
            inputs_embeds = selection.embeds.to(inputs_embeds.dtype).view_as(inputs_embeds)
        if selection.gate is not None:
            inputs_embeds = inputs_embeds * selection.gate.to(inputs_embeds.dtype).view(*inputs_embeds.shape[:2], 1)
        gated = gate_side_inputs(arguments, self.adapter.side_inputs, selection.gate)
        return {**arguments, **gated, "inputs_embeds": inputs_embeds}

    def _extras(self, prompt: Prompt, device: torch.device) -> dict[str, Tensor]:
        """What the compressor needs besides embeddings."""
        extras = {name: torch.zeros(prompt.modality.numel(), device=device) for name in self._absent}
        for probe in self._probes:
            extras |= probe.extras(prompt.modality, prompt.arguments, device)
        return extras

    def _is_compressed(self, input_ids: Tensor, arguments: Mapping[str, Any]) -> bool:
        modality = self.adapter.modality(input_ids.cpu(), arguments)
        return has_clips(modality, compress_audio=self.compressor.budget.compress_audio)


def _keeps_everything(keep: Tensor) -> bool:
    return bool(keep.all())
