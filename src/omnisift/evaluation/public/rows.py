"""One question of a benchmark, whatever file it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.atomic_io import write_atomic

LETTERS = "ABCDEFGHIJ"
"""What options may be called."""


@dataclass(frozen=True)
class Row:
    """One question about one video, or one video to be described."""

    id: str
    """Place in the metadata file and a digest of the question, so that rows of different files never pair by chance."""
    benchmark: str
    video: str
    """The video as the metadata names it. Questions about one video are one cluster."""
    path: str
    """Where the video lies."""
    question: str
    """Without options; for descriptions the instruction."""
    options: tuple[str, ...] = ()
    """As the metadata writes them, letter included: ``A. A cat.``; empty for descriptions."""
    answer: str = ""
    """The right letter; for descriptions the reference caption."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """What scores are split by: ``{"domain": "Music"}``. The first is the one that papers print."""
    events: tuple[str, ...] = ()
    """For descriptions: what happens in the video, for the judge."""

    @property
    def is_choice(self) -> bool:
        """Whether it is answered by a letter."""
        return bool(self.options)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the same keys for every row of a benchmark."""
        return asdict(self) | {"options": list(self.options), "events": list(self.events)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The inverse of `to_dict`. A library for tables may have added empty groups; they fall away."""
        groups = {name: str(value) for name, value in (data.get("groups") or {}).items() if value}
        known = {name: str(data[name]) for name in ("id", "benchmark", "video", "path", "question", "answer")}
        return cls(**known, options=tuple(data["options"]), groups=groups, events=tuple(data.get("events") or ()))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """One JSON object a line."""
    write_atomic(path, "".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` wrote. Raises `UsageError` for anything else."""
    try:
        return [Row.from_dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} holds no rows of ours ({type(error).__name__}); convert the metadata again"
        ) from error
