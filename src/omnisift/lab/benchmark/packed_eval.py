"""Packed evaluation: answer many questions on many encoded clips in one forward pass per batch.

Each clip is compressed and read once, with all its questions packed after it; no question attends to another. A test
compares the answers with those of ordinary calls, one prompt at a time with the method attached.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omnisift.compressors import Compressor
from omnisift.lab.benchmark.encoded import Encoded
from omnisift.models import adapter_for
from omnisift.models.prompt_cut import PromptCut
from omnisift.models.side_inputs import cut_marked, cut_tokens
from omnisift.tokens import Modality, Selection


@dataclass(frozen=True)
class PackedQuestions:
    """``Q`` questions on each of ``N`` clips, concatenated to ``T`` tokens per clip and padded on the right."""

    ids: Tensor
    """[N, T] int64: token ids."""
    segment: Tensor
    """[N, T] int64: number of the question, from 1; 0 on padding."""
    offset: Tensor
    """[N, T] int64: position inside the question."""
    last: Tensor
    """[N, Q] int64: index of each question's last token, whose logits give the answer."""

    @classmethod
    def of(cls, processor: Any, questions: Sequence[Sequence[str]]) -> PackedQuestions:
        """Tokenize and pack questions.

        Args:
            processor: Processor of the model.
            questions: Questions by clip, the same number for each.
        """
        rows = [[_after_clip(processor, text) for text in texts] for texts in questions]
        sizes = torch.tensor([[len(ids) for ids in row] for row in rows])
        last = torch.cumsum(sizes, dim=1) - 1
        packed = [torch.cat(row) for row in rows]
        ids = pad_sequence(packed, batch_first=True, padding_value=processor.tokenizer.pad_token_id)
        real = pad_sequence([torch.ones_like(row) for row in packed], batch_first=True)
        # Each token belongs to the first question that ends at it or later.
        index = torch.arange(ids.shape[1])
        number = torch.searchsorted(last, index.expand(len(ids), -1).contiguous())
        start = torch.cat([torch.zeros_like(last[:, :1]), last + 1], dim=1).gather(1, number)
        return cls(ids, (number + 1) * real, (index - start) * real, last)

    def part(self, first: int, count: int) -> PackedQuestions:
        """Return the questions of ``count`` clips from clip ``first`` on."""
        rows = slice(first, first + count)
        return PackedQuestions(self.ids[rows], self.segment[rows], self.offset[rows], self.last[rows])


@dataclass(frozen=True)
class PackedAnswers:
    """Answers and kept tokens of a batch of ``N`` clips of ``S`` tokens."""

    words: Tensor
    """[N, Q] int64: most likely first token of each answer, over the whole vocabulary."""
    keep: Tensor
    """[N, S] bool: kept tokens."""
    seconds: float
    """Time of the method for the batch; 0 without one."""


class PackedEvaluator:
    """Answer packed questions from encoded clips, with the library's own prompt cut and without running encoders."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.parts = adapter_for(host.thinker).parts

    @torch.no_grad()  # not inference_mode, under which packed 4-bit and 2-bit weights can't be computed with
    def __call__(
        self,
        clips: Encoded,
        questions: PackedQuestions,
        compressor: Compressor | None,
        offset: Tensor | None = None,
    ) -> PackedAnswers:
        """Compress the clips and answer the questions.

        Args:
            clips: ``N`` encoded clips of one layout.
            questions: Questions on these clips.
            compressor: The method; None keeps all tokens.
            offset: [D]: what is added to the embeddings that the method sees, and taken from those that it returns.
        """
        # Embed the text tokens with this model: it may be fine-tuned, unlike the encoders.
        text = (clips.modality != Modality.VIDEO) & (clips.modality != Modality.AUDIO)
        language: Any = self.parts.language_model
        clips = replace(clips, embeds=clips.embeds.clone())
        clips.embeds[:, text] = language.embed_tokens(clips.ids[text])
        # Select tokens, timing the method alone.
        stream = clips.stream()
        if offset is not None:
            stream = replace(stream, embeds=stream.embeds + offset)
        begin = time.perf_counter()
        selection = None if compressor is None else compressor(stream)
        seconds = 0.0 if compressor is None else time.perf_counter() - begin
        if offset is not None and selection is not None and selection.embeds is not None:
            selection = replace(selection, embeds=selection.embeds - offset)
        everything = torch.ones(len(clips), clips.embeds.shape[1], dtype=torch.bool)
        keep = everything if selection is None else selection.keep.view_as(everything)
        words = self._answer(clips, questions, keep, selection or Selection(everything.flatten()))
        return PackedAnswers(words, keep, seconds)

    def _answer(self, clips: Encoded, questions: PackedQuestions, keep: Tensor, selection: Selection) -> Tensor:
        """Return [N, Q] int64."""
        language: Any = self.parts.language_model
        head: Any = self.parts.head
        # Cut the clips as the hooks of `attach` do.
        cut = PromptCut.plan(keep, torch.ones_like(keep))
        rotary = clips.position[:, None].expand(-1, len(clips), -1)
        prefix = cut.inputs_embeds(clips.embeds, selection)
        # After the clip there is only text: its three rotary ids are equal and continue from the uncut length.
        following = (int(clips.position.max()) + 1 + questions.offset).expand(3, -1, -1)
        hidden = language(
            inputs_embeds=torch.cat([prefix, language.embed_tokens(questions.ids)], dim=1),
            position_ids=torch.cat([cut.position_ids(rotary), following], dim=2),
            attention_mask=_mask(cut.mask, questions.segment),
            use_cache=False,
            **_deepstack(clips, cut, questions.ids.shape[1]),
        ).last_hidden_state
        # The last token of each question predicts the first token of its answer.
        last = hidden.gather(1, (cut.width + questions.last)[..., None].expand(-1, -1, hidden.shape[-1]))
        words: Tensor = head.lm_head(last).argmax(dim=-1)
        return words


def _deepstack(clips: Encoded, cut: PromptCut, following: int) -> dict[str, Any]:
    """Arguments for the features that enter after the first layers, cut with the tokens; ``following`` tokens of text
    have none."""
    if clips.deep is None:
        return {}
    marks = (clips.modality == Modality.VIDEO).expand(len(clips), -1)
    levels = [level.flatten(0, 1) for level in clips.deep.unbind(1)]
    return {
        "visual_pos_masks": F.pad(cut_tokens(cut, marks), (0, following)),
        "deepstack_visual_embeds": cut_marked(cut, marks, levels),
    }


def _mask(real: Tensor, segment: Tensor) -> Tensor:
    """Return [N, 1, P + T, P + T] bool: causal, where a question attends to the clip and to itself alone."""
    clip = torch.cat([real, torch.zeros_like(segment, dtype=torch.bool)], dim=1)
    number = torch.cat([torch.where(real, 0, -1), segment], dim=1)
    visible = (number[:, :, None] == number[:, None, :]) | clip[:, None, :]
    return (visible & torch.ones_like(visible[0]).tril())[:, None]


def _after_clip(processor: Any, text: str) -> Tensor:
    """Return the tokens of the prompt after the clip: the question and the opening of the answer."""
    content = [{"type": "video", "video": "-"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    after = prompt.rpartition(processor.vision_eos_token)[2]
    return torch.tensor(processor.tokenizer(after, add_special_tokens=False)["input_ids"], dtype=torch.int64)
