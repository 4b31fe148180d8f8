"""Pass generated text on while `generate` runs, through a Transformers streamer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def text_streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    """A streamer for ``generate`` that calls ``on_text`` with each finished piece of the answer.

    The pieces joined are the decoded answer, apart from white space at both ends.
    """
    from transformers import TextStreamer

    class CallbackStreamer(TextStreamer):
        """Calls ``on_text`` where the base class prints."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
            if text:
                on_text(text)

    return CallbackStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
