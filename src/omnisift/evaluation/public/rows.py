"""Questions of benchmarks in one format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.jsonl import parse_jsonl, write_jsonl

LETTERS = "ABCDEFGHIJ"
"""Letters of options."""


@dataclass(frozen=True)
class Row:
    """One question on one video, or one video to describe."""

    id: str
    """Index in the metadata file and a digest of the question, so that rows of different files do not pair."""
    benchmark: str
    video: str
    """Name of the video in the metadata. Questions on one video are one cluster."""
    path: str
    """Path of the video."""
    question: str
    """Without options; for captions the instruction."""
    options: tuple[str, ...] = ()
    """As in the metadata, with the letter: ``A. A cat.``; empty for captions."""
    answer: str = ""
    """The correct letter; for captions the reference."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Groups for partial scores, such as ``{"domain": "Music"}``. Papers print the first."""
    events: tuple[str, ...] = ()
    """For captions: the events of the video."""

    @property
    def is_choice(self) -> bool:
        """Whether the answer is a letter."""
        return bool(self.options)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with the same keys for every row of a benchmark."""
        return asdict(self) | {"options": list(self.options), "events": list(self.events)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Read what `to_dict` returns. Empty groups, which a table library may add, are dropped."""
        groups = {name: str(value) for name, value in (data.get("groups") or {}).items() if value}
        known = {name: str(data[name]) for name in ("id", "benchmark", "video", "path", "question", "answer")}
        return cls(**known, options=tuple(data["options"]), groups=groups, events=tuple(data.get("events") or ()))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows to ``path``, one JSON object per line."""
    write_jsonl(path, (row.to_dict() for row in rows))


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file from `write_rows`.

    Raises:
        UsageError: The file is not one.
    """
    try:
        return [Row.from_dict(data) for _, data in parse_jsonl(path.read_text(encoding="utf-8"), path)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} has no rows of a benchmark ({type(error).__name__}); convert the metadata again"
        ) from error
