"""What is asked of a clip, and what row comes of the answers: caption, question answering, moderation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from omnisift.batch.engine import Reply
from omnisift.batch.items import Item
from omnisift.batch.sources import read_text
from omnisift.errors import UsageError

CAPTION_REQUEST = "Describe what is seen and heard in this clip."
NAMES = ("caption", "qa", "moderate")
_VERDICT = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


class Task(Protocol):
    """Plain data, so that it can be sent to other machines."""

    name: ClassVar[str]

    @property
    def settings(self) -> dict[str, Any]:
        """What must stay the same while a run goes on, JSON-ready."""

    def questions(self, item: Item) -> list[str]:
        """What the model is asked about the clip, at least one."""

    def result(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """The task's own part of a row, from one reply for each question."""


@dataclass(frozen=True)
class Caption:
    """A description of each clip."""

    name: ClassVar[str] = "caption"
    request: str = CAPTION_REQUEST

    @property
    def settings(self) -> dict[str, Any]:
        """The request."""
        return {"request": self.request}

    def questions(self, item: Item) -> list[str]:  # noqa: ARG002  the same for all
        """The request."""
        return [self.request]

    def result(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """``answer``."""
        return {"answer": replies[0].text}


@dataclass(frozen=True)
class Question:
    """The item's own question. Each row holds it, so it is no setting."""

    name: ClassVar[str] = "qa"

    @property
    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    def questions(self, item: Item) -> list[str]:
        """The item's."""
        if item.question is None:
            raise UsageError(f"{item.id} has no question; give --question or --questions")
        return [item.question]

    def result(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """``answer``."""
        return {"answer": replies[0].text}


@dataclass(frozen=True)
class Moderate:
    """Named rules, each a question that is asked as it stands and hit by a yes."""

    name: ClassVar[str] = "moderate"
    rules: Mapping[str, str]
    """Rule -> question."""

    @property
    def settings(self) -> dict[str, Any]:
        """The rules."""
        return {"rules": dict(self.rules)}

    def questions(self, item: Item) -> list[str]:  # noqa: ARG002  the same for all
        """One for each rule."""
        return list(self.rules.values())

    def result(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """``hits``: rules answered with yes. ``unclear``: with neither yes nor no. ``answers``: rule -> raw answer."""
        answers = {rule: reply.text for rule, reply in zip(self.rules, replies, strict=True)}
        said = {rule: verdict(text) for rule, text in answers.items()}
        return {
            "hits": [rule for rule, yes in said.items() if yes],
            "unclear": [rule for rule, yes in said.items() if yes is None],
            "answers": answers,
        }


def verdict(text: str) -> bool | None:
    """True or False where the first word is yes or no; None for any other text. Nothing is guessed."""
    found = _VERDICT.match(text)
    return None if found is None else found[1].lower() == "yes"


def make_task(name: str, rules: Path | None = None) -> Task:
    """The task of this name; ``rules`` for ``moderate`` only.

    Raises:
        UsageError: unknown name, rules missing or out of place, or a rule file that is none.
    """
    if name not in NAMES:
        raise UsageError(f"no task {name!r}; choose one of: {', '.join(NAMES)}")
    if (name == "moderate") != (rules is not None):
        raise UsageError("--task moderate needs --rules FILE, and no other task takes it")
    if rules is not None:
        return Moderate(read_rules(rules))
    return Caption() if name == "caption" else Question()


def read_rules(path: Path) -> dict[str, str]:
    """Rule -> question, from a file with ``name: question`` on each line, or the same as YAML (.yaml, .yml).

    Raises:
        UsageError: unreadable, no rules, a rule without question or name, or one name twice.
    """
    text = read_text(path, "a rule file with `name: question` on each line")
    pairs = _yaml_pairs(path, text) if path.suffix.lower() in (".yaml", ".yml") else _plain_pairs(path, text)
    rules: dict[str, str] = {}
    for name, question in pairs:
        if not name or not question:
            raise UsageError(f"{path}: rule {name!r} with question {question!r}; write `name: question`")
        if name in rules:
            raise UsageError(f"{path}: two rules are named {name!r}; give each its own name")
        rules[name] = question
    if not rules:
        raise UsageError(f"{path} holds no rule; write `name: question` on each line")
    return rules


def _plain_pairs(path: Path, text: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.split("\n")]
    found = [line.partition(":") for line in lines if line and not line.startswith("#")]
    if not all(colon for _, colon, _ in found):
        raise UsageError(f"{path}: a line without a colon; write `name: question` on each line")
    return [(name.strip(), question.strip()) for name, _, question in found]


def _yaml_pairs(path: Path, text: str) -> list[tuple[str, str]]:
    """Read as nodes, not as a dict: there the second of two equal names would silently win."""
    import yaml

    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if node is None:
        return []
    pairs = node.value if isinstance(node, yaml.MappingNode) else None
    if pairs is None or not all(isinstance(part, yaml.ScalarNode) for pair in pairs for part in pair):
        raise UsageError(f"{path}: rules are plain pairs of name and question; write `name: question`")
    return [(name.value.strip(), question.value.strip()) for name, question in pairs]
