"""One sample as the inputs of a thinker, with labels on what the assistant says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.pipeline.prompt import media_arguments
from omnisift.training.data.samples import Sample, Turn

IGNORED = -100


def encode_sample(processor: Any, sample: Sample, media: Media | None, system: str | None = None) -> dict[str, Any]:
    """The processor's tensors for one row, and ``labels`` [1, S] int64: -100 except where the assistant speaks.

    Each answer is learned with the token that ends its turn. The clip stands before the first turn of the user.
    ``system`` is put in front of conversations that have no system turn; None adds none.

    Raises:
        UsageError: a text holds one of the model's own tokens, or an answer is empty.
    """
    turns = _checked(processor, sample)
    if system is not None and turns[0].role != "system":
        turns = (Turn("system", system), *turns)
    whole = _written(processor, turns, media)
    arguments = {} if media is None else media_arguments(processor, media)
    inputs: dict[str, Any] = dict(processor(text=[whole], return_tensors="pt", **arguments))
    inputs["use_audio_in_video"] = media is not None and media.has_video and media.has_audio
    inputs["labels"] = _labels(processor, turns, media, whole, inputs["input_ids"])
    return inputs


def _checked(processor: Any, sample: Sample) -> tuple[Turn, ...]:
    """Turns with their texts stripped. A placeholder in a text would be taken for a clip that is not there."""
    for turn in sample.turns:
        for token in processor.tokenizer.all_special_tokens:
            if token in turn.text:
                raise UsageError(f"{sample.id}: the text holds {token!r}, which the model reads as its own token")
        if turn.role == "assistant" and not turn.text.strip():
            raise UsageError(f"{sample.id}: an empty answer, from which nothing can be learned")
    return tuple(Turn(turn.role, turn.text.strip()) for turn in sample.turns)


def _written(processor: Any, turns: tuple[Turn, ...], media: Media | None, ask: bool = False) -> str:
    """The chat template's text; with ``ask`` up to where the assistant begins to speak."""
    conversation = [{"role": turn.role, "content": [{"type": "text", "text": turn.text}]} for turn in turns]
    if media is not None:
        kind = "video" if media.has_video else "audio"
        first = next((part for part in conversation if part["role"] == "user"), None)
        if first is not None:
            first["content"] = [{"type": kind, kind: "-"}, *first["content"]]
    text: str = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=ask)
    return text


def _labels(processor: Any, turns: tuple[Turn, ...], media: Media | None, whole: str, ids: Tensor) -> Tensor:
    """[1, S]. Placeholders of the clip are expanded near the start, so places are counted from the end."""
    labels, length = torch.full_like(ids, IGNORED), ids.shape[1]
    for number, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        before = _written(processor, turns[:number], media, ask=True)
        through = _written(processor, turns[: number + 1], media)
        if not (whole.startswith(before) and whole.startswith(through)):
            raise UsageError(
                "this chat template writes a turn differently when others follow it; it can't be trained on"
            )
        begin, end = (length - _count(processor, whole[len(part) :]) for part in (before, through))
        labels[0, begin:end] = ids[0, begin:end]
        _unlabel_tail(processor, labels[0], begin, end)
    return labels


def _unlabel_tail(processor: Any, labels: Tensor, begin: int, end: int) -> None:
    """What the template writes behind the end of a turn (a line break) is nothing to learn."""
    ends = set(processor.tokenizer.convert_tokens_to_ids(["<|im_end|>"])) | {processor.tokenizer.eos_token_id}
    last = [place for place in range(begin, end) if int(labels[place]) in ends]
    if last:
        labels[last[-1] + 1 : end] = IGNORED


def _count(processor: Any, text: str) -> int:
    return len(processor.tokenizer(text, add_special_tokens=False).input_ids) if text else 0
