"""The text of a request to the server, checked like the questions of `omnisift ask` before a chat template is filled.

vLLM turns the names of special tokens in a client's text into the tokens, so that a message could begin another turn.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.questions import MAX_CHARACTERS, check_text
from omnisift.utils.special_tokens import SpecialTokens

VARIABLE = "OMNISIFT_SPECIAL_TOKENS"
"""Environment variable with the special tokens of the served model, as JSON."""
_QWEN = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|vision_pad|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
)
"""Those of Qwen2.5-Omni."""
_NOT_RENDERED = frozenset(("prompt", "suffix", "stop", "stop_sequences", "bad_words", "chat_template"))
"""Keys of a request whose text no chat template gets. ``prompt`` is that of ``/v1/completions``: a client writes the
whole prompt itself, special tokens included."""


def to_environment(special: SpecialTokens) -> dict[str, str]:
    """The variable that tells the server's processes the special tokens of their model."""
    names = {"special": special.special, "written": special.written, "media": sorted(special.media)}
    return {VARIABLE: json.dumps(names)}


def from_environment() -> SpecialTokens:
    """The special tokens that `to_environment` wrote; those of Qwen2.5-Omni if the variable is not set."""
    names = json.loads(os.environ.get(VARIABLE) or json.dumps({"special": _QWEN}))
    return SpecialTokens(**names)


class RequestText:
    """Collects the body of one request and checks its text at the end.

    Args:
        special: the special tokens of the served model.
    """

    def __init__(self, special: SpecialTokens) -> None:
        self._special = special
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        """Take a part of the body; it is not copied."""
        self._parts.append(part)

    def problem(self) -> str | None:
        """What is wrong with the text of the complete body; None if nothing is. Forgets the body."""
        parts, self._parts = self._parts, []
        firsts = {token[0].encode() for token in (*self._special.special, *self._special.written)} | {b"\\u", b"<"}
        # A clip in base64 has none of these characters, so that most requests are parsed only once, by vLLM.
        if not any(first in part for part in parts for first in firsts) and not any(p.endswith(b"\\") for p in parts):
            return None
        body = b"".join(parts)
        try:
            # Pairs instead of dicts show every value of a key that occurs twice.
            request = json.loads(body, object_pairs_hook=_Object)
        except (ValueError, RecursionError):  # a form with a file, or what vLLM refuses
            return self._in_bytes(body)
        try:
            for text, is_answer in _texts(request):
                if len(text) > MAX_CHARACTERS and not any(first.decode() in text for first in firsts):
                    continue  # a clip in base64
                check_text(text, "the text of a request", self._special, is_answer=is_answer)
        except UsageError as error:
            return str(error)
        except RecursionError:
            return "the request is nested too deeply; send a flat one"
        return None

    def _in_bytes(self, body: bytes) -> str | None:
        names = "|".join(re.escape(token) for token in self._special.special) or "(?!)"
        match = re.search(names.encode(), body)
        if match is None:
            return None
        return f"the text of a request contains {match.group().decode()}, a special token of the model; leave it out"


class _Object(list[Any]):
    """The pairs of a JSON object."""


def _texts(value: Any, is_answer: bool = False, is_top: bool = True) -> Iterator[tuple[str, bool]]:
    """(text, whether an assistant wrote it) of all strings that can get into a prompt, names of keys included."""
    if isinstance(value, str):
        yield value, is_answer
    elif isinstance(value, _Object):
        is_answer = is_answer or ("role", "assistant") in value
        for key, inner in value:
            if is_top and key in _NOT_RENDERED:
                continue
            yield key, is_answer
            yield from _texts(inner, is_answer, False)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, is_answer, False)
