"""Rows without an answer, for training on the answers that the model itself gives."""

from __future__ import annotations

from typing import Any

from omnisift.training.data.turns import PAIRS, conversation_key

NO_ANSWER = "-"
"""Stands for an answer that a row lacks."""


def with_answer(row: Any) -> Any:
    """The row, with `NO_ANSWER` where its last question has no answer; anything else than such a row as it is."""
    if not isinstance(row, dict):
        return row
    if "file_name" in row:
        listed = row.get("qa")
        pairs = {"qa": [_answered(pair, "question", "answer") for pair in listed]} if isinstance(listed, list) else {}
        return _answered(row, "question", "answer") | pairs
    key = conversation_key(row)
    if key in PAIRS:
        return _answered(row, str(key), PAIRS[str(key)][-1])
    turns = [] if key is None else row[key]
    last = turns[-1] if isinstance(turns, list) and turns else None
    if not isinstance(last, dict):
        return row
    if last.get("role", last.get("from")) in ("user", "human"):
        return row | {key: [*turns, {"role": "assistant", "content": NO_ANSWER}]}
    return row | {key: [*turns[:-1], _answered(last, "human", "assistant")]}


def _answered(pair: Any, question: str, answer: str) -> Any:
    is_open = isinstance(pair, dict) and pair.get(question) is not None and pair.get(answer) in (None, "")
    return pair | {answer: NO_ANSWER} if is_open else pair
