"""The one check of all text of users: questions, system prompts, rules, requests and training rows."""

from __future__ import annotations

from numbers import Integral

from omnisift.errors import UsageError
from omnisift.utils.parsing import shown
from omnisift.utils.special_tokens import SpecialTokens

MAX_CHARACTERS = 1_000_000
"""Characters of one text; no context of a supported model holds as many."""


def check_question(question: str, where: str = "", special: SpecialTokens | None = None) -> None:
    """Check that ``question`` is plain text, before a clip or a model is read.

    Args:
        question: the text.
        where: file and line that it comes from, for the message.
        special: tokens of the model that it must not contain; None where the model is not known yet.

    Raises:
        UsageError: as `check_text`, or it is empty.
    """
    check_text(question, f"{where}: the question" if where else "the question", special)
    if not question.strip():
        prefix = f"{where}: " if where else ""
        raise UsageError(f"{prefix}the question is empty; ask something in plain words")


def check_text(text: str, what: str, special: SpecialTokens | None = None, *, is_answer: bool = False) -> None:
    """Check that ``text`` means the same to a model as to its reader.

    Args:
        text: the text.
        what: its name in the message.
        special: tokens of the model that it must not contain; None where the model is not known yet.
        is_answer: whether it is an answer to learn, which may hold tokens that a model writes, such as ``<think>``.

    Raises:
        UsageError: it is not a string, is longer than `MAX_CHARACTERS`, came from bytes that are not UTF-8, or contains
            a special token.
    """
    if not isinstance(text, str):
        raise UsageError(f"{what} must be text, got {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"{what} has {len(text):,} characters; shorten it to at most {MAX_CHARACTERS:,}")
    try:
        text.encode()
    except UnicodeEncodeError:  # undecodable bytes reach Python as lone surrogates
        raise UsageError(
            f"{what} is not UTF-8 text or contains a lone surrogate; set the terminal to UTF-8, or correct it"
        ) from None
    token = None if special is None else special.find(text, is_answer)
    if special is not None and token is not None:
        meaning = "which stands for a clip in a prompt" if token in special.media else "a special token of the model"
        raise UsageError(f"{what} contains {token}, {meaning}; leave it out or write it in other words")


def check_max_new_tokens(value: int) -> None:
    """Check the length limit of an answer.

    Raises:
        UsageError: it is not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise UsageError(f"max_new_tokens must be an integer of at least 1, got {shown(value)}")
