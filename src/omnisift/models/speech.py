"""Speech of the full Omni models after a compressed prompt.

``generate`` of a full model reads two hidden states of the Thinker for every token of the prompt, makes embeddings of
the talker's prompt from them, and passes these with the token ids, a mask and positions of the same length. So the two
hidden states are returned at full length, with zeros at dropped tokens, and the talker's language model gets a prompt
without these tokens. Between the two the host works with full lengths, positions included.

The talker's prompt is not that of the Thinker: Qwen2.5-Omni appends two tokens, Qwen3-Omni leaves out all turns but the
user's and appends the answer. Video and audio tokens have the same order in both, by which they are found again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall
from omnisift.models.adapter import Adapter, HasCut
from omnisift.models.cached_prompt import (
    CachedPrompt,
    cached_length,
    clear_prompt,
    find_cache,
    store_prompt,
    stored_prompt,
)
from omnisift.models.host_arguments import (
    bind_arguments,
    cut_arguments,
    cut_mask,
    decode_arguments,
    read_mask,
    read_positions,
    rotary_rows,
)
from omnisift.models.own_hooks import OwnHook
from omnisift.models.prompt_cut import PromptCut
from omnisift.tokens import Modality, Selection

_NO_STATES = (
    "the thinker read the compressed prompt without a cache, so its states can't be spoken: leave out "
    "thinker_use_cache=False, or pass return_audio=False"
)
_OTHER_MEDIA = (
    "the talker's prompt has other video or audio than the compressed one: put media into turns of the user, or pass "
    "return_audio=False"
)


class TalkerHooks:
    """Applies the Thinker's latest cut to the talker's prompt."""

    def __init__(
        self, attachment: HasCut, adapter: Adapter, talker: nn.Module, ids_argument: str, layers: tuple[int, int]
    ) -> None:
        """Prepare without hooking anything.

        Args:
            attachment: of the Thinker.
            adapter: of the family.
            talker: the speech model, whose language model is ``talker.model``.
            ids_argument: its argument with the token ids of its prompt.
            layers: indices of the Thinker's hidden states that ``generate`` reads.
        """
        self._attachment = attachment
        self._adapter = adapter
        self._talker: Any = talker
        self._ids_argument = ids_argument
        self._layers = layers
        # State between the hooks: the cut whose hidden states were restored; of each of its rows, the ids of video and
        # audio tokens and which of them are kept; and the ids of the talker's prompt.
        self._cut: PromptCut | None = None
        self._media: list[tuple[Tensor, Tensor]] = []
        # Of the dropped tokens of lines of text: how many media tokens are before each, its distance, and its id.
        self._lines: list[tuple[Tensor, Tensor, Tensor]] = []
        self._ids: Tensor | None = None
        self._unstored: CachedPrompt | None = None

    def register(self) -> list[OwnHook]:
        """Hook the Thinker, the talker and the talker's language model."""
        language_model = self._talker.model
        return [
            OwnHook.after(self._adapter.parts.head, self._leave_thinker, with_kwargs=True),
            OwnHook.before(self._talker, self._enter_talker),
            OwnHook.before(language_model, self._enter_language_model),
            OwnHook.after(language_model, self._leave_language_model, with_kwargs=True),
        ]

    def _leave_thinker(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Restore the length of the hidden states that ``generate`` reads, and note what was kept."""
        arguments = bind_arguments(module, args, kwargs)
        cut, cache = self._attachment.cut, find_cache(arguments)
        hidden_states = getattr(output, "hidden_states", None)
        # A plain forward passes no cache, and its hidden states keep the cut length.
        if cut is None or cache is None or hidden_states is None or hidden_states[0].shape[:2] != cut.source.shape:
            return None
        if cached_length(cache) != cut.width:
            return None  # a later step
        input_ids = arguments["input_ids"].cpu()
        media = self._is_media(input_ids)
        self._cut = cut
        self._media = [(ids[here], kept[here]) for ids, kept, here in zip(input_ids, cut.kept, media, strict=True)]
        dropped = ~media & ~cut.kept & cut.full_mask
        self._lines = [_behind_media(*row) for row in zip(input_ids, media, dropped, strict=True)]
        read = {layer % len(hidden_states) for layer in self._layers}
        output["hidden_states"] = tuple(
            cut.restore_length(states) if layer in read else states for layer, states in enumerate(hidden_states)
        )
        return output

    def _is_media(self, ids: Tensor) -> Tensor:
        return self._adapter.modality(ids) != int(Modality.TEXT)

    def _enter_talker(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._ids = bind_arguments(module, args, kwargs).get(self._ids_argument)

    def _enter_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._unstored = None
        arguments = bind_arguments(module, args, kwargs)
        cache = find_cache(arguments)
        inputs_embeds: Any = arguments.get("inputs_embeds")
        cached = cached_length(cache)
        # A later step.
        cached_prompt = stored_prompt(cache, len(inputs_embeds)) if cached and inputs_embeds is not None else None
        if cached_prompt is not None:
            return (), _continue(cached_prompt, arguments, cached)
        if cached:
            return None
        # A new prompt.
        clear_prompt(cache)
        if self._attachment.cut is None or inputs_embeds is None:
            return None
        return (), self._cut_prompt(arguments, inputs_embeds, self._keep(self._ids, inputs_embeds))

    def _cut_prompt(self, arguments: dict[str, Any], inputs_embeds: Tensor, keep: Tensor) -> dict[str, Any]:
        """Arguments of the talker's language model for the cut prompt."""
        rows, length = keep.shape
        cut = PromptCut.plan(keep, read_mask(arguments.get("attention_mask"), rows, length))
        position_ids = rotary_rows(read_positions(arguments.get("position_ids"), rows, length), rows, length)
        # The talker's cache is never cropped, so no token needs to count as text.
        in_clip = torch.ones_like(cut.kept)
        self._unstored = CachedPrompt.of(cut, position_ids[-3:], in_clip, inputs_embeds.device)
        attention_mask = cut_mask(cut, arguments.get("attention_mask"), inputs_embeds.device)
        return cut_arguments(arguments, cut, Selection(cut.kept.flatten()), position_ids, attention_mask, {})

    def _keep(self, ids: Tensor | None, inputs_embeds: Tensor) -> Tensor:
        """[B, L] bool on the CPU: which tokens of the talker's prompt the Thinker kept.

        Raises:
            UnsupportedCall: the prompt is not made of the Thinker's hidden states, or of some of its clips only.
        """
        if self._cut is not self._attachment.cut:
            raise UnsupportedCall(_NO_STATES)
        times, rest = divmod(len(inputs_embeds), len(self._media))  # beams repeat each row
        if ids is None or ids.shape != inputs_embeds.shape[:2] or rest:
            raise UnsupportedCall(_OTHER_MEDIA)
        ids = ids.cpu()
        keep = torch.ones_like(ids, dtype=torch.bool)
        for row in range(len(ids)):
            media_ids, kept = self._media[row // times]
            # The n-th video or audio token of the talker's row is the n-th of the Thinker's.
            columns = self._is_media(ids[row]).nonzero()[:, 0]
            if not torch.equal(ids[row, columns], media_ids):
                raise UnsupportedCall(_OTHER_MEDIA)
            keep[row, columns] = kept
            # A line is text behind its clip, as far behind the same media token.
            number, distance, line_ids = self._lines[row // times]
            places = columns[number - 1] + distance
            if len(places) and (int(places[-1]) >= ids.shape[1] or not torch.equal(ids[row, places], line_ids)):
                raise UnsupportedCall(_OTHER_MEDIA)
            keep[row, places] = False
        return keep

    def _leave_language_model(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG002
        unstored, self._unstored = self._unstored, None
        store_prompt(unstored, kwargs, output)


def _behind_media(ids: Tensor, media: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where ``tokens`` [S] bool of a row are: media tokens before each, its distance from the last of them, its id."""
    places = tokens.nonzero()[:, 0]
    number = media.cumsum(0)[places]
    return number, places - media.nonzero()[:, 0][number - 1], ids[places]


def _continue(prompt: CachedPrompt, arguments: dict[str, Any], cached: int) -> dict[str, Any]:
    """Arguments of the talker's language model for tokens after a cut prompt."""
    position_ids = arguments.get("position_ids")
    # Four rows count on from the full prompt; others from the cache, which is shorter than the prompt was.
    if not isinstance(position_ids, Tensor) or position_ids.ndim != 3 or len(position_ids) != 4:
        new = arguments["inputs_embeds"].shape[1]
        arguments = {**arguments, "position_ids": prompt.position_ids(cached, new)}
    return decode_arguments(prompt, arguments)
