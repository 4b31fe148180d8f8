"""The pieces of work of a run: a clip, and in question answering what is asked about it. One item, one row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisift.batch.sources import clips_of, read_text
from omnisift.errors import UsageError


@dataclass(frozen=True)
class Item:
    """One row to be."""

    id: str
    """Unique in a run: the clip's name; its second question has ``name#2``, and so on."""
    clip: str
    """As the folder or list names it."""
    path: Path
    """Where it lies, absolute."""
    question: str | None = None
    """What is asked about this clip, where the task does not say it."""


def items_of(source: Path, question: str | None = None, questions: Path | None = None) -> list[Item]:
    """All items of a folder or list.

    Args:
        source: see `clips_of`.
        question: asked of every clip.
        questions: JSONL with ``clip`` and ``question``, or with ``file_name`` and a list ``qa``, as
            `omnisift make-dataset` writes; a clip may be asked several.

    Raises:
        UsageError: also an empty question, one about a clip that is not there, or a clip without one.
    """
    if question is not None and not question.strip():
        raise UsageError("the question is empty; ask something in plain words")
    root, names = clips_of(source)
    # Not resolved: a link keeps the name that the user sees.
    paths = {name: Path(root.absolute(), name) for name in names}
    if questions is None:
        return [Item(name, name, paths[name], question) for name in names]
    asked = _questions(questions, names)
    items = [
        Item(name if number == 1 else f"{name}#{number}", name, paths[name], text)
        for name in names
        for number, text in enumerate(asked[name], start=1)
    ]
    if len({item.id for item in items}) < len(items):
        raise UsageError(f"{source}: a clip has the name of another's question (name#2); rename it")
    return items


def _questions(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in names}
    for where, row in _rows(path):
        clip = row.get("clip", row.get("file_name"))
        if not isinstance(clip, str) or clip not in found:
            raise UsageError(f"{where}: 'clip' is {clip!r}, which is not among the clips of this run")
        found[clip] += _asked(row, where)
    without = [name for name in names if not found[name]]
    if without:
        raise UsageError(f"{path} asks nothing about {len(without)} clips, first {without[0]}; add it, or use a list")
    return found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    # Not splitlines: a text in JSON may hold signs that it takes for the end of a line.
    for number, line in enumerate(read_text(path, "a .jsonl file with questions").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}:{number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}:{number}: not an object with 'clip' and 'question'")
        yield f"{path}:{number}", row


def _asked(row: dict[str, Any], where: str) -> list[str]:
    pairs = row.get("qa", [row])
    texts = [pair.get("question") for pair in pairs if isinstance(pair, dict)] if isinstance(pairs, list) else []
    if not texts or len(texts) < len(pairs) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UsageError(f"{where}: needs a 'question' in plain words, or a list 'qa' of such")
    return [str(text) for text in texts]
