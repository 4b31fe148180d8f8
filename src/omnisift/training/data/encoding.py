"""Encode a sample as inputs of a thinker, with labels on the assistant's turns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.pipeline.chat_template import render_chat
from omnisift.pipeline.prompt import media_arguments
from omnisift.training.data.samples import Sample, Turn


def encode_sample(processor: Any, sample: Sample, media: Media | None, system: str | None = None) -> dict[str, Any]:
    """Encode one sample as a batch of one row.

    The clip comes before the first user turn. Each answer is learned with the token that ends its turn.

    Args:
        processor: the host's processor.
        sample: the conversation.
        media: the sample's clip; None for text only.
        system: system turn for conversations that have none; None adds none.

    Returns:
        The processor's tensors, ``use_audio_in_video``, and ``labels`` [1, S] int64: -100 except on answers.

    Raises:
        UsageError: a text contains a special token of the model, or an answer is empty.
    """
    turns = _checked(processor, sample)
    if system is not None and turns[0].role != "system":
        turns = (Turn("system", system), *turns)
    text = _chat_text(processor, turns, media)
    arguments = {} if media is None else media_arguments(processor, media)
    inputs: dict[str, Any] = dict(processor(text=[text], return_tensors="pt", **arguments))
    inputs["use_audio_in_video"] = media is not None and media.has_video and media.has_audio
    inputs["labels"] = _labels(processor, turns, media, text, inputs["input_ids"])
    return inputs


def _checked(processor: Any, sample: Sample) -> tuple[Turn, ...]:
    """The turns with stripped texts. A placeholder in a text would be read as a clip that does not exist."""
    for turn in sample.turns:
        for token in processor.tokenizer.all_special_tokens:
            if token in turn.text:
                raise UsageError(f"{sample.id}: the text contains {token!r}, a special token of the model; remove it")
        if turn.role == "assistant" and not turn.text.strip():
            raise UsageError(f"{sample.id}: an empty answer; fill it in or remove the row")
    return tuple(Turn(turn.role, turn.text.strip()) for turn in sample.turns)


def _chat_text(processor: Any, turns: tuple[Turn, ...], media: Media | None, open_answer: bool = False) -> str:
    """The chat template's text; with ``open_answer`` it ends where the next answer begins."""
    conversation = [{"role": turn.role, "content": [{"type": "text", "text": turn.text}]} for turn in turns]
    if media is not None:
        kind = "video" if media.has_video else "audio"
        first = next((part for part in conversation if part["role"] == "user"), None)
        if first is not None:
            first["content"] = [{"type": kind, kind: "-"}, *first["content"]]
    return render_chat(processor, conversation, add_generation_prompt=open_answer)


def _labels(processor: Any, turns: tuple[Turn, ...], media: Media | None, text: str, input_ids: Tensor) -> Tensor:
    """[1, S] int64. The processor expands the clip's placeholders near the start, so count from the end."""
    labels, length = torch.full_like(input_ids, IGNORE_INDEX), input_ids.shape[1]
    for number, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        # The answer is the text between the conversation before it and the conversation up to its end.
        before = _chat_text(processor, turns[:number], media, open_answer=True)
        through = _chat_text(processor, turns[: number + 1], media)
        if not (text.startswith(before) and text.startswith(through)):
            raise UsageError(
                "this model's chat template changes earlier turns when others follow; it can't be used for training"
            )
        begin, end = (length - _count(processor, text[len(part) :]) for part in (before, through))
        labels[0, begin:end] = input_ids[0, begin:end]
        _ignore_after_end(processor, labels[0], begin, end)
    return labels


def _ignore_after_end(processor: Any, labels: Tensor, begin: int, end: int) -> None:
    """Ignore what the template writes after the end-of-turn token, such as a line break."""
    end_tokens = set(processor.tokenizer.convert_tokens_to_ids(["<|im_end|>"])) | {processor.tokenizer.eos_token_id}
    ends = [index for index in range(begin, end) if int(labels[index]) in end_tokens]
    if ends:
        labels[ends[-1] + 1 : end] = IGNORE_INDEX


def _count(processor: Any, text: str) -> int:
    return len(processor.tokenizer(text, add_special_tokens=False).input_ids) if text else 0
