"""Limits on what requests send and on what the server fetches for them, set by the server's owner."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from omnisift.errors import UsageError

VARIABLE = "OMNISIFT_FETCH"
"""Environment variable with which `omnisift serve` hands the limits to the server's processes, as JSON."""
_MEGABYTE = 1 << 20
_LONGEST = 86400
"""Seconds of a day; sockets accept no timeout of any size."""


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Limits on requests and fetches; no request can change them."""

    max_media: int = 200
    """Size of a fetched file in megabytes; a request may be a third larger, because base64 is."""
    fetch_timeout: float = 60.0
    """Seconds of a fetch in total, with the wait for its turn and all redirects."""
    max_fetches: int = 4
    """Number of fetches at once, in each process of the server."""
    max_redirects: int = 0
    """Number of redirects that are followed, each to a URL that is checked like the first."""

    def check(self) -> None:
        """Check the values. Raises `UsageError` for one that is out of range."""
        for name, minimum in (("max_media", 1), ("max_fetches", 1), ("max_redirects", 0)):
            if getattr(self, name) < minimum:
                raise UsageError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        if not 0 < self.fetch_timeout <= _LONGEST:
            raise UsageError(f"fetch_timeout must be more than 0 and at most {_LONGEST} s, got {self.fetch_timeout:g}")

    @property
    def max_bytes(self) -> int:
        """Size of a fetched file in bytes."""
        return self.max_media * _MEGABYTE

    @property
    def max_body_bytes(self) -> int:
        """Size of a request in bytes: a file of the largest size in base64, and a megabyte of text."""
        return self.max_bytes * 4 // 3 + _MEGABYTE

    @classmethod
    def from_environment(cls) -> FetchLimits:
        """Return the limits in the environment, or the defaults."""
        return cls(**json.loads(os.environ.get(VARIABLE, "{}")))

    def to_environment(self) -> dict[str, str]:
        """Return the variable for the environment of the server's processes."""
        return {VARIABLE: json.dumps(asdict(self))}
