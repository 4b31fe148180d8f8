"""What a ledger adds up to: rows done and failed, tokens, seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Summary:
    """Counts over rows; each row is added once."""

    done: int = 0
    """Rows with an answer."""
    errors: Counter[str] = field(default_factory=Counter)
    """Type of error -> rows."""
    first: dict[str, str] = field(default_factory=dict)
    """The first few failures: id -> message."""
    tokens: int = 0
    """Video and audio tokens of the rows with an answer, uncompressed."""
    kept: int = 0
    """Those that the language model read."""
    seconds: float = 0.0
    """Wall-clock seconds of work on all rows, failed ones included."""
    hits: Counter[str] = field(default_factory=Counter)
    """Rule -> rows that it hit; moderation alone has any."""
    unclear: int = 0
    """Rows with a rule that was answered with neither yes nor no."""

    FIRST = 5

    @property
    def failed(self) -> int:
        """Rows with an error."""
        return sum(self.errors.values())

    @property
    def rows(self) -> int:
        """All of them: a failure stays in the denominator."""
        return self.done + self.failed

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row."""
        self.seconds += row["seconds"]["total"]
        if "error" in row:
            self.errors[row["error"]["type"]] += 1
            if len(self.first) < self.FIRST:
                self.first[row["id"]] = row["error"]["message"]
            return
        self.done += 1
        tokens = row["tokens"]
        self.tokens += tokens["video"] + tokens["audio"]
        self.kept += tokens["video_kept"] + tokens["audio_kept"]
        self.hits.update(row.get("hits", ()))
        self.unclear += bool(row.get("unclear"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``hits`` and ``unclear`` only where there are rules."""
        found = {
            "rows": self.rows,
            "done": self.done,
            "failed": self.failed,
            "errors": dict(self.errors),
            "tokens": {"full": self.tokens, "kept": self.kept},
            "retained_ratio": round(self.kept / self.tokens, 6) if self.tokens else 1.0,
            "seconds": round(self.seconds, 3),
        }
        return found | ({"hits": dict(self.hits), "unclear": self.unclear} if self.hits or self.unclear else {})
