"""Encode a part of a clip by the host's own code, up to its language model, which does not run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from omnisift.models.adapter import Adapter
from omnisift.models.host_arguments import bind_arguments
from omnisift.models.own_hooks import OwnHook
from omnisift.models.side_inputs import Side
from omnisift.tokens import Modality

FEATURES, MASK = "input_features", "feature_attention_mask"
"""Arguments of `Parts.core` for audio."""
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


def encode_audio(
    adapter: Adapter, mel: Tensor, inputs: Callable[[dict[str, Tensor]], dict[str, Any]], *, is_first: bool
) -> MediaEmbeds:
    """Run the audio encoder on a part of a waveform, as if it encoded the whole.

    Args:
        adapter: as in `encode_media`.
        mel: [M, F]: the spectrogram of whole spans of the encoder (`Adapter.audio_window`), or of the rest.
        inputs: brings inputs to the device.
        is_first: whether no other part is before it.
    """
    frames, chunk = mel.shape[1], adapter.audio_chunk
    count = adapter.audio_tokens(frames)
    if is_first or chunk is None or frames >= chunk:
        mask = torch.ones(1, frames, dtype=torch.int64)
        return encode_media(adapter, Modality.AUDIO, count, inputs({FEATURES: mel.unsqueeze(0), MASK: mask}))
    # A short rest is padded as behind other chunks if another waveform has one.
    both, mask = mel.new_zeros(2, len(mel), chunk), torch.ones(2, chunk, dtype=torch.int64)
    both[1, :, :frames], mask[1, frames:] = mel, 0
    before = adapter.audio_tokens(chunk)
    made = encode_media(adapter, Modality.AUDIO, before + count, inputs({FEATURES: both, MASK: mask}))
    return made.rows(torch.arange(before, before + count))


def _stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    raise _Arrived(bind_arguments(module, args, kwargs))
