"""What a model answers about many clips at once, with all tokens or with those that a method kept.

The clips of a batch are cut and read together, each once, with all questions about it packed behind it, where none
sees another. A test proves that answers equal those of ordinary calls with the method attached, one prompt at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from omnisift.compressors import Compressor
from omnisift.evaluation.prompts import padded, tail
from omnisift.models.prompt_cut import PromptCut
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.tokens import Modality, Selection
from omnisift.world.encoded import Encoded


@dataclass(frozen=True)
class Asked:
    """``Q`` questions about each of ``N`` clips, packed one behind the other: ``T`` tokens, padded on the right."""

    ids: Tensor
    """[N, T] int64."""
    segment: Tensor
    """[N, T] int64: number of the question, from 1; 0 on padding."""
    offset: Tensor
    """[N, T] int64: place inside the question."""
    due: Tensor
    """[N, Q] int64: place of each question's last token, behind which the answer comes."""

    @classmethod
    def of(cls, processor: Any, questions: Sequence[Sequence[str]]) -> Asked:
        """``questions`` by clip, the same number for each."""
        rows = [[tail(processor, text) for text in texts] for texts in questions]
        sizes = torch.tensor([[len(ids) for ids in row] for row in rows])
        due = torch.cumsum(sizes, dim=1) - 1
        ids, real = padded([torch.cat(row) for row in rows], processor.tokenizer.pad_token_id, left=False)
        place = torch.arange(ids.shape[1])
        number = torch.searchsorted(due, place.expand(len(ids), -1).contiguous())
        first = torch.cat([torch.zeros_like(due[:, :1]), due + 1], dim=1).gather(1, number)
        return cls(ids, (number + 1) * real, (place - first) * real, due)

    def part(self, first: int, count: int) -> Asked:
        """The questions of some clips."""
        here = slice(first, first + count)
        return Asked(self.ids[here], self.segment[here], self.offset[here], self.due[here])


@dataclass(frozen=True)
class Verdict:
    """What came out for a batch of N clips."""

    words: Tensor
    """[N, Q] int64: the most likely first token of each answer, out of the whole vocabulary."""
    keep: Tensor
    """[N, S] bool: the tokens that stayed."""
    seconds: float
    """Time that the method took for the batch; 0 without one."""


class Judge:
    """A model that answers from merged embeddings: the product's own cut, without running its encoders again."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.parts = Qwen25OmniAdapter(host.thinker).parts

    @torch.inference_mode()
    def __call__(self, clips: Encoded, asked: Asked, compressor: Compressor | None) -> Verdict:
        """Compress, read and answer. The prompt's words are embedded anew: the model may have learned others since."""
        text = clips.modality == Modality.TEXT
        language: Any = self.parts.language_model
        clips = replace(clips, embeds=clips.embeds.clone())
        clips.embeds[:, text] = language.embed_tokens(clips.ids[text])
        stream = clips.stream()
        begin = time.perf_counter()
        selection = None if compressor is None else compressor(stream)
        seconds = 0.0 if compressor is None else time.perf_counter() - begin
        everything = torch.ones(len(clips), clips.embeds.shape[1], dtype=torch.bool)
        keep = everything if selection is None else selection.keep.view_as(everything)
        words = self._answer(clips, asked, keep, selection or Selection(everything.flatten()))
        return Verdict(words, keep, seconds)

    def _answer(self, clips: Encoded, asked: Asked, keep: Tensor, selection: Selection) -> Tensor:
        """[N, Q] int64."""
        language: Any = self.parts.language_model
        head: Any = self.parts.head
        cut = PromptCut.plan(keep, torch.ones_like(keep))
        rotary = clips.position[:, None].expand(-1, len(clips), -1)
        prefix = cut.inputs_embeds(clips.embeds, selection)
        # Behind the clip there is only text, whose three rotary ids count on together from the full length.
        behind = (int(clips.position.max()) + 1 + asked.offset).expand(3, -1, -1)
        hidden = language(
            inputs_embeds=torch.cat([prefix, language.embed_tokens(asked.ids)], dim=1),
            position_ids=torch.cat([cut.position_ids(rotary), behind], dim=2),
            attention_mask={"full_attention": _mask(cut.mask, asked.segment)},
            use_cache=False,
        ).last_hidden_state
        last = hidden.gather(1, (cut.width + asked.due)[..., None].expand(-1, -1, hidden.shape[-1]))
        words: Tensor = head.lm_head(last).argmax(dim=-1)
        return words


def _mask(real: Tensor, segment: Tensor) -> Tensor:
    """[N, 1, P + T, P + T] bool: the clip is causal; a question sees the clip and its own past."""
    clip = torch.cat([real, torch.zeros_like(segment, dtype=torch.bool)], dim=1)
    number = torch.cat([torch.where(real, 0, -1), segment], dim=1)
    seen = (number[:, :, None] == number[:, None, :]) | clip[:, None, :]
    return (seen & torch.ones_like(seen[0]).tril())[:, None]
