"""The tasks of a run: which questions each clip gets, and the row made from the answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from omnisift.batch.engine import EngineAnswer
from omnisift.batch.items import Item
from omnisift.batch.sources import read_text
from omnisift.errors import UsageError
from omnisift.utils.questions import check_question

CAPTION_REQUEST = "Describe what is seen and heard in this clip."
NAMES = ("caption", "qa", "moderate")
_YES_OR_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


class Task(Protocol):
    """What a run does with each clip; plain data, so that it can be sent to other machines."""

    name: ClassVar[str]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must not change during a run, JSON-ready."""

    def questions(self, item: Item) -> list[str]:
        """Return the questions about the clip of ``item``, at least one."""

    def result(self, answers: Sequence[EngineAnswer]) -> dict[str, Any]:
        """Return the task's own fields of a row.

        Args:
            answers: one per question, in the order of `questions`.
        """


@dataclass(frozen=True)
class Caption:
    """A description of each clip."""

    name: ClassVar[str] = "caption"
    request: str = CAPTION_REQUEST

    @property
    def settings(self) -> dict[str, Any]:
        """The request."""
        return {"request": self.request}

    def questions(self, item: Item) -> list[str]:  # noqa: ARG002  the same for all items
        """Return the request."""
        return [self.request]

    def result(self, answers: Sequence[EngineAnswer]) -> dict[str, Any]:
        """Return ``answer``."""
        return {"answer": answers[0].text}


@dataclass(frozen=True)
class QuestionAnswering:
    """The answer to the item's own question. Each row holds the question, so it is not a setting."""

    name: ClassVar[str] = "qa"

    @property
    def settings(self) -> dict[str, Any]:
        """No settings."""
        return {}

    def questions(self, item: Item) -> list[str]:
        """Return the item's question. Raises `UsageError` if it has none."""
        if item.question is None:
            raise UsageError(f"{item.id} has no question; give --question or --questions")
        return [item.question]

    def result(self, answers: Sequence[EngineAnswer]) -> dict[str, Any]:
        """Return ``answer``."""
        return {"answer": answers[0].text}


@dataclass(frozen=True)
class Moderate:
    """Named rules, each a yes-or-no question; the answer yes is a hit."""

    name: ClassVar[str] = "moderate"
    rules: Mapping[str, str]
    """Rule -> question."""

    @property
    def settings(self) -> dict[str, Any]:
        """The rules."""
        return {"rules": dict(self.rules)}

    def questions(self, item: Item) -> list[str]:  # noqa: ARG002  the same for all items
        """Return one question per rule."""
        return list(self.rules.values())

    def result(self, answers: Sequence[EngineAnswer]) -> dict[str, Any]:
        """Return ``hits`` (rules answered with yes), ``unclear`` (neither yes nor no) and ``answers`` (raw texts)."""
        texts = {rule: answer.text for rule, answer in zip(self.rules, answers, strict=True)}
        verdicts = {rule: parse_yes_no(text) for rule, text in texts.items()}
        return {
            "hits": [rule for rule, verdict in verdicts.items() if verdict],
            "unclear": [rule for rule, verdict in verdicts.items() if verdict is None],
            "answers": texts,
        }


def parse_yes_no(text: str) -> bool | None:
    """Return True or False if the first word of ``text`` is yes or no, None for any other text."""
    match = _YES_OR_NO.match(text)
    return None if match is None else match[1].lower() == "yes"


def make_task(name: str, rules: Path | None = None) -> Task:
    """Make a task by its name.

    Args:
        name: ``caption``, ``qa`` or ``moderate``.
        rules: file of rules; required for ``moderate`` and refused for the others.

    Raises:
        UsageError: an unknown name, a missing or superfluous rule file, or one that can't be read.
    """
    if name not in NAMES:
        raise UsageError(f"no task {name!r}; choose one of: {', '.join(NAMES)}")
    if (name == "moderate") != (rules is not None):
        raise UsageError("--task moderate needs --rules FILE, and no other task takes it")
    if rules is not None:
        return Moderate(read_rules(rules))
    return Caption() if name == "caption" else QuestionAnswering()


def read_rules(path: Path) -> dict[str, str]:
    """Read a rule file: ``name: question`` on each line, or a mapping in YAML (``.yaml``, ``.yml``).

    Returns:
        Rule -> question, in the order of the file.

    Raises:
        UsageError: the file can't be read, holds no rules, a rule without name or question, or a name twice.
    """
    text = read_text(path, "a rule file with `name: question` on each line")
    pairs = _yaml_pairs(path, text) if path.suffix.lower() in (".yaml", ".yml") else _plain_pairs(path, text)
    rules: dict[str, str] = {}
    for name, question in pairs:
        if not name or not question:
            raise UsageError(f"{path}: rule {name!r} with question {question!r}; write `name: question`")
        check_question(name + question, f"{path}: rule {name!r}")
        if name in rules:
            raise UsageError(f"{path}: two rules are named {name!r}; give each its own name")
        rules[name] = question
    if not rules:
        raise UsageError(f"{path} holds no rule; write `name: question` on each line")
    return rules


def _plain_pairs(path: Path, text: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.split("\n")]
    parts = [line.partition(":") for line in lines if line and not line.startswith("#")]
    if not all(colon for _, colon, _ in parts):
        raise UsageError(f"{path}: a line without a colon; write `name: question` on each line")
    return [(name.strip(), question.strip()) for name, _, question in parts]


def _yaml_pairs(path: Path, text: str) -> list[tuple[str, str]]:
    """Read nodes instead of a dict, in which the second of two equal names would silently replace the first."""
    import yaml

    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply; write `name: question` on each line") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if node is None:
        return []
    pairs = node.value if isinstance(node, yaml.MappingNode) else None
    if pairs is None or not all(isinstance(part, yaml.ScalarNode) for pair in pairs for part in pair):
        raise UsageError(f"{path}: rules are plain pairs of name and question; write `name: question`")
    return [(name.value.strip(), question.value.strip()) for name, question in pairs]
