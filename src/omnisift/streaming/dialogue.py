"""The text of a prompt with a stream, and the questions and answers before the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omnisift.media import Media
from omnisift.pipeline.chat_template import render_chat
from omnisift.pipeline.prompt import prompt_text


def dialogue_text(
    processor: Any, media: Media, turns: Sequence[tuple[str, str]], question: str, system: str | None
) -> str:
    """The text of a prompt with earlier questions and answers."""
    if not turns:
        return prompt_text(processor, media, question, system)
    first = [{"type": "video", "video": "-"}, {"type": "text", "text": turns[0][0]}]
    conversation: list[dict[str, Any]] = [{"role": "user", "content": first}]
    if system is not None:
        conversation.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    asked = [*(text for text, _ in turns[1:]), question]
    for (_, answer), text in zip(turns, asked, strict=True):
        conversation.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        conversation.append({"role": "user", "content": [{"type": "text", "text": text}]})
    return render_chat(processor, conversation, add_generation_prompt=True)
