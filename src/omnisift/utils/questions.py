"""The checks of a question and a system prompt that every entry point makes."""

from __future__ import annotations

from omnisift.errors import UsageError


def check_question(question: str, where: str = "") -> None:
    """Check that ``question`` is text that a tokenizer accepts, before a clip or a model is read.

    Args:
        question: the text.
        where: file and line that it comes from, for the message.

    Raises:
        UsageError: it is not a string, is empty, or came from bytes that are not UTF-8.
    """
    check_text(question, f"{where}: the question" if where else "the question")
    if not question.strip():
        prefix = f"{where}: " if where else ""
        raise UsageError(f"{prefix}the question is empty; ask something in plain words")


def check_text(text: str, what: str) -> None:
    """Check that ``text`` is text that a tokenizer accepts; ``what`` names it in the message.

    Raises:
        UsageError: it is not a string, or came from bytes that are not UTF-8.
    """
    if not isinstance(text, str):
        raise UsageError(f"{what} must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:  # undecodable bytes reach Python as lone surrogates
        raise UsageError(f"{what} is not UTF-8 text; set the terminal to UTF-8, or correct it") from None
