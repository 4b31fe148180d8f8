"""Encode a sample as inputs of a thinker, with labels on the assistant's turns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.pipeline.chat_template import render_chat
from omnisift.pipeline.preparation import normalize_patches
from omnisift.pipeline.prompt import placeholder, run_processor
from omnisift.training.data.samples import Sample, check_sample, clip_place
from omnisift.utils.special_tokens import SpecialTokens

THOUGHTS = "<think>", "</think>"
NO_THOUGHTS = "<think>\n\n</think>\n\n"
"""The block that templates write before an answer without thinking."""


def encode_sample(processor: Any, sample: Sample, media: Media | None, system: str | None = None) -> dict[str, Any]:
    """Encode one sample as a batch of one row.

    The clip stands where the sample says. Each answer to learn is learned with the token that ends its turn.

    Args:
        processor: the host's processor.
        sample: the conversation.
        media: the sample's clip; None for text only.
        system: system turn for conversations that have none; None adds none.

    Returns:
        The processor's tensors, ``use_audio_in_video`` for models that take audio, and ``labels`` [1, S] int64: -100
        except on answers.

    Raises:
        UsageError: a text contains a special token of the model, or a turn is empty.
    """
    check_sample(sample, SpecialTokens.of(processor.tokenizer))
    conversation = _conversation(sample, media)
    learned = [turn.role == "assistant" and turn.learned for turn in sample.turns]
    if system is not None and sample.turns[0].role != "system":
        conversation = [_message("system", system), *conversation]
        learned = [False, *learned]
    text = render_chat(processor, conversation, add_generation_prompt=False)
    inputs = normalize_patches(processor, run_processor(processor, text, media))
    clip = -1 if media is None else text.find(placeholder(processor, media))
    inputs["labels"] = _labels(processor, conversation, learned, text, clip, inputs["input_ids"])
    return inputs


def check_answers_follow(processor: Any, name: str) -> None:
    """Check that answers stand directly behind the prompt that asks for them, as the rows of training data have them.

    Args:
        processor: its chat template is checked.
        name: of the model, for messages.

    Raises:
        UsageError: the template writes a block of thinking between them, even if it is told not to.
    """
    if _adds_thoughts(processor):
        raise UsageError(
            f"the chat template of {name} lets every answer begin with {THOUGHTS[0]}, and rows hold answers alone; "
            "train the edition of the model that does not think"
        )


def _adds_thoughts(processor: Any) -> bool:
    """Whether a part of a block of thinking stands between the prompt that asks for an answer and the answer."""
    turns = [_message("user", "x"), _message("assistant", "y")]
    prompt = render_chat(processor, turns[:1], add_generation_prompt=True)
    text = render_chat(processor, turns, add_generation_prompt=False)
    between = text.removeprefix(prompt).rpartition("y")[0]
    return any(mark in between for mark in THOUGHTS)


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _conversation(sample: Sample, media: Media | None) -> list[dict[str, Any]]:
    """The turns as the chat template takes them, without blanks around their texts, and the clip in its place."""
    conversation = [_message(turn.role, turn.text.strip()) for turn in sample.turns]
    number, character = clip_place(sample)
    if media is None or number < 0:
        return conversation
    kind, text = "video" if media.has_video else "audio", sample.turns[number].text
    before, after = text[:character].lstrip(), text[character:].rstrip()
    content = [{"type": kind, kind: "-"}, {"type": "text", "text": after if before else after.lstrip()}]
    conversation[number]["content"] = [*([{"type": "text", "text": before}] if before else []), *content]
    return conversation


def _labels(
    processor: Any, conversation: list[dict[str, Any]], learned: list[bool], text: str, clip: int, input_ids: Tensor
) -> Tensor:
    """[1, S] int64. The processor expands the placeholder at ``clip``; columns are counted from the side without it."""
    labels, length = torch.full_like(input_ids, IGNORE_INDEX), input_ids.shape[1]
    for number, is_learned in enumerate(learned):
        if not is_learned:
            continue
        # The answer is the text between the conversation before it and the conversation up to its end.
        before = render_chat(processor, conversation[:number], add_generation_prompt=True)
        through = render_chat(processor, conversation[: number + 1], add_generation_prompt=False)
        if before.endswith(NO_THOUGHTS):
            if any(mark in conversation[number]["content"][0]["text"] for mark in THOUGHTS):
                raise UsageError(
                    f"an answer with {' ... '.join(THOUGHTS)}, but this model is asked for answers alone; leave it out"
                )
            if not text.startswith(before):
                # Answers before the last one, in some templates all of them, have no block of thinking.
                header = before.removesuffix(NO_THOUGHTS)
                before, through = header, header + through.removeprefix(before).removeprefix(header)
        if not (text.startswith(before) and text.startswith(through)):
            raise UsageError(
                "this model's chat template changes earlier turns when others follow; it can't be used for training"
            )
        begin, end = (
            _count(processor, part) if len(part) <= clip else length - _count(processor, text[len(part) :])
            for part in (before, through)
        )
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
