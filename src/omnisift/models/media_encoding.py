"""Encode a part of a clip by the host's own code, up to its language model, which does not run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from omnisift.models.adapter import Adapter
from omnisift.models.host_arguments import bind_arguments
from omnisift.models.own_hooks import OwnHook
from omnisift.models.side_inputs import Side
from omnisift.tokens import Modality

_TOKEN = {Modality.VIDEO: "video_token_id", Modality.AUDIO: "audio_token_id"}
_TYPE = {Modality.VIDEO: 2, Modality.AUDIO: 3}
"""Values of ``mm_token_type_ids``."""


@dataclass(frozen=True)
class MediaEmbeds:
    """What the language model reads of N tokens of one modality, on its device."""

    embeds: Tensor
    """[N, D]."""
    marked: dict[str, list[Tensor]] = field(default_factory=dict)
    """Side inputs of `Side.MARKED`: [N, ...] each, one for each layer."""

    def rows(self, index: Tensor) -> MediaEmbeds:
        """Those of the tokens at ``index``: [K] int64 or a slice, on any device."""
        index = index.to(self.embeds.device, non_blocking=True)
        marked = {name: [layer[index] for layer in layers] for name, layers in self.marked.items()}
        return MediaEmbeds(self.embeds[index], marked)


class _Arrived(Exception):
    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


def encode_media(adapter: Adapter, modality: Modality, count: int, inputs: Mapping[str, Any]) -> MediaEmbeds:
    """Run one encoder of a host, and what the host does to its output before the language model.

    Args:
        adapter: of the host, which must carry no attachment.
        modality: VIDEO or AUDIO.
        count: tokens that ``inputs`` stand for.
        inputs: arguments of `Parts.core` for one video or waveform, on its device: pixels and grid, or a spectrogram
            and its mask.

    Returns:
        The embeddings of the tokens, in their order.
    """
    core, language_model = adapter.parts.core, adapter.parts.language_model
    device = language_model.get_input_embeddings().weight.device  # type: ignore[operator]
    ids = torch.full((1, count), int(getattr(adapter.config, _TOKEN[modality])), device=device)
    # With positions the host does not count them, for which it would need the whole prompt.
    arguments = {"input_ids": ids, "position_ids": torch.zeros(3, 1, count, dtype=torch.int64, device=device), **inputs}
    if "mm_token_type_ids" in inspect.signature(type(core).forward).parameters:
        arguments["mm_token_type_ids"] = torch.full_like(ids, _TYPE[modality])
    hook = OwnHook.before(language_model, _stop)
    try:
        core(**arguments)
    except _Arrived as arrived:
        given = arrived.arguments
    finally:
        hook.remove()
    marked = {
        name: list(given[name])
        for name, side in adapter.side_inputs.items()
        if side is Side.MARKED and given.get(name) is not None
    }
    return MediaEmbeds(given["inputs_embeds"][0], marked)


def _stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    raise _Arrived(bind_arguments(module, args, kwargs))
