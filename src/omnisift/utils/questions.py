"""The check of a question that every entry point makes."""

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
    prefix = f"{where}: " if where else ""
    if not isinstance(question, str):
        raise UsageError(f"{prefix}the question must be text, got {type(question).__name__}")
    if not question.strip():
        raise UsageError(f"{prefix}the question is empty; ask something in plain words")
    try:
        question.encode()
    except UnicodeEncodeError:  # undecodable bytes reach Python as lone surrogates
        advice = "correct it" if where else "set the terminal to UTF-8, or type it again"
        raise UsageError(f"{prefix}the question is not UTF-8 text; {advice}") from None
