"""Totals over the rows of a results file: answers and errors, tokens, seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Summary:
    """Totals over rows; each row is added once."""

    done: int = 0
    """Rows with an answer."""
    errors: Counter[str] = field(default_factory=Counter)
    """Type of error -> rows."""
    first_errors: dict[str, str] = field(default_factory=dict)
    """Id -> message of the first `MAX_FIRST_ERRORS` rows with an error."""
    tokens: int = 0
    """Video, audio and text tokens of the rows with an answer, before compression."""
    tokens_kept: int = 0
    """Those that the language model read."""
    has_text: bool = False
    """Whether `tokens` counts tokens of lines of text."""
    seconds: float = 0.0
    """Wall-clock seconds of all rows, including those with an error."""
    hits: Counter[str] = field(default_factory=Counter)
    """Rule -> rows that it hit; only moderation has rules."""
    unclear: int = 0
    """Rows in which a rule was answered with neither yes nor no."""

    MAX_FIRST_ERRORS = 5

    @property
    def failed(self) -> int:
        """Number of rows with an error."""
        return sum(self.errors.values())

    @property
    def rows(self) -> int:
        """Number of all rows, including those with an error."""
        return self.done + self.failed

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row. Raises `KeyError`, `TypeError` or `AttributeError` for a mapping that is not a row."""
        self.seconds += row["seconds"]["total"]
        if "error" in row:
            self.errors[row["error"]["type"]] += 1
            if len(self.first_errors) < self.MAX_FIRST_ERRORS:
                self.first_errors[row["id"]] = row["error"]["message"]
            return
        self.done += 1
        tokens = row["tokens"]
        self.tokens += tokens["video"] + tokens["audio"] + tokens.get("text", 0)
        self.tokens_kept += tokens["video_kept"] + tokens["audio_kept"] + tokens.get("text_kept", 0)
        self.has_text |= "text" in tokens
        self.hits.update(row.get("hits", ()))
        self.unclear += bool(row.get("unclear"))

    def to_dict(self) -> dict[str, Any]:
        """Return the totals, JSON-ready; ``hits`` and ``unclear`` only for runs with rules."""
        totals = {
            "rows": self.rows,
            "done": self.done,
            "failed": self.failed,
            "errors": dict(self.errors),
            "tokens": {"full": self.tokens, "kept": self.tokens_kept},
            "retained_ratio": round(self.tokens_kept / self.tokens, 6) if self.tokens else 1.0,
            "seconds": round(self.seconds, 3),
        }
        return totals | ({"hits": dict(self.hits), "unclear": self.unclear} if self.hits or self.unclear else {})
