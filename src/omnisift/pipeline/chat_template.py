"""Render the chat template of a checkpoint, which may come from anyone, within a limit of CPU time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from omnisift.errors import CheckpointError, UsageError
from omnisift.utils.checkpoint_files import checkpoint_errors
from omnisift.utils.special_tokens import SpecialTokens

MAX_SECONDS = 1.0
"""CPU time of one rendering. The released template takes a millisecond for a conversation of a hundred turns."""
_ADVICE = "correct chat_template.jinja, or download it again"


class _TooSlowError(Exception):
    pass


def render_chat(
    processor: Any, conversation: Sequence[dict[str, Any]], *, add_generation_prompt: bool, source: str = ""
) -> str:
    """The conversation as the text of a prompt, by the processor's chat template.

    A template that has the choice is told that the model answers without thinking first.

    Args:
        processor: the processor of a supported model.
        conversation: turns as ``apply_chat_template`` takes them.
        add_generation_prompt: whether the text ends where an answer begins.
        source: the checkpoint, for messages; by default where the tokenizer came from.

    Raises:
        CheckpointError: the template is missing or wrong, or takes longer than `MAX_SECONDS`.
        UsageError: a text, which holds no special token itself, completes one with the characters around it.
    """
    source = source or str(getattr(processor.tokenizer, "name_or_path", ""))
    text = _render(processor, conversation, add_generation_prompt, source)
    special = SpecialTokens.of(processor.tokenizer)
    if any(special.may_join(part["text"]) for turn in conversation for part in turn["content"] if "text" in part):
        # Without the texts, the template writes the same special tokens.
        plain = _render(processor, _without_texts(conversation), add_generation_prompt, source)
        extra = special.counts(text) - special.counts(plain)
        if extra:
            raise UsageError(f"a text forms {min(extra)} with the characters around it; write its ends in other words")
    return text


def _without_texts(conversation: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**turn, "content": [{**part, "text": "x"} if "text" in part else part for part in turn["content"]]}
        for turn in conversation
    ]


def _render(processor: Any, conversation: Sequence[dict[str, Any]], add_generation_prompt: bool, source: str) -> str:
    # A variable that a template does not have would be taken for an option of the processor.
    more = {"enable_thinking": False} if "enable_thinking" in str(getattr(processor, "chat_template", None)) else {}
    with checkpoint_errors(f"the chat template of {source}", _ADVICE):
        try:
            with _limited_time():
                text: str = processor.apply_chat_template(
                    conversation, tokenize=False, add_generation_prompt=add_generation_prompt, **more
                )
                return text
        except _TooSlowError:
            raise CheckpointError(
                f"the chat template of {source} takes more than {MAX_SECONDS:g} s; {_ADVICE}"
            ) from None


@contextmanager
def _limited_time() -> Iterator[None]:
    """Stop template code in the block after `MAX_SECONDS` of this thread's CPU time.

    Jinja compiles a template to Python code without a limit of its own, so that each of its lines checks the time.
    """
    end, before = time.thread_time() + MAX_SECONDS, sys.gettrace()

    def check(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG001
        if frame.f_code.co_filename != "<template>":
            return None
        if time.thread_time() > end:
            raise _TooSlowError
        return check

    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)
